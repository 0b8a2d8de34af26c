"""What the broker in this process is made of."""
