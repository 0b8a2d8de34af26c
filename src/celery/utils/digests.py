"""Digests that name things and keep no secrets.

`hashlib` loads OpenSSL, four megabytes in every process of a worker; the interpreter has these algorithms of its own.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any
from uuid import UUID


def _algorithm(name: str) -> Any:
    try:
        return getattr(import_module(f"_{name}"), name)
    except ImportError:  # an interpreter that was built without
        return partial(import_module("hashlib").new, name, usedforsecurity=False)


_md5, _sha1 = _algorithm("md5"), _algorithm("sha1")


def sha1(data: bytes) -> str:
    """The SHA-1 of *data*, as hexadecimal digits."""
    return str(_sha1(data).hexdigest())


def uuid3(namespace: UUID, name: str) -> UUID:
    """As `uuid.uuid3`."""
    return UUID(bytes=_md5(namespace.bytes + name.encode()).digest(), version=3)


def uuid5(namespace: UUID, name: str) -> UUID:
    """As `uuid.uuid5`."""
    return UUID(bytes=_sha1(namespace.bytes + name.encode()).digest()[:16], version=5)


__all__ = ["sha1", "uuid3", "uuid5"]
