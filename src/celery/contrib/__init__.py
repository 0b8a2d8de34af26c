"""Helpers beside the core: for tests, for documentation."""
