"""The key that messages are signed with."""

from __future__ import annotations

from typing import Any

from celery.security.utils import crypto, reraise_errors


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


class PrivateKey:
    """An RSA key in PEM. Raises SecurityError for what is none."""

    def __init__(self, key: str | bytes, password: str | bytes | None = None) -> None:
        with reraise_errors("Invalid private key: {0!r}", (ValueError, TypeError)):
            self._key = crypto("hazmat.primitives.serialization").load_pem_private_key(
                _bytes(key), password=None if password is None else _bytes(password)
            )
        if not isinstance(self._key, crypto("hazmat.primitives.asymmetric.rsa").RSAPrivateKey):
            raise ValueError("Non-RSA keys are not supported.")  # noqa: TRY004 - as with the original

    def sign(self, data: str | bytes, digest: Any) -> bytes:
        """The signature of *data*."""
        padding = crypto("hazmat.primitives.asymmetric.padding")
        with reraise_errors("Unable to sign data: {0!r}"):
            pss = padding.PSS(mgf=padding.MGF1(digest), salt_length=padding.PSS.MAX_LENGTH)
            signature: bytes = self._key.sign(_bytes(data), pss, digest)
            return signature


__all__ = ["PrivateKey"]
