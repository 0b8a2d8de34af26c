"""The pools of this package keep the contract; what only the prefork pool has is tested below."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from celery.concurrency import nursery
from celery.concurrency.asyncio import AsyncioPool
from celery.concurrency.base import PoolOptions
from celery.concurrency.prefork import PreforkPool
from celery.concurrency.solo import SoloPool
from celery.concurrency.thread import ThreadPool
from celery.contrib.testing.contract import pools
from celery.contrib.testing.contract.pools import PoolContract
from celery.exceptions import PoolError


class TestSoloPool(PoolContract):
    pool_class = SoloPool
    inline = True


class TestThreadPool(PoolContract):
    pool_class = ThreadPool


class TestAsyncioPool(PoolContract):
    pool_class = AsyncioPool


class TestPreforkPool(PoolContract):
    pool_class = PreforkPool


class TestPreforkPoolOneByOne(PoolContract):
    """`-O fair`: exactly one job a process."""

    pool_class = PreforkPool
    options: ClassVar[dict[str, Any]] = {"window": 1}

    test_tiny_jobs_open_the_window = None


class TestPreforkPoolElsewhere(PoolContract):
    """Where a system does not let a worker adopt the children of its template."""

    pool_class = PreforkPool

    @pytest.fixture(autouse=True)
    def _elsewhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(nursery, "can_adopt", lambda: False)
        monkeypatch.delattr(os, "pidfd_open", raising=False)


def test_interpreters_are_watched_without_handles_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    pool = PreforkPool(1, pools.boot, PoolOptions(start_method="spawn"))
    pool.start()
    try:
        found = pools.by_tag(pools.run(pool, pools.jobs("exit 3", f"die {int(signal.SIGKILL)}", "echo x")))
        assert [found[tag].detail for tag in (1, 2, 3)] == [
            "Worker exited prematurely: exitcode 3.",
            "Worker exited prematurely: signal 9 (SIGKILL).",
            "x",
        ]
    finally:
        assert pool.stop(30) == []


def test_spawned_children_run_jobs() -> None:
    pool = PreforkPool(1, pools.boot, PoolOptions(start_method="spawn"))
    pool.start()
    try:
        (outcome,) = pools.run(pool, pools.jobs("pid"))
        assert int(outcome.detail) == pool.pids()[0] != os.getpid()
    finally:
        assert pool.stop(30) == []


def test_an_unknown_start_method_says_what_there_is() -> None:
    with pytest.raises(PoolError, match="'fork' or 'spawn'"):
        PreforkPool(1, pools.boot, PoolOptions(start_method="clone"))


def test_a_boot_that_never_ends_is_a_pool_error() -> None:
    pool = PreforkPool(1, signal.pause, PoolOptions(start_timeout=0.3))  # type: ignore[arg-type]
    with pytest.raises(PoolError, match=r"not ready within 0\.3 seconds"):
        pool.start()


def test_jobs_are_taken_back_from_a_child_that_cannot_answer() -> None:
    pool = PreforkPool(1, pools.boot)
    pool.start()
    try:
        pools.run(pool, pools.jobs(*["echo x"] * 300))
        os.kill(pool.pids()[0], signal.SIGSTOP)
        work = pools.jobs(*["echo x"] * 20, first=1001)
        pool.submit(work)
        back = pool.withdraw()
        os.kill(pool.pids()[0], signal.SIGCONT)
        # It may have had the first one before it stopped.
        assert len(back) >= 19
        ended = pools.collect(pool, lambda found: len(found) == 20 - len(back))
        assert {outcome.tag for outcome in ended} | set(back) == {job.tag for job in work}
    finally:
        assert pool.stop(30) == []


# What depends on how the process began is tried in a process of its own.

SCRIPT = """
import atexit, os, sys
from pathlib import Path
from celery.concurrency.base import PoolOptions
from celery.concurrency.prefork import PreforkPool
from celery.contrib.testing.contract import pools
sys.path.insert(0, {folder!r})

def note(text):
    pools.write_line({diary!r}, text)

def boot():
    atexit.register(note, "exit handler")
    return pools.boot()

note(__name__)
if __name__ == "__main__":
{body}
"""


def run_script(folder: Path, body: str) -> list[str]:
    """Run a script that uses a pool; the lines that it and its children wrote to a diary."""
    diary, script = folder / "diary", folder / "script.py"
    indented = "".join(f"    {line}\n" for line in body.strip().splitlines())
    script.write_text(SCRIPT.format(folder=str(folder), diary=str(diary), body=indented))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return diary.read_text().splitlines()


def test_children_do_not_run_the_main_module_again(tmp_path: Path) -> None:
    body = """
pool = PreforkPool(2, pools.boot)
pool.start()
pools.run(pool, pools.jobs("echo x"))
pool.stop(30)
"""
    assert run_script(tmp_path, body) == ["__main__"]


def test_a_boot_in_the_main_module_works_and_exit_handlers_run(tmp_path: Path) -> None:
    body = """
pool = PreforkPool(1, boot)
pool.start()
pools.run(pool, pools.jobs("echo x"))
pool.stop(30)
"""
    assert run_script(tmp_path, body) == ["__main__", "__mp_main__", "exit handler"]


def test_a_main_module_that_starts_a_pool_wherever_it_is_imported_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text("""
from celery.concurrency.prefork import PreforkPool
from celery.contrib.testing.contract import pools

def boot():
    return pools.boot()

PreforkPool(1, boot).start()
""")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "The pool could not start: RuntimeError: The main module starts processes when it is imported" in done.stderr


def test_a_pool_that_nobody_stops_does_not_keep_its_process(tmp_path: Path) -> None:
    body = f"""
pool = PreforkPool(2, pools.boot)
pool.start()
pool.submit(pools.jobs("hold {tmp_path}/never", "echo x"))
note("end of script")
"""
    assert run_script(tmp_path, body) == ["__main__", "end of script"]


def test_modules_are_imported_once_in_the_template(tmp_path: Path) -> None:
    (tmp_path / "preloaded.py").write_text(
        "import os\nfrom celery.contrib.testing.contract.pools import write_line\n"
        f"write_line({str(tmp_path / 'diary')!r}, 'imported')\n"
    )
    (tmp_path / "booting.py").write_text(
        "import preloaded\nfrom celery.contrib.testing.contract import pools\ndef boot(): return pools.boot()\n"
    )
    body = """
import booting
pool = PreforkPool(3, booting.boot, PoolOptions(preload=("broken_or_missing", "preloaded")))
pool.start()
pools.run(pool, pools.jobs(*["exit 1"] * 3))
pools.run(pool, pools.jobs("echo x"))
pool.stop(30)
"""
    # Once here and once in the template; not in the six children.
    assert run_script(tmp_path, body.replace("(preload", "(max_tasks=100, preload")) == ["__main__", *["imported"] * 2]


def test_a_template_that_has_ended_is_made_again_for_a_replacement(tmp_path: Path) -> None:
    (tmp_path / "preloaded.py").write_text(
        "from celery.contrib.testing.contract.pools import write_line\n"
        f"write_line({str(tmp_path / 'diary')!r}, 'imported')\n"
    )
    body = """
pool = PreforkPool(3, pools.boot, PoolOptions(preload=("preloaded",)))
pool.start()
note("started")
pools.run(pool, pools.jobs(*["exit 1"] * 3))
pools.run(pool, pools.jobs("echo x"))
pool.stop(30)
"""
    assert run_script(tmp_path, body) == ["__main__", "imported", "started", "imported"]


def test_a_preloaded_module_that_breaks_is_a_pool_error(tmp_path: Path) -> None:
    (tmp_path / "breaking.py").write_text("raise RuntimeError('no settings here')\n")
    (tmp_path / "booting.py").write_text("def boot():\n    import breaking\n")
    body = """
import booting
from celery.exceptions import PoolError
try:
    PreforkPool(1, booting.boot, PoolOptions(preload=("breaking",))).start()
except PoolError as error:
    note(str(error))
"""
    assert run_script(tmp_path, body)[-1] == "The pool could not start: RuntimeError: no settings here"


def test_instrumentation_can_wrap_both_ends_of_a_child(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(
        f"""
from celery.concurrency import prefork
from celery.contrib.testing.contract.pools import write_line
def wrap(name):
    wrapped = getattr(prefork, name)
    def wrapper(*args, **kwargs):
        write_line({str(tmp_path / "diary")!r}, name)
        return wrapped(*args, **kwargs)
    setattr(prefork, name, wrapper)
wrap("process_initializer")
wrap("process_destructor")
"""
    )
    body = """
pool = PreforkPool(1, pools.boot, PoolOptions(preload=("agent",)))
pool.start()
pools.run(pool, pools.jobs("echo x"))
pool.stop(30)
"""
    assert run_script(tmp_path, body) == ["__main__", "process_initializer", "process_destructor"]
