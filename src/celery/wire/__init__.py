"""Floor 1: bytes and values. No input or output, no application."""
