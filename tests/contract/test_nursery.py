"""Where the children of the prefork pool come from, and what they are."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from ast import literal_eval
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from celery.concurrency import nursery, prefork, template
from celery.concurrency.base import PoolOptions
from celery.concurrency.frames import OUTCOME_HEADER, decode_notice
from celery.concurrency.prefork import PreforkPool
from celery.contrib.testing.contract import pools
from celery.exceptions import PoolError
from celery.wire.message import Job

PROBE = """
import multiprocessing, os, subprocess, sys, time
from celery.wire.message import Outcome

def boot():
    return lambda job: Outcome(job.tag, "SUCCESS", detail=repr(eval(job.envelope)))
"""
PR_GET_CHILD_SUBREAPER = 37

needs_adoption = pytest.mark.skipif(
    not nursery.can_adopt(), reason="capability: this system does not give orphans to a worker"
)
Make = Callable[..., PreforkPool]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Make a pool whose jobs are expressions; it is terminated after the test."""
    (tmp_path / "probe.py").write_text(PROBE)
    monkeypatch.syspath_prepend(tmp_path)
    probe = import_module("probe")
    made: list[PreforkPool] = []

    def start(size: int = 1, **options: Any) -> PreforkPool:
        made.append(PreforkPool(size, probe.boot, PoolOptions(**options)))
        made[-1].start()
        return made[-1]

    yield start
    for pool in made:
        pool.terminate()
    del sys.modules["probe"]


def ask(pool: PreforkPool, expression: str) -> Any:
    (outcome,) = pools.run(pool, [Job(1, expression.encode())])
    return literal_eval(outcome.detail)


def exit_in(pool: PreforkPool) -> None:
    """Have a child end in the middle of a job."""
    assert pools.run(pool, [Job(1, b"os._exit(1)")])[0].state == "LOST"


# -- what a child is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_is_where_its_worker_is(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    pool = make(start_method=method, max_tasks=100)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["program", "argument"])
    monkeypatch.syspath_prepend(tmp_path / "more")
    exit_in(pool)
    assert ask(pool, "sys.argv") == ["program", "argument"]
    assert ask(pool, "sys.path") == sys.path
    assert ask(pool, "os.getcwd()") == str(tmp_path)
    assert ask(pool, "sys.stdin.read()") == ""
    assert ask(pool, "multiprocessing.current_process().name") == "ForkPoolWorker-2"
    assert ask(pool, "multiprocessing.current_process().authkey") == multiprocessing.current_process().authkey
    assert ask(pool, "'CELERY_POOL_PATH' in os.environ") is False


def test_a_worker_whose_folder_is_gone_has_children(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert ask(make(), "1 + 1") == 2


@needs_adoption
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_are_the_workers_own(make: Make, method: str) -> None:
    pool = make(2, start_method=method)
    assert ask(pool, "os.getppid()") == os.getpid()
    exit_in(pool)
    assert ask(pool, "os.getppid()") == os.getpid()


@needs_adoption
def test_other_orphans_are_not_adopted(make: Make) -> None:
    pool = make()
    flag = ctypes.c_int(-1)
    assert ctypes.CDLL(None).prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(flag), 0, 0, 0) == 0
    assert flag.value == 0
    orphan = int(ask(pool, "subprocess.run(['sh', '-c', 'sleep 30 >/dev/null 2>&1 & echo $!'], stdout=-1).stdout"))
    try:
        parent = Path(f"/proc/{orphan}/stat").read_text().rpartition(")")[2].split()[1]
        assert int(parent) not in {os.getpid(), *pool.pids()}
    finally:
        os.kill(orphan, signal.SIGKILL)


def test_what_children_end_by_is_known_where_the_worker_ignores_its_children(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        pool = make()
        assert pools.run(pool, [Job(1, b"os._exit(1)")])[0].detail == "Worker exited prematurely: exitcode None."
        assert ask(pool, "1 + 1") == 2
    finally:
        signal.signal(signal.SIGCHLD, before)


# -- how long a template is there ---------------------------------------------------------------------------------


@needs_adoption
def test_a_template_ends_when_its_children_stand(make: Make) -> None:
    pool = make(2)
    assert not pool.nursery.runs
    assert not alive(pool.nursery.pid)
    assert pool.wait_hint() is None


@needs_adoption
def test_a_template_that_made_a_replacement_stays_for_a_while(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make()
    exit_in(pool)
    assert ask(pool, "1 + 1") == 2
    first = pool.nursery.pid
    exit_in(pool)
    assert ask(pool, "1 + 1") == 2
    assert pool.nursery.pid == first
    monkeypatch.setattr(prefork, "LINGER", 0.1)
    exit_in(pool)
    assert ask(pool, "1 + 1") == 2
    pools.wait_until(pool, lambda: not pool.nursery.runs)
    assert not alive(first)
    assert ask(pool, "1 + 1") == 2
    exit_in(pool)
    assert ask(pool, "1 + 1") == 2
    assert pool.nursery.pid != first


@pytest.mark.parametrize("options", [{"max_tasks": 100}, {"max_memory": 10**9}])
def test_a_template_stays_where_children_are_replaced_as_a_matter_of_course(
    make: Make, options: dict[str, Any]
) -> None:
    pool = make(**options)
    template = pool.nursery.pid
    assert pool.nursery.runs
    assert ask(pool, "1 + 1") == 2
    assert pool.nursery.pid == template
    assert alive(template)
    pool.stop(30)
    assert not alive(template)


# -- templates that fail -------------------------------------------------------------------------------------------


def test_a_template_that_dies_at_an_import_is_a_pool_error(make: Make, tmp_path: Path) -> None:
    (tmp_path / "deadly.py").write_text("import os\nos._exit(3)\n")
    with pytest.raises(PoolError, match="template of the pool processes has ended by itself, with exit code 3"):
        make(preload=("deadly",))


def test_a_template_that_never_ends_its_import_is_a_pool_error(make: Make, tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text("import signal\nsignal.pause()\n")
    with pytest.raises(PoolError, match=r"not ready within 0\.5 seconds"):
        make(preload=("endless",), start_timeout=0.5)


def test_a_replacement_whose_template_hangs_is_tried_again(make: Make, tmp_path: Path) -> None:
    (tmp_path / "moody.py").write_text(
        f"import signal\nfrom pathlib import Path\nif Path({str(tmp_path / 'stuck')!r}).exists(): signal.pause()\n"
    )
    pool = make(preload=("moody",), start_timeout=30.0)
    pool.options = replace(pool.options, start_timeout=5.0)
    stuck = tmp_path / "stuck"
    stuck.touch()
    pool.nursery.end()
    exit_in(pool)
    first = pool.nursery.pid
    pools.wait_until(pool, lambda: not alive(first))
    stuck.unlink()
    assert ask(pool, "1 + 1") == 2


def test_an_interpreter_that_is_gone_is_a_pool_error(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(FileNotFoundError, match="/nowhere/python"):
        make()


def test_a_process_that_cannot_be_forked_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    ours, theirs = socket.socketpair()
    control, other = socket.socketpair()
    with ours, theirs, control, other:
        template.Bearer(control, -1).bear(b"", [theirs.fileno()])
        said = ours.recv(4096)
    assert "Resource temporarily unavailable" in decode_notice(said[OUTCOME_HEADER.size :]).text


# -- being closed at any moment ------------------------------------------------------------------------------------


@pytest.mark.parametrize("adopts", [True, False])
@pytest.mark.parametrize("pause", [0.0, 0.001, 0.005, 0.02, 0.1, 0.3])
def test_a_pool_ends_while_its_children_are_born(
    make: Make, monkeypatch: pytest.MonkeyPatch, pause: float, adopts: bool
) -> None:
    if not adopts:
        monkeypatch.setattr(nursery, "can_adopt", lambda: False)
    pool = make(1)
    pool.resize(6)
    until = time.monotonic() + pause
    while time.monotonic() < until:
        pools.wait_for_news(pool, until)
        pool.poll()
    assert pool.terminate() == []
    assert pool.pids() == []


def test_children_in_their_birth_go_with_a_killed_worker(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(60)\n")
    script = tmp_path / "parent.py"
    script.write_text(
        "from celery.concurrency.base import PoolOptions\nfrom celery.concurrency.prefork import PreforkPool\n"
        "from celery.contrib.testing.contract import pools\n"
        "pool = PreforkPool(1, pools.boot)\npool.start()\n"
        "pool.nursery.modules = ('slow',)\npool.resize(3)\nprint(pool.nursery.pid, flush=True)\n"
        "import time\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, cwd=tmp_path) as parent:
        assert parent.stdout is not None
        template = int(parent.stdout.readline())
        assert alive(template)
        parent.kill()
        parent.wait()
        until = time.monotonic() + 30
        while alive(template):
            assert time.monotonic() < until
            time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
