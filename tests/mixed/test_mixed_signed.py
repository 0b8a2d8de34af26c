"""Signed messages between the original and us, each with a key of its own: both read what the other has signed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from rig.original import PACKAGES, VERSION, Party, ending, environment

APPLICATION = Path(__file__).parent / "application" / "signed_app.py"


@pytest.fixture(scope="session")
def original_that_signs() -> Path:
    try:
        return environment(f"original-celery-{VERSION}-auth", *PACKAGES, "cryptography")
    except LookupError as error:
        pytest.skip(str(error))


def make_signer(name: str, folder: Path) -> dict[str, str]:
    """A key and its certificate, which everybody with the store in *folder* believes."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    who, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), datetime.now(UTC)
    built = x509.CertificateBuilder(
        who, who, key.public_key(), x509.random_serial_number(), now - timedelta(1), now + timedelta(2)
    )
    store = folder / "store"
    store.mkdir(exist_ok=True)
    pem = serialization.Encoding.PEM
    key_file, certificate = folder / f"{name}.key", store / f"{name}.pem"
    certificate.write_bytes(built.sign(key, hashes.SHA256()).public_bytes(pem))
    plain = serialization.NoEncryption()
    key_file.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, plain))
    return {"SIGNED_KEY": str(key_file), "SIGNED_CERT": str(certificate), "SIGNED_STORE": str(store / "*.pem")}


@pytest.fixture
def parties(original_that_signs: Path, redis_url: str, tmp_path: Path) -> Iterator[tuple[Party, Party, Path]]:
    """(ours, the original, the log of the tasks)"""
    log = tmp_path / "tasks.log"
    log.touch()
    settings = json.dumps({"broker_url": redis_url, "result_backend": redis_url})
    env = {"MIXED_SETTINGS": settings, "MIXED_LOG": str(log)}
    ours = Party("ours", sys.executable, APPLICATION, tmp_path / "ours", env | make_signer("ours", tmp_path))
    theirs = Party(
        "theirs", original_that_signs, APPLICATION, tmp_path / "theirs", env | make_signer("theirs", tmp_path)
    )
    with ending(ours, theirs):
        yield ours, theirs, log


SEND = """
print(add.delay({0}, 1).get(timeout=60))
try:
    fail.delay().get(timeout=60)
except Exception as error:
    print(type(error).__name__, error)
"""
STRANGER = """
app.conf.update(task_serializer="json", accept_content=["json", "auth"])
print(add.apply_async((100, 1), serializer="json").id)
"""


@pytest.mark.parametrize("which", ["ours", "theirs"])
def test_each_reads_what_the_other_has_signed(parties: tuple[Party, Party, Path], which: str) -> None:
    ours, theirs, log = parties
    working, sending = (ours, theirs) if which == "ours" else (theirs, ours)
    working.worker("-P", "solo")
    for number, party in enumerate((sending, working)):
        assert party.run(SEND.format(number)).splitlines() == [str(number + 1), "KeyError 'signed'"]
    sending.run(STRANGER)  # not signed
    assert sending.run(SEND.format(7)).splitlines()[0] == "8"
    assert log.read_text().splitlines() == ["add 0 1", "add 1 1", "add 7 1"]


def test_who_is_not_in_the_store_is_not_believed(parties: tuple[Party, Party, Path], tmp_path: Path) -> None:
    ours, theirs, log = parties
    aside = tmp_path / "aside"
    aside.mkdir()
    signer = make_signer("stranger", aside)
    ours.worker("-P", "solo")
    theirs.env |= {"SIGNED_KEY": signer["SIGNED_KEY"], "SIGNED_CERT": signer["SIGNED_CERT"]}
    theirs.env["SIGNED_STORE"] = signer["SIGNED_STORE"]
    theirs.run("add.delay(66, 1)")
    assert ours.run(SEND.format(1)).splitlines()[0] == "2"
    assert log.read_text().splitlines() == ["add 1 1"]
    [entry] = ours.run("print([entry.reason for entry in app.broker.entries('dead')])").splitlines()
    assert "Unknown certificate" in entry
