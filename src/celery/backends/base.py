"""The result backends of this package and the classes that others subclass, under their public path."""

from __future__ import annotations

from typing import Any, NamedTuple

from celery._state import get_current_task
from celery.backends.backend import (
    E_CHORD_NO_BACKEND,
    EXCEPTION_ABLE_CODECS,
    Backend,
    logger,
    unpickle_backend,
)
from celery.backends.compression import (
    COMPRESSED_PAYLOAD_MAGIC,
    E_UNKNOWN_COMPRESSION,
    compress_payload,
    decompress_payload,
)
from celery.backends.disabled import E_NO_BACKEND, DisabledBackend
from celery.backends.keyvalue import BaseKeyValueStoreBackend, KeyValueStoreBackend
from celery.backends.polling import BaseBackend, BaseDictBackend, SyncBackendMixin
from celery.backends.results import ResultBackend

MESSAGE_BUFFER_MAX = 8192
"""How many results that nobody has asked for yet a backend of messages keeps."""


class pending_results_t(NamedTuple):  # noqa: N801 - the public name
    """Results that are waited for: those that the backend keeps alive, and those that somebody else does."""

    concrete: Any
    weak: Any


__all__ = [
    "COMPRESSED_PAYLOAD_MAGIC",
    "EXCEPTION_ABLE_CODECS",
    "E_CHORD_NO_BACKEND",
    "E_NO_BACKEND",
    "E_UNKNOWN_COMPRESSION",
    "MESSAGE_BUFFER_MAX",
    "Backend",
    "BaseBackend",
    "BaseDictBackend",
    "BaseKeyValueStoreBackend",
    "DisabledBackend",
    "KeyValueStoreBackend",
    "ResultBackend",
    "SyncBackendMixin",
    "compress_payload",
    "decompress_payload",
    "get_current_task",
    "logger",
    "pending_results_t",
    "unpickle_backend",
]
