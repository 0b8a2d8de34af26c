"""Helpers for tests of applications and of drivers."""
