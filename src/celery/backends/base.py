"""The result backends of this package and the classes that others subclass, under their public path."""

from __future__ import annotations

from celery._state import get_current_task
from celery.backends.backend import (
    E_CHORD_NO_BACKEND,
    EXCEPTION_ABLE_CODECS,
    Backend,
    logger,
    unpickle_backend,
)
from celery.backends.compression import COMPRESSED_PAYLOAD_MAGIC, compress_payload, decompress_payload
from celery.backends.disabled import E_NO_BACKEND, DisabledBackend
from celery.backends.keyvalue import BaseKeyValueStoreBackend, KeyValueStoreBackend
from celery.backends.polling import BaseBackend, BaseDictBackend, SyncBackendMixin
from celery.backends.results import ResultBackend

__all__ = [
    "COMPRESSED_PAYLOAD_MAGIC",
    "EXCEPTION_ABLE_CODECS",
    "E_CHORD_NO_BACKEND",
    "E_NO_BACKEND",
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
    "unpickle_backend",
]
