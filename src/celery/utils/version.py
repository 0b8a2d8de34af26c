"""Which version this is: of the API, and of this implementation of it."""

from __future__ import annotations

from functools import cache

from celery.utils.plugins import version


@cache
def our_version() -> str:
    """The version of this implementation."""
    return (version("celery") or "").partition("+celeriac.")[2] or "development"


def version_banner(api: str, series: str) -> str:
    """Both versions, as every command and report writes them: `5.7.0 (celeriac 0.1.0)`."""
    return f"{api} ({series} {our_version()})"


__all__ = ["our_version", "version_banner"]
