"""Brokers: one file a store. `base` is the port they fill."""
