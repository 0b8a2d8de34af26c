"""Pools: how jobs run beside each other. `base` is the port they fill."""
