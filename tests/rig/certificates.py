"""Certificates of a test: an authority, and what it signed for a server on 127.0.0.1 and for a client."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


class Certificates:
    """Files in PEM below one folder, made by the program `openssl`; the test is skipped where there is none.

    They are as RFC 5280 wants them, which Python looks at from 3.13 on.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.authority, self.authority_key = self._pair("authority")
        self._openssl(
            *("req", "-x509", "-subj", "/CN=authority", "-addext", "keyUsage=critical,keyCertSign,cRLSign"),
            *("-out", self.authority, *self._new(self.authority_key)),
        )
        self.server, self.server_key = self._signed("server", "subjectAltName=IP:127.0.0.1,DNS:localhost")
        self.client, self.client_key = self._signed("client", "extendedKeyUsage=clientAuth")

    def _pair(self, name: str) -> tuple[Path, Path]:
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def _signed(self, name: str, extension: str) -> tuple[Path, Path]:
        certificate, key = self._pair(name)
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        extensions.write_text(f"{extension}\nauthorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n")
        self._openssl("req", "-subj", f"/CN={name}", "-out", request, *self._new(key))
        self._openssl(
            *("x509", "-req", "-in", request, "-CA", self.authority, "-CAkey", self.authority_key, "-CAcreateserial"),
            *("-extfile", extensions, "-days", "2", "-out", certificate),
        )
        return certificate, key

    @staticmethod
    def _new(key: Path) -> tuple[str | Path, ...]:
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
        return (*curve, "-nodes", "-keyout", key, "-days", "2")

    @staticmethod
    def _openssl(*words: str | Path) -> None:
        program = shutil.which("openssl")
        if program is None:
            pytest.skip("openssl is not installed: apt-get install openssl")
        done = subprocess.run([program, *map(str, words)], capture_output=True, text=True, timeout=30, check=False)
        if done.returncode:
            raise RuntimeError(f"openssl {words[0]} failed: {done.stderr}")
