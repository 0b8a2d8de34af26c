"""Compressed results: a marker, the content type of the codec, the data. Readers without the setting know them too."""

from __future__ import annotations

from celery.exceptions import DecodeError, ImproperlyConfigured
from celery.wire.compression import compress, decompress

COMPRESSED_PAYLOAD_MAGIC = b"\x00celery-compressed\x00"

E_UNKNOWN_COMPRESSION = "result_compression is {0!r}, which is no codec known here; use one of {1}."
KNOWN = "'gzip', 'bzip2' or 'lzma'"


def prepare_compression(compression: str | None) -> str | None:
    """The codec to use, checked; None for none. Raises `ImproperlyConfigured` for an unknown one."""
    if not compression:
        return None
    try:
        compress(b"", compression)
    except (DecodeError, LookupError, ValueError) as exc:
        raise ImproperlyConfigured(E_UNKNOWN_COMPRESSION.format(compression, KNOWN)) from exc
    return compression


def compress_payload(payload: bytes, compression: str) -> bytes:
    """*payload* compressed and marked."""
    data, content_type = compress(payload, compression)
    return b"%s%s\x00%s" % (COMPRESSED_PAYLOAD_MAGIC, content_type.encode(), data)


def decompress_payload(payload: bytes) -> bytes:
    """The inverse of `compress_payload`; what is not marked is returned as it is."""
    if not payload.startswith(COMPRESSED_PAYLOAD_MAGIC):
        return payload
    content_type, _, data = payload[len(COMPRESSED_PAYLOAD_MAGIC) :].partition(b"\x00")
    return decompress(data, content_type.decode())


__all__ = ["COMPRESSED_PAYLOAD_MAGIC", "compress_payload", "decompress_payload", "prepare_compression"]
