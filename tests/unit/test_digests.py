"""Digests and names made of them are those of the standard library."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import uuid

import pytest

from celery.utils import digests

NAMES = ["", "a", "a task", "übergröße", "\N{SNOWMAN}" * 100]


@pytest.mark.parametrize("name", NAMES)
def test_digests_are_those_of_hashlib(name: str) -> None:
    assert digests.sha1(name.encode()) == hashlib.sha1(name.encode()).hexdigest()
    assert digests.uuid3(uuid.NAMESPACE_OID, name) == uuid.uuid3(uuid.NAMESPACE_OID, name)
    assert digests.uuid5(uuid.NAMESPACE_OID, name) == uuid.uuid5(uuid.NAMESPACE_OID, name)


def test_an_interpreter_without_its_own_asks_hashlib() -> None:
    code = (
        "import sys; sys.modules.update(_md5=None, _sha1=None); import uuid; from celery.utils import digests\n"
        "assert 'hashlib' in sys.modules\n"
        "assert digests.uuid3(uuid.NAMESPACE_OID, 'x') == uuid.uuid3(uuid.NAMESPACE_OID, 'x')\n"
        "assert digests.uuid5(uuid.NAMESPACE_OID, 'x') == uuid.uuid5(uuid.NAMESPACE_OID, 'x')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
