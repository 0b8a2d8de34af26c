"""Whose signatures are believed."""

from __future__ import annotations

import datetime as dt
import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from celery.exceptions import SecurityError
from celery.security.utils import crypto, reraise_errors


class Certificate:
    """An X.509 certificate in PEM, of an RSA key. Raises SecurityError for what is none."""

    def __init__(self, cert: str | bytes) -> None:
        with reraise_errors("Invalid certificate: {0!r}", (ValueError,)):
            pem = cert.encode() if isinstance(cert, str) else cert
            self._cert = crypto("x509").load_pem_x509_certificate(pem)
        if not isinstance(self._cert.public_key(), crypto("hazmat.primitives.asymmetric.rsa").RSAPublicKey):
            raise ValueError("Non-RSA certificates are not supported.")  # noqa: TRY004 - as with the original

    def has_expired(self) -> bool:
        until: dt.datetime = self._cert.not_valid_after_utc
        return dt.datetime.now(dt.UTC) >= until

    def get_pubkey(self) -> Any:
        return self._cert.public_key()

    def get_serial_number(self) -> int:
        return int(self._cert.serial_number)

    def get_issuer(self) -> str:
        """The attributes of who issued it, with spaces between them."""
        return " ".join(attribute.value for attribute in self._cert.issuer)

    def get_id(self) -> str:
        """What a message names its signer by: issuer and serial number."""
        return f"{self.get_issuer()} {self.get_serial_number()}"

    def verify(self, data: bytes, signature: bytes, digest: Any) -> None:
        """Raise SecurityError unless *signature* is one of *data* by the key of this certificate."""
        padding = crypto("hazmat.primitives.asymmetric.padding")
        with reraise_errors("Bad signature: {0!r}"):
            pss = padding.PSS(mgf=padding.MGF1(digest), salt_length=padding.PSS.MAX_LENGTH)
            self.get_pubkey().verify(signature, data, pss, digest)


class CertStore:
    """Certificates by their id."""

    def __init__(self) -> None:
        self._certs: dict[str, Certificate] = {}

    def itercerts(self) -> Iterator[Certificate]:
        yield from self._certs.values()

    def __getitem__(self, id: str | bytes) -> Certificate:
        name = id.decode() if isinstance(id, bytes) else id
        try:
            return self._certs[name]
        except KeyError:
            raise SecurityError(f"Unknown certificate: {name!r}") from None

    def add_cert(self, cert: Certificate) -> None:
        if cert.get_id() in self._certs:
            raise SecurityError(f"Duplicate certificate: {cert.get_id()!r}")
        self._certs[cert.get_id()] = cert


class FSCertStore(CertStore):
    """The certificates of a folder, or of the files that a pattern finds. Raises SecurityError for one that expired."""

    def __init__(self, path: str) -> None:
        super().__init__()
        pattern = str(Path(path) / "*") if Path(path).is_dir() else path
        for name in sorted(glob.glob(pattern)):  # noqa: PTH207 - a pattern of the user's, which may be absolute
            cert = Certificate(Path(name).read_bytes())
            if cert.has_expired():
                raise SecurityError(f"Expired certificate: {cert.get_id()!r}")
            self.add_cert(cert)


__all__ = ["CertStore", "Certificate", "FSCertStore"]
