"""The result store in a folder: the contract, the files of original Celery, and who else is at it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from celery import Celery
from celery.backends.filesystem import FilesystemBackend, FilesystemStore
from celery.backends.store import TERMINAL, Store
from celery.contrib.testing.app import TestApp
from celery.contrib.testing.contract import StoreContract
from celery.exceptions import BackendError, ImproperlyConfigured
from celery.utils.clock import FakeClock
from celery.wire.message import Record
from contract.chords import run_tasks_and_chords

SOON = 30.0


@pytest.fixture
def store(tmp_path: Path) -> FilesystemStore:
    return FilesystemStore(f"file://{tmp_path}")


class TestFilesystemStore(StoreContract):
    @pytest.fixture
    def connect(self, clock: FakeClock, tmp_path: Path) -> Callable[..., Store]:
        return lambda **options: FilesystemStore(f"file://{tmp_path}", options=options, clock=clock)


def meta(state: str, result: object = None) -> bytes:
    return json.dumps({"status": state, "result": result, "traceback": None, "children": []}).encode()


def test_a_result_is_one_file_called_like_its_key(tmp_path: Path) -> None:
    app = TestApp(broker="memory://files", backend=f"file://{tmp_path}")
    app.backend.store_result("a", {"é": 1}, "SUCCESS")
    app.backend.store_result("b", None, "STARTED")
    assert {path.name for path in tmp_path.iterdir()} == {"celery-task-meta-a", "celery-task-meta-b", "celeriac.lock"}
    assert json.loads((tmp_path / "celery-task-meta-a").read_bytes())["result"] == {"é": 1}
    app.backend.store_result("c", ValueError("no"), "FAILURE")
    assert (tmp_path / "celeriac.celery-task-meta-c").exists(), "whose failure it is stands beside it"
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith("celery-")} == {
        f"celery-task-meta-{name}" for name in "abc"
    }
    app.close()


@pytest.mark.parametrize("state", ["STARTED", "SUCCESS", "FAILURE", "REVOKED"])
@pytest.mark.parametrize("new", ["STARTED", "FAILURE", "SUCCESS"])
def test_what_an_original_worker_wrote_obeys_the_rule(
    store: FilesystemStore, tmp_path: Path, state: str, new: str
) -> None:
    (tmp_path / "k").write_bytes(meta(state))
    was = TERMINAL.get(state, 0)
    wins = was == 0 or (was == 1 and new in TERMINAL)
    assert store.put([Record("k", meta(new) + b" ", new, "w")]) == [wins]


def test_what_an_original_worker_writes_over_ours_is_its_own(store: FilesystemStore, tmp_path: Path) -> None:
    store.put([Record("k", meta("FAILURE"), "FAILURE", "w", 1.0)])
    (tmp_path / "k").write_bytes(meta("RETRY"))
    assert store.put([Record("k", meta("STARTED"), "STARTED", "w")]) == [True]


def test_files_without_a_note_end_with_the_setting(tmp_path: Path) -> None:
    clock = FakeClock()
    store = FilesystemStore(f"file://{tmp_path}", options={"expires": 100.0}, clock=clock)
    for name, age in (("old", 101.0), ("young", 99.0)):
        (tmp_path / name).write_bytes(meta("SUCCESS"))
        os.utime(tmp_path / name, (clock.time() - age,) * 2)
    assert store.get(["old"]) == [None]
    assert store.get(["young"]) == [meta("SUCCESS")]
    assert store.expire() == 1
    assert not (tmp_path / "old").exists()
    clock.advance(2.0)
    assert store.expire() == 1
    endless = FilesystemStore(f"file://{tmp_path}", options={"expires": None})
    (tmp_path / "old").write_bytes(b"1")
    os.utime(tmp_path / "old", (0, 0))
    assert endless.get(["old"]) == [b"1"]


def test_keys_of_any_kind(store: FilesystemStore, tmp_path: Path) -> None:
    keys = [
        "with a blank",
        "é\n",
        "x" * 300,
        "x" * 300 + "y",
        "../up",
        "a/b",
        ".",
        "..",
        "",
        "celeriac.lock",
        "é" * 150,
    ]
    store.put([Record(key, key.encode(), "FAILURE", "w") for key in keys])
    assert store.get(keys) == [key.encode() for key in keys]
    assert not (tmp_path.parent / "up").exists()
    assert store.delete(keys) == len(keys)
    assert [path.name for path in tmp_path.iterdir()] == ["celeriac.lock"]


def test_processes_write_one_at_a_time(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from celery.backends.filesystem import FilesystemStore\n"
        "from celery.wire.message import Arrival, Record\n"
        "store = FilesystemStore('file://' + sys.argv[1])\n"
        "won = sum(store.add(f'k{n}', sys.argv[2].encode()) for n in range(100))\n"
        "done = [store.arrive([Arrival('g.', f'id{n}:{n}', b'%d' % n, 400)])[0]\n"
        "        for n in range(int(sys.argv[2]), 400, 4)]\n"
        "print(won, sum(done))\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(number)], stdout=subprocess.PIPE, text=True)
        for number in range(4)
    ]
    said = [process.communicate(timeout=110)[0].split() for process in running]
    assert sum(int(won) for won, _ in said) == 100
    assert sum(int(done) for _, done in said) == 1
    store = FilesystemStore(f"file://{tmp_path}")
    assert store.arrived("g.") == [b"%d" % number for number in range(400)]


def test_no_file_is_ever_half_there(store: FilesystemStore, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from celery.backends.filesystem import FilesystemStore\n"
        "store = FilesystemStore('file://' + sys.argv[1])\n"
        "while True:\n"
        "    for letter in b'ab':\n"
        "        store.set('k', bytes([letter]) * 500_000)\n"
    )
    writing = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    try:
        seen: set[bytes | None] = set()
        deadline = time.monotonic() + SOON
        while len(seen) < 3 and time.monotonic() < deadline:
            seen.update(store.get(["k"]))
    finally:
        writing.kill()
        writing.wait(10)
    assert seen - {None} == {b"a" * 500_000, b"b" * 500_000}
    store.set("k", b"1")
    assert store.get(["k"]) == [b"1"], "whoever dies while it writes lets go of the lock"


def test_tasks_and_chords(tmp_path: Path) -> None:
    app = TestApp(broker="memory://chords", backend=f"file://localhost{tmp_path}")
    run_tasks_and_chords(app)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("file:///no/such/folder", "There is no folder"),
        ("file://host/folder", "names no folder"),
        ("file://", "names no folder"),
    ],
)
def test_urls_that_lead_nowhere(url: str, said: str) -> None:
    app = Celery(broker="memory://", backend=url)
    with pytest.raises(ImproperlyConfigured, match=said):
        app.backend.get_state("a")
    app.close()


def test_blanks_in_the_path(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    store = FilesystemStore(f"file://{tmp_path}/a%20b")
    store.set("k", b"1")
    assert (tmp_path / "a b" / "k").read_bytes() == b"1"


def test_a_folder_that_goes_away_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    store = FilesystemStore(f"file://{tmp_path}/gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(BackendError, match="No such file") as caught:
        store.set("k", b"1")
    assert caught.value.temporary


def test_its_class_can_be_derived_from(tmp_path: Path) -> None:
    class Mine(FilesystemBackend):
        """Somebody's."""

    app = Celery(broker="memory://", backend=f"file://{tmp_path}")
    backend = Mine(app=app)
    backend.store_result("a", 7, "SUCCESS")
    assert app.backend.get_result("a") == 7
    with pytest.raises(ImproperlyConfigured, match="no folder"):
        Mine(url="here", app=app)
    app.close()
