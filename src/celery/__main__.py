"""The program `celery`."""

from __future__ import annotations

import sys
from importlib import import_module

from celery.patching import maybe_patch_concurrency

__all__ = ("main",)


def main() -> None:
    """Run the command line and leave with its exit code."""
    if "multi" not in sys.argv:  # whose workers are processes of their own
        try:
            maybe_patch_concurrency()
        except ImportError as error:
            sys.exit(f"Error: {error}")
    # Not at the top: nothing may be imported before the patches.
    sys.exit(import_module("celery.bin.celery").main())


if __name__ == "__main__":
    main()
