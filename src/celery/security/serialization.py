"""The serializer `auth`: a message of another serializer, with its signature. The format is the original's.

Base64 of five parts with a separator between them: the id of the signer and the signature (both in base64), content
type and encoding of the body, the body.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from importlib import import_module
from pathlib import Path
from typing import Any

from celery.exceptions import DecodeError, EncodeError
from celery.security.certificate import Certificate, CertStore, FSCertStore
from celery.security.key import PrivateKey
from celery.security.utils import get_digest_algorithm, reraise_errors
from celery.wire.serialization import dumps, loads

DEFAULT_SEPARATOR = "\x00\x01"
PARTS = 5


class SecureSerializer:
    """Signs with *key*, and believes whoever has a certificate in *cert_store*."""

    def __init__(
        self,
        key: PrivateKey | None = None,
        cert: Certificate | None = None,
        cert_store: CertStore | None = None,
        digest: str = "sha256",
        serializer: str = "json",
    ) -> None:
        self._key = key
        self._cert = cert
        self._cert_store = cert_store
        self._digest = get_digest_algorithm(digest)
        self._serializer = serializer

    def serialize(self, data: Any) -> str:
        """*data* as signed text. Raises SecurityError for what the inner serializer cannot write."""
        assert self._key is not None
        assert self._cert is not None
        with reraise_errors("Unable to serialize: {0!r}", (EncodeError, TypeError, ValueError)):
            content_type, content_encoding, body = dumps(data, self._serializer)
            signed = body.encode() if isinstance(body, str) else body
            signature = self._key.sign(signed, self._digest)
            signer = self._cert.get_id().encode()
            parts = (b64encode(signer), b64encode(signature), content_type.encode(), content_encoding.encode(), signed)
            return b64encode(DEFAULT_SEPARATOR.encode().join(parts)).decode()

    def deserialize(self, data: str | bytes) -> Any:
        """What was signed. Raises SecurityError for a message that nobody known has signed."""
        assert self._cert_store is not None
        with reraise_errors("Unable to deserialize: {0!r}", (DecodeError, binascii.Error, ValueError, UnicodeError)):
            parts = b64decode(data).split(DEFAULT_SEPARATOR.encode(), PARTS - 1)
            if len(parts) != PARTS:
                raise ValueError("it is no signed message")
            signer, signature, content_type, content_encoding, body = parts
            self._cert_store[b64decode(signer)].verify(body, b64decode(signature), self._digest)
            return loads(body, content_type.decode(), content_encoding.decode(), None)


def register_auth(
    key: str | None = None,
    key_password: str | bytes | None = None,
    cert: str | None = None,
    store: str | None = None,
    digest: str = "sha256",
    serializer: str = "json",
) -> None:
    """Register `auth` with kombu's serializers. *key* and *cert* are PEM files, *store* a folder or a pattern."""
    assert key is not None
    assert cert is not None
    assert store is not None
    made = SecureSerializer(
        PrivateKey(Path(key).read_bytes(), key_password),
        Certificate(Path(cert).read_bytes()),
        FSCertStore(store),
        digest,
        serializer,
    )
    import_module("kombu.serialization").register(
        "auth", made.serialize, made.deserialize, content_type="application/data", content_encoding="utf-8"
    )


__all__ = ["DEFAULT_SEPARATOR", "SecureSerializer", "register_auth"]
