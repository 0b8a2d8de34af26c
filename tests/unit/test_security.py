"""Signed messages: what the original has signed is read, what we sign it reads, and nothing else is believed."""

from __future__ import annotations

import subprocess
import sys
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import kombu.serialization
import pytest

from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.exceptions import ImproperlyConfigured, SecurityError
from celery.security.certificate import Certificate, CertStore, FSCertStore
from celery.security.key import PrivateKey
from celery.security.serialization import SecureSerializer

GOLDEN = Path(__file__).parent / "golden" / "security"
KEY, CERT = GOLDEN / "key.pem", GOLDEN / "cert.pem"
DATA = [["a"], {"b": 1}, {}]


@pytest.fixture
def serializer() -> SecureSerializer:
    return SecureSerializer(PrivateKey(KEY.read_text()), Certificate(CERT.read_text()), FSCertStore(str(CERT)))


@pytest.fixture
def _kombu_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = kombu.serialization.registry
    names = ("_encoders", "_decoders", "_disabled_content_types", "type_to_name", "name_to_type")
    for name in names:
        monkeypatch.setattr(registry, name, getattr(registry, name).copy())


def test_a_message_of_the_original(serializer: SecureSerializer) -> None:
    assert serializer.deserialize((GOLDEN / "message.txt").read_text()) == DATA


def test_what_was_signed_is_what_is_read(serializer: SecureSerializer) -> None:
    signed = serializer.serialize(DATA)
    assert isinstance(signed, str)
    assert serializer.deserialize(signed) == DATA
    assert serializer.deserialize(signed.encode()) == DATA


def test_the_original_reads_ours(serializer: SecureSerializer, original: Path, tmp_path: Path) -> None:
    if subprocess.run([original, "-c", "import cryptography"], capture_output=True, check=False).returncode:
        # The environment of the original has no cryptography: its own way of packing is asked, by hand.
        parts = b64decode(serializer.serialize(DATA)).split(b"\x00\x01", 4)
        assert [b64decode(parts[0]), *parts[2:4]] == [b"signer celery 123456789", b"application/json", b"utf-8"]
        assert len(b64decode(parts[1])) == 256
        return
    code = (
        "import sys\nfrom celery.security.certificate import *\nfrom celery.security.serialization import *\n"
        f"store = FSCertStore({str(CERT)!r})\nprint(SecureSerializer(None, None, store).deserialize(sys.argv[1]))"
    )
    done = subprocess.run(
        [original, "-c", code, serializer.serialize(DATA)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(DATA)


def test_what_was_tampered_with_is_refused(serializer: SecureSerializer) -> None:
    raw = b64decode(serializer.serialize(DATA))
    for bad in (b64encode(raw.replace(b'"b":1', b'"b":2').replace(b'"b": 1', b'"b": 2')), b64encode(b"x"), b"%%%"):
        with pytest.raises(SecurityError):
            serializer.deserialize(bad)
    stranger = SecureSerializer(serializer._key, serializer._cert, CertStore())
    with pytest.raises(SecurityError, match="Unknown certificate: 'signer celery 123456789'"):
        stranger.deserialize(serializer.serialize(DATA))


def test_certificates_and_keys(tmp_path: Path) -> None:
    cert = Certificate(CERT.read_text())
    assert (cert.get_issuer(), cert.get_serial_number(), cert.has_expired()) == ("signer celery", 123456789, False)
    store = CertStore()
    store.add_cert(cert)
    with pytest.raises(SecurityError, match="Duplicate certificate"):
        store.add_cert(cert)
    assert list(store.itercerts()) == [cert]
    with pytest.raises(SecurityError, match="Invalid certificate"):
        Certificate("nothing")
    with pytest.raises(SecurityError, match="Invalid private key"):
        PrivateKey("nothing")


def test_settings_that_are_missing(tmp_path: Path) -> None:
    app = Celery("open", set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match="task_serializer='auth'"):
        app.setup_security()
    app.conf.update(task_serializer="auth", accept_content=["auth"])
    with pytest.raises(ImproperlyConfigured, match="security_key, security_certificate"):
        app.setup_security()


@pytest.mark.usefixtures("_kombu_as_it_was")
def test_a_worker_runs_what_is_signed_and_nothing_else(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/signed.db"
    app = Celery("signed", broker=url, backend=url)
    app.conf.update(
        task_serializer="auth", result_serializer="auth", accept_content=["auth"], security_key=str(KEY),
            security_certificate=str(CERT),
        security_cert_store=str(CERT),
    )  # fmt: skip
    app.setup_security()

    @app.task(shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    with start_worker(app, pool="solo", perform_ping_check=False):
        assert add.delay(1, 2).get(timeout=30) == 3
        open_one: Any = add.apply_async((1, 2), serializer="json")
        with pytest.raises(Exception, match="Refusing"):
            open_one.get(timeout=30)
    app.close()


def test_nothing_of_it_is_loaded_before_it_is_asked_for() -> None:
    code = (
        "import sys, celery; celery.Celery('x'); print('cryptography' in sys.modules, 'celery.security' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
