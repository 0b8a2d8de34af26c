from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from celery.utils.bell import Belfry, Chime, wait_until


def nothing() -> int:
    return 0


def readable(chime: Chime) -> bool:
    return bool(select.select([chime.fileno()], [], [], 0)[0])


def test_chime_remembers_a_ring() -> None:
    chime = Chime()
    assert not readable(chime)
    chime.ring()
    chime.ring()
    assert readable(chime)
    assert chime.wait(10.0)
    assert not readable(chime)
    assert not chime.wait(0.0)
    chime.close()


def test_chime_takes_any_number_of_rings(tmp_path: Path) -> None:
    belfry = Belfry(tmp_path / "bells")
    for chime in (Chime(), belfry.listen("a", changed=nothing)):
        for _ in range(20_000):
            chime.ring()
        assert readable(chime)
        chime.clear()
        assert not readable(chime)
        chime.close()


def test_closing_ends_a_wait() -> None:
    chime = Chime()
    result: list[bool] = []
    waiter = threading.Thread(target=lambda: result.append(chime.wait(None)))
    waiter.start()
    chime.close()
    waiter.join(10.0)
    assert result == [False]
    assert not chime.wait(None)
    chime.ring()


def test_wait_until() -> None:
    chime = Chime()
    answers = iter([False, False, True])
    for _ in range(3):
        chime.ring()
    threading.Timer(0.02, chime.ring).start()
    assert wait_until(chime, lambda: next(answers), 10.0)
    assert not wait_until(chime, lambda: False, 0.01)


def test_rings_reach_those_who_listen_to_the_name(tmp_path: Path) -> None:
    belfry, other = Belfry(tmp_path / "bells"), Belfry(tmp_path / "bells")
    other.ring("messages", ["a"])
    a = belfry.listen("messages", ["a", "b"], changed=nothing)
    c = belfry.listen("messages", ["c"], changed=nothing)
    everything = belfry.listen("messages", changed=nothing)
    results = belfry.listen("results", changed=nothing)
    other.ring("messages", ["b"])
    assert [readable(chime) for chime in (a, c, everything, results)] == [True, False, True, False]
    other.ring("messages")
    assert readable(c)
    assert other.hears("messages")
    assert not other.hears("bus")
    for chime in (a, c, everything, results):
        chime.close()
    assert list((tmp_path / "bells").iterdir()) == []
    belfry.close()
    other.close()


def test_new_listeners_are_heard_at_once(tmp_path: Path) -> None:
    """The time of a folder is coarse: listeners that come within one tick of it must not be overlooked."""
    belfry, other = Belfry(tmp_path / "bells"), Belfry(tmp_path / "bells")
    chimes = []
    for _ in range(100):
        chimes.append(belfry.listen("m", changed=nothing))
        other.ring("m")
        assert chimes[-1].wait(0.0)
    for chime in chimes:
        chime.close()
    belfry.close()
    other.close()


def test_many_names_hear_everything(tmp_path: Path) -> None:
    belfry = Belfry(tmp_path / "bells")
    chime = belfry.listen("m", [f"queue{number}" for number in range(100)], changed=nothing)
    belfry.ring("m", ["queue99"])
    assert chime.wait(0.0)
    chime.close()
    belfry.close()


def test_where_the_folder_cannot_be_made_a_thread_looks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tmp_path.joinpath("bells").write_bytes(b"in the way")
    version = [0]
    chime = Belfry(tmp_path / "bells").listen("messages", changed=lambda: version[0])
    assert "bells" in caplog.text
    version[0] = 1
    assert chime.wait(5)
    chime.close()


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    tmp_path.joinpath("stray").write_bytes(b"")
    chime = Belfry(tmp_path).listen("messages", changed=lambda: 0)
    Belfry(tmp_path).ring("messages")
    assert chime.wait(5)
    assert tmp_path.joinpath("stray").read_bytes() == b""
    chime.close()


def test_pipes_of_dead_processes_are_swept(tmp_path: Path) -> None:
    folder = tmp_path / "bells"
    code = (
        "import os, sys; from pathlib import Path; from celery.utils.bell import Belfry\n"
        "chime = Belfry(Path(sys.argv[1])).listen('m', changed=int); os._exit(0)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, timeout=60, env=environment)
    assert len(list(folder.iterdir())) == 1
    belfry = Belfry(folder)
    belfry.ring("m")
    assert list(folder.iterdir()) == []
    belfry.close()


def test_listener_that_dies_after_it_was_heard(tmp_path: Path) -> None:
    folder = tmp_path / "bells"
    code = (
        "import os, sys; from pathlib import Path; from celery.utils.bell import Belfry\n"
        "chime = Belfry(Path(sys.argv[1])).listen('m', changed=int)\n"
        "print('listening', flush=True); chime.wait(60); print('rung', flush=True); os._exit(0)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        belfry = Belfry(folder)
        belfry.ring("m")
        assert process.stdout.readline() == "rung\n"
        process.wait(30)
    belfry.ring("m")
    assert list(folder.iterdir()) == []
    belfry.close()


def test_without_named_pipes_a_thread_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("this file system has no pipes")

    monkeypatch.setattr(os, "mkfifo", refuse)
    belfry = Belfry(tmp_path / "bells")
    seen = [0]
    chime = belfry.listen("m", changed=lambda: seen[0])
    assert belfry.hears("m")
    belfry.ring("m")
    assert not chime.wait(0.05)
    seen[0] = 1
    assert chime.wait(10.0)
    chime.close()
    assert not belfry.hears("m")
    belfry.close()


def test_what_changes_before_the_thread_has_begun_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.joinpath("bells").write_bytes(b"in the way")
    threads: list[threading.Thread] = []

    def hold(thread: threading.Thread) -> None:
        threads.append(thread)

    monkeypatch.setattr(threading.Thread, "start", hold)
    seen = [0]
    chime = Belfry(tmp_path / "bells").listen("m", changed=lambda: seen[0])
    monkeypatch.undo()
    seen[0] = 1
    threads[0].start()
    assert chime.wait(10.0)
    chime.close()
