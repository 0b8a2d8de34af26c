"""Files that come with the package. There is one question that programs ask here: where the logo is."""

from __future__ import annotations

from pathlib import Path


def get_file(*args: str) -> str:
    """The path of a file beside this module."""
    return str(Path(__file__).parent.joinpath(*args))


def logo() -> bytes:
    """A picture for terminals that show some: this package has none."""
    return b""


__all__ = ["get_file", "logo"]
