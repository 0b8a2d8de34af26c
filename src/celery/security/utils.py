"""Errors of `cryptography` as ours, and its digests by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from celery.exceptions import ImproperlyConfigured, SecurityError

CRYPTOGRAPHY_NOT_INSTALLED = "Signed messages need the package cryptography: pip install celery[auth]."


def crypto(module: str) -> Any:
    """A module of `cryptography`; raises ImproperlyConfigured where that is not installed."""
    try:
        return import_module(f"cryptography.{module}")
    except ModuleNotFoundError as error:
        raise ImproperlyConfigured(CRYPTOGRAPHY_NOT_INSTALLED) from error


def get_digest_algorithm(digest: str = "sha256") -> Any:
    """The digest called *digest*, as `cryptography` has it."""
    return getattr(crypto("hazmat.primitives.hashes"), digest.upper())()


@contextmanager
def reraise_errors(msg: str = "{0!r}", errors: tuple[type[BaseException], ...] | None = None) -> Iterator[None]:
    """Raise SecurityError, with *msg* about it, for *errors* (those of `cryptography`) raised in this block."""
    caught = (crypto("exceptions").InvalidSignature,) if errors is None else errors
    try:
        yield
    except caught as error:
        raise SecurityError(msg.format(error)) from error


__all__ = ["get_digest_algorithm", "reraise_errors"]
