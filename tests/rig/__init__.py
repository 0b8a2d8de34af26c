"""What tests stand on: real servers on ports of their own, and faults between them and us."""
