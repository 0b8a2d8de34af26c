"""Compressed bodies, by the names and content types that kombu uses."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from celery.exceptions import DecodeError, EncodeError
from celery.utils.deferred import deferred

if TYPE_CHECKING:
    import bz2
    import lzma
    import zlib
else:
    bz2 = deferred("bz2")
    lzma = deferred("lzma")
    zlib = deferred("zlib")

MAX_BYTES = 1 << 30
"""What a body may decompress to, in bytes: a few kilobytes on the wire can ask for all the memory of a machine."""


class Method(NamedTuple):
    """A way to compress. `decompress` takes the data and the most bytes it may give back, plus one."""

    content_type: str
    compress: Callable[[bytes], bytes]
    decompress: Callable[[bytes, int], bytes]


def _deflate(data: bytes) -> bytes:
    return zlib.compress(data)


def _inflate(data: bytes, limit: int) -> bytes:
    # 32: both the zlib header, which kombu writes under the name gzip, and the real gzip header.
    reader = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    return _ended(reader.decompress(data, limit), reader.eof, limit)


def _bz2(data: bytes) -> bytes:
    return bz2.compress(data)


def _unbz2(data: bytes, limit: int) -> bytes:
    reader = bz2.BZ2Decompressor()
    return _ended(reader.decompress(data, limit), reader.eof, limit)


def _lzma(data: bytes) -> bytes:
    return lzma.compress(data)


def _unlzma(data: bytes, limit: int) -> bytes:
    reader = lzma.LZMADecompressor()
    return _ended(reader.decompress(data, limit), reader.eof, limit)


def _ended(data: bytes, ended: bool, limit: int) -> bytes:
    if not ended and len(data) < limit:
        raise ValueError("it ends too early")
    return data


def _zstd(module: Any) -> Method:
    return Method(
        "application/zstd",
        lambda data: bytes(module.ZstdCompressor().compress(data)),
        lambda data, limit: bytes(module.ZstdDecompressor().decompressobj().decompress(data)),
    )


def _brotli(module: Any) -> Method:
    return Method(
        "application/x-brotli",
        lambda data: bytes(module.compress(data)),
        lambda data, limit: bytes(module.decompress(data)),
    )


_GZIP = Method("application/x-gzip", _deflate, _inflate)
_BZIP2 = Method("application/x-bz2", _bz2, _unbz2)
_LZMA = Method("application/x-lzma", _lzma, _unlzma)
_METHODS: dict[str, Method] = {
    "gzip": _GZIP,
    "zlib": _GZIP,
    "bzip2": _BZIP2,
    "bzip": _BZIP2,
    "lzma": _LZMA,
    "xz": _LZMA,
}
_METHODS |= {method.content_type: method for method in (_GZIP, _BZIP2, _LZMA)}
_OPTIONAL: dict[str, tuple[str, Callable[[Any], Method]]] = {
    "zstd": ("zstandard", _zstd),
    "zstandard": ("zstandard", _zstd),
    "application/zstd": ("zstandard", _zstd),
    "brotli": ("brotli", _brotli),
    "application/x-brotli": ("brotli", _brotli),
}


def _find(name: str, error: type[EncodeError | DecodeError]) -> Method:
    method = _METHODS.get(name) or _METHODS.get(name.lower())
    if method is not None:
        return method
    optional = _OPTIONAL.get(name.lower())
    if optional is None:
        names = ", ".join(n for n in (*_METHODS, *_OPTIONAL) if "/" not in n)
        raise error(f"There is no compression {name!r}; use one of {names}.")
    package, make = optional
    try:
        module = import_module(package)
    except ImportError as exc:
        raise error(f"The compression {name!r} needs the package {package}: pip install {package}.") from exc
    return _METHODS.setdefault(name.lower(), make(module))


def compress(data: bytes, name: str) -> tuple[bytes, str]:
    """(compressed data, content type) by name or content type; raises `EncodeError` for an unknown one."""
    method = _find(name, EncodeError)
    return method.compress(data), method.content_type


def decompress(data: bytes, content_type: str, *, limit: int = MAX_BYTES) -> bytes:
    """The data; raises `DecodeError` if it is damaged, of an unknown type, or larger than *limit* bytes."""
    method = _find(content_type, DecodeError)
    try:
        plain = method.decompress(data, limit + 1)
    except Exception as exc:  # each library has its own error, and damaged data is all they can mean
        raise DecodeError(f"The data is not the {method.content_type} it should be: {exc}.") from exc
    if len(plain) > limit:
        raise DecodeError(f"The data decompresses to more than {limit} bytes; it was refused.")
    return plain
