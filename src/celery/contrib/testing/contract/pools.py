"""What every pool must do: subclass `PoolContract` in a test module and say which class is to be tested.

```python
class TestMyPool(PoolContract):
    pool_class = MyPool
```

The tests read the pool's `can`, so that a pool without processes skips what needs them.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

from celery.concurrency.base import Pool, PoolOptions
from celery.contrib.testing.contract.player import (
    PATIENCE,
    Player,
    boot,
    boot_that_dies,
    boot_that_fails,
    boot_that_fails_later,
    write_line,
)
from celery.exceptions import PoolError
from celery.utils.descriptors import POLLIN
from celery.wire.message import Job, Outcome

__all__ = [
    "PATIENCE",
    "PoolContract",
    "boot",
    "by_tag",
    "collect",
    "jobs",
    "run",
    "wait_for_news",
    "wait_until",
    "write_line",
]


# -- helpers ---------------------------------------------------------------------------------------------------------


def jobs(*envelopes: str, first: int = 1, **options: Any) -> list[Job]:
    return [Job(tag, envelope.encode(), **options) for tag, envelope in enumerate(envelopes, first)]


def wait_for_news(pool: Pool, until: float) -> None:
    """Sleep as the worker's loop does: until a descriptor or the pool's own hint says that there is something."""
    hint = pool.wait_hint()
    left = until - time.monotonic()
    poller = pool.poller()
    for number in pool.filenos():
        poller.register(number, POLLIN)
    poller.poll(max(0.0, left if hint is None else min(hint, left)) * 1000.0)


def collect(pool: Pool, enough: Callable[[list[Outcome]], bool], seconds: float = PATIENCE) -> list[Outcome]:
    """Poll until *enough* is true of what came; fails after *seconds*."""
    outcomes: list[Outcome] = []
    until = time.monotonic() + seconds
    while True:
        outcomes += pool.poll()
        if enough(outcomes):
            return outcomes
        assert time.monotonic() < until, f"after {seconds} s there are only {len(outcomes)} outcomes: {outcomes[-5:]}"
        wait_for_news(pool, until)


def run(pool: Pool, work: Sequence[Job], seconds: float = PATIENCE) -> list[Outcome]:
    """Feed *work* as `free` allows, and collect an outcome for each; what is returned is handed out again."""
    waiting = list(work)
    by_number = {job.tag: job for job in work}

    def feed(outcomes: list[Outcome]) -> bool:
        back = [outcome for outcome in outcomes if outcome.state == "RETURNED"]
        if back:
            waiting.extend(by_number[outcome.tag] for outcome in back)
            outcomes[:] = [outcome for outcome in outcomes if outcome.state != "RETURNED"]
        count = pool.free()
        if waiting and count:
            pool.submit(waiting[:count])
            del waiting[:count]
        return len(outcomes) >= len(work)

    return collect(pool, feed, seconds)


def wait_until(pool: Pool, condition: Callable[[], object], seconds: float = PATIENCE) -> list[Outcome]:
    """Poll until *condition* holds; the outcomes that came meanwhile."""
    outcomes: list[Outcome] = []
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"after {seconds} s the condition does not hold"
        wait_for_news(pool, min(until, time.monotonic() + 0.02))
        outcomes += pool.poll()
    return outcomes


def by_tag(outcomes: Sequence[Outcome]) -> dict[int, Outcome]:
    """The outcomes by tag; fails where a job has two."""
    twice = [tag for tag, count in Counter(outcome.tag for outcome in outcomes).items() if count > 1]
    assert not twice, f"jobs with more than one outcome: {twice}"
    return {outcome.tag: outcome for outcome in outcomes}


# -- the contract ----------------------------------------------------------------------------------------------------


class PoolContract:
    """The tests every pool passes."""

    pool_class: ClassVar[type[Pool]]
    options: ClassVar[dict[str, Any]] = {"preload": (__name__,)}
    """Options of every pool the tests make."""
    inline: ClassVar[bool] = False
    """`submit` runs jobs before it returns, so that nothing can be done beside one."""

    @pytest.fixture
    def make(self) -> Iterator[Callable[..., Pool]]:
        """Make and start a pool; it is terminated after the test."""
        made: list[Pool] = []

        def start(size: int = 2, boot: Any = boot, **options: Any) -> Pool:
            pool = self.pool_class(size, boot, PoolOptions(**{**self.options, **options}))
            made.append(pool)
            pool.start()
            return pool

        yield start
        for pool in made:
            pool.terminate()

    def need(self, *capabilities: str) -> None:
        missing = [name for name in capabilities if not getattr(self.pool_class.can, name)]
        if missing:
            pytest.skip(f"capability: this pool has no {', '.join(missing)}")

    def need_jobs_beside(self) -> None:
        if self.inline:
            pytest.skip("capability: this pool runs jobs inside submit()")

    # every pool

    def test_every_job_has_exactly_one_outcome(self, make: Callable[..., Pool]) -> None:
        pool = make()
        outcomes = by_tag(run(pool, jobs(*(f"echo {number}" for number in range(2000)))))
        assert {tag: outcome.detail for tag, outcome in outcomes.items()} == {n + 1: str(n) for n in range(2000)}
        assert pool.running() == []
        assert pool.poll() == []

    def test_one_slot_runs_jobs_in_the_order_of_submission(self, make: Callable[..., Pool]) -> None:
        pool = make(1)
        assert [outcome.tag for outcome in run(pool, jobs(*["echo x"] * 500))] == list(range(1, 501))

    def test_a_started_pool_is_free_and_idle(self, make: Callable[..., Pool]) -> None:
        pool = make()
        assert pool.free() >= 1
        assert pool.poll() == []
        assert pool.wait_hint() is None
        assert pool.withdraw() == []
        assert len(pool.pids()) >= 1
        poller = pool.poller()
        for number in pool.filenos():
            poller.register(number, POLLIN)
        assert poller.poll(0) == []

    def test_more_than_free_is_kept_for_later(self, make: Callable[..., Pool]) -> None:
        pool = make()
        pool.submit(jobs(*["echo x"] * 300))
        assert len(by_tag(collect(pool, lambda found: len(found) >= 300))) == 300

    def test_a_broken_runner_costs_its_own_job_only(self, make: Callable[..., Pool]) -> None:
        pool = make()
        found = by_tag(run(pool, jobs("echo a", "break snap", "echo b")))
        assert [found[tag].state for tag in (1, 2, 3)] == ["SUCCESS", "FAILURE", "SUCCESS"]
        assert found[2].internal
        assert "snap" in found[2].detail
        assert "play_break" in found[2].traceback

    def test_large_jobs_and_large_outcomes(self, make: Callable[..., Pool]) -> None:
        pool = make()
        size = 3_000_000
        found = by_tag(run(pool, jobs(*[f"length {'x' * size}", f"repeat {size}"] * 4)))
        assert all(found[tag].detail == str(size) for tag in (1, 3, 5, 7))
        assert all(len(found[tag].detail) == size for tag in (2, 4, 6, 8))

    def test_a_boot_that_fails_is_a_pool_error_with_its_text(self, make: Callable[..., Pool]) -> None:
        with pytest.raises(PoolError, match="no such application"):
            make(boot=partial(boot_that_fails, "no such application"))

    def test_submit_before_start_says_what_to_do(self) -> None:
        pool = self.pool_class(1, boot, PoolOptions(**self.options))
        with pytest.raises(PoolError, match="start"):
            pool.submit(jobs("echo x"))

    def test_stop_closes_the_runner_and_leaves_nothing(self, make: Callable[..., Pool], tmp_path: Path) -> None:
        diary = tmp_path / "diary"
        pool = make(boot=partial(boot, str(diary)))
        pids = {str(pid) for pid in pool.pids()}
        run(pool, jobs("echo x"))
        assert pool.stop(PATIENCE) == []
        assert {line.removeprefix("closed ") for line in diary.read_text().splitlines()} == pids
        assert pool.free() == 0
        assert pool.running() == []
        assert pool.stop() == pool.terminate() == []

    # jobs beside each other

    def test_a_window_of_one_is_one_job_a_slot(self, make: Callable[..., Pool], tmp_path: Path) -> None:
        self.need_jobs_beside()
        gate = tmp_path / "gate"
        pool = make(2, window=1)
        run(pool, jobs(*["echo x"] * 50))
        assert pool.free() == 2
        pool.submit(jobs(f"hold {gate}", f"hold {gate}"))
        assert pool.free() == 0
        gate.touch()
        assert len(collect(pool, lambda found: len(found) == 2)) == 2
        assert pool.free() == 2

    def test_tiny_jobs_open_the_window(self, make: Callable[..., Pool]) -> None:
        self.need("windows")
        pool = make(1)
        assert pool.free() == 1
        until = time.monotonic() + PATIENCE
        while pool.free() == 1:  # as long as the machine has made some of them long
            assert time.monotonic() < until
            run(pool, jobs(*["echo x"] * 200))

    def test_what_is_idle_begins_at_once(self, make: Callable[..., Pool], tmp_path: Path) -> None:
        self.need_jobs_beside()
        gate = tmp_path / "gate"
        pool = make(2)
        run(pool, jobs(*["echo x"] * 300))
        for number in (2, 1):
            assert pool.idle() == number
            pool.submit(jobs(f"hold {gate}", first=1000 + number))
        assert pool.idle() == 0
        wait_until(pool, lambda: len(began(gate)) == 2)
        gate.touch()
        collect(pool, lambda found: len(found) == 2)
        assert pool.idle() == 2

    def test_nothing_waits_behind_a_long_job(self, make: Callable[..., Pool], tmp_path: Path) -> None:
        self.need_jobs_beside()
        gate = tmp_path / "gate"
        pool = make(2)
        run(pool, jobs(*["echo x"] * 300))
        pool.submit(jobs("echo first", f"hold {gate}", *["echo x"] * 60, first=1001))
        found = by_tag(collect(pool, lambda found: len(found) == 61))
        assert 1002 not in found
        assert [running.tag for running in pool.running()] == [1002]
        gate.touch()
        assert by_tag(collect(pool, bool)).keys() == {1002}

    def test_running_says_since_when(self, make: Callable[..., Pool], tmp_path: Path) -> None:
        self.need_jobs_beside()
        gate = tmp_path / "gate"
        pool = make(1)
        before = time.time() - 1
        pool.submit(jobs(f"hold {gate}", "echo x"))
        wait_until(pool, lambda: began(gate))
        first, second = pool.running()
        assert (first.tag, second.tag) == (1, 2)
        assert first.pid == int(began(gate)[0])
        assert first.started is not None
        assert before <= first.started <= time.time() + 1
        assert second.started is None
        gate.touch()
        assert len(collect(pool, lambda found: len(found) == 2)) == 2

    def test_any_thread_may_ask_what_runs(self, make: Callable[..., Pool]) -> None:
        pool, enough = make(2), threading.Event()
        said: list[set[int]] = []
        raised: list[Exception] = []

        def ask() -> None:
            while not enough.wait(0.001):
                try:
                    said.append({running.tag for running in pool.running()})
                except RuntimeError:
                    continue  # whoever asks turns to the thread of the pool then
                except Exception as error:  # noqa: BLE001 - the test says what it was
                    raised.append(error)
                    return

        asker = threading.Thread(target=ask)
        asker.start()
        try:
            while len(said) < 20 and not raised:
                assert len(run(pool, jobs(*["echo x"] * 100))) == 100
        finally:
            enough.set()
            asker.join()
        assert raised == []
        assert set().union(*said) <= set(range(1, 101))

    def test_withdraw_takes_back_what_has_not_started(self, make: Callable[..., Pool], tmp_path: Path) -> None:
        self.need_jobs_beside()
        gate = tmp_path / "gate"
        pool = make(2)
        run(pool, jobs(*["echo x"] * 300))
        pool.submit(jobs(*[f"hold {gate}"] * 20, first=1001))
        early = wait_until(pool, lambda: sum(running.started is not None for running in pool.running()) == 2)
        wait_until(pool, lambda: len(began(gate)) == 2)
        withdrawn = pool.withdraw()
        assert early == []
        assert len(withdrawn) == 18
        assert len(pool.running()) == 2
        gate.touch()
        found = by_tag(collect(pool, lambda found: len(found) == 2))
        assert found.keys() | set(withdrawn) == set(range(1001, 1021))
        # What was taken back may be handed out again, also under its old tag.
        again = run(pool, [Job(tag, b"echo again") for tag in withdrawn])
        assert by_tag(again).keys() == set(withdrawn)
        assert {outcome.detail for outcome in again} == {"again"}

    def test_withdraw_while_jobs_run_loses_and_doubles_none(self, make: Callable[..., Pool], tmp_path: Path) -> None:
        self.need_jobs_beside()
        diary = str(tmp_path / "diary")
        pool = make(2)
        run(pool, jobs(*["echo x"] * 300))
        waiting = jobs(*[f"sleep 0.000{number % 3}" for number in range(1500)], first=1001)
        total = {job.tag: job for job in waiting}
        ended: list[Outcome] = []
        rounds = 0
        until = time.monotonic() + PATIENCE
        while len(ended) < len(total):
            assert time.monotonic() < until, diary
            count = pool.free()
            pool.submit(waiting[:count])
            del waiting[:count]
            rounds += 1
            if rounds % 3 == 0:
                waiting += [total[tag] for tag in pool.withdraw()]
            wait_for_news(pool, time.monotonic() + 0.001)
            ended += pool.poll()
        assert by_tag(ended).keys() == total.keys()

    def test_stop_waits_for_what_runs_and_returns_the_rest(self, make: Callable[..., Pool], tmp_path: Path) -> None:
        self.need_jobs_beside()
        gate, first = tmp_path / "gate", tmp_path / "first"
        pool = make(1)
        pool.submit(jobs(f"hold {first}", *[f"hold {gate}"] * 5))
        wait_until(pool, lambda: began(first))
        ending = threading.Thread(target=self._end_what_stop_waits_for, args=(pool, first))
        ending.start()
        found = by_tag(pool.stop(PATIENCE))
        ending.join()
        assert found.pop(1).state == "SUCCESS"
        assert {outcome.state for outcome in found.values()} == {"RETURNED"}
        assert found.keys() == {2, 3, 4, 5, 6}
        assert not began(gate)

    @staticmethod
    def _end_what_stop_waits_for(pool: Pool, gate: Path) -> None:
        """Open *gate* when the pool has taken back what had not started."""
        until = time.monotonic() + PATIENCE / 2
        while time.monotonic() < until:
            time.sleep(0.01)
            with suppress(RuntimeError):  # whoever asks turns to the thread of the pool then
                if len(pool.running()) == 1:
                    break
        gate.touch()

    def test_terminate_accounts_for_every_job(self, make: Callable[..., Pool], tmp_path: Path) -> None:
        self.need_jobs_beside()
        gate = tmp_path / "gate"
        pool = make(2)
        pool.submit(jobs(*[f"hold {gate}"] * 10))
        wait_until(pool, lambda: len(began(gate)) == 2)
        found = by_tag(pool.terminate())
        gate.touch()
        assert Counter(outcome.state for outcome in found.values()) == {"LOST": 2, "RETURNED": 8}
        assert pool.free() == 0

    def test_stop_gives_up_at_its_timeout(self, make: Callable[..., Pool], tmp_path: Path) -> None:
        self.need_jobs_beside()
        gate = tmp_path / "gate"
        pool = make(1)
        pool.submit(jobs(f"hold {gate}"))
        wait_until(pool, lambda: began(gate))
        assert [outcome.state for outcome in pool.stop(0.05)] == ["LOST"]
        gate.touch()

    def test_resize_changes_how_many_run_at_once(self, make: Callable[..., Pool], tmp_path: Path) -> None:
        self.need_jobs_beside()
        gate, second = tmp_path / "gate", tmp_path / "second"
        pool = make(1, window=1)
        pool.resize(3)
        assert pool.size == 3
        wait_until(pool, lambda: pool.free() == 3)
        pool.submit(jobs(*[f"hold {gate}"] * 3))
        wait_until(pool, lambda: len(began(gate)) == 3)
        pool.resize(1)
        gate.touch()
        assert len(collect(pool, lambda found: len(found) == 3)) == 3
        wait_until(pool, lambda: pool.free() == 1)
        pool.submit(jobs(*[f"hold {second}"] * 2, first=11))
        wait_until(pool, lambda: began(second))
        assert sum(running.started is not None for running in pool.running()) == 1
        second.touch()
        assert len(collect(pool, lambda found: len(found) == 2)) == 2

    # processes

    def test_a_child_that_dies_loses_its_running_job_only(self, make: Callable[..., Pool]) -> None:
        self.need("processes")
        pool = make(1)
        run(pool, jobs(*["echo x"] * 300))
        pool.submit(work := jobs("echo before", f"die {int(signal.SIGKILL)}", *["echo after"] * 10, first=1001))
        found = by_tag(collect(pool, lambda found: len(found) == len(work)))
        assert (found[1001].state, found[1001].detail) == ("SUCCESS", "before")
        assert (found[1002].state, found[1002].detail) == (
            "LOST",
            "Worker exited prematurely: signal 9 (SIGKILL).",
        )
        # Those behind it ran in another child, or were never started.
        assert {found[tag].state for tag in range(1003, 1013)} <= {"SUCCESS", "RETURNED"}
        assert run(pool, jobs("echo alive"))[0].detail == "alive"

    def test_an_exit_code_is_told(self, make: Callable[..., Pool]) -> None:
        self.need("processes")
        pool = make(1)
        (outcome,) = run(pool, jobs("exit 3"))
        assert (outcome.state, outcome.detail) == ("LOST", "Worker exited prematurely: exitcode 3.")

    def test_every_job_that_kills_is_survived(self, make: Callable[..., Pool]) -> None:
        self.need("processes")
        pool = make(2)
        found = by_tag(run(pool, jobs(*["exit 1", "echo x"] * 12)))
        assert {outcome.state for tag, outcome in found.items() if tag % 2} == {"LOST"}
        assert {outcome.state for tag, outcome in found.items() if not tag % 2} == {"SUCCESS"}

    def test_kill_ends_a_job_that_shares_the_process(self, make: Callable[..., Pool], tmp_path: Path) -> None:
        self.need("cancels")
        gate = tmp_path / "gate"
        pool = make(1, window=1)
        pool.submit(jobs(f"hold {gate}", "echo behind"))
        wait_until(pool, lambda: began(gate))
        assert not pool.kill(2, signal.SIGTERM)
        assert not pool.kill(999, signal.SIGTERM)
        assert pool.kill(1, signal.SIGTERM)
        found = by_tag(collect(pool, lambda found: len(found) == 2))
        assert (found[1].state, found[2].state) == ("LOST", "SUCCESS")
        assert not pool.kill(1, signal.SIGTERM)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
    def test_kill_ends_the_job_as_lost(self, make: Callable[..., Pool], tmp_path: Path, number: int) -> None:
        self.need("processes")
        gate = tmp_path / "gate"
        pool = make(1)
        run(pool, jobs(*["echo x"] * 300))
        pool.submit(jobs(f"hold {gate}", "echo behind", first=1001))
        wait_until(pool, lambda: began(gate))
        assert not pool.kill(1002, number)
        assert not pool.kill(999, number)
        assert pool.kill(1001, number)
        found = by_tag(collect(pool, lambda found: len(found) == 2))
        assert found[1001].state == "LOST"
        assert f"signal {int(number)} " in found[1001].detail
        assert found[1002].state in {"SUCCESS", "RETURNED"}

    def test_children_leave_ctrl_c_to_the_worker(self, make: Callable[..., Pool]) -> None:
        self.need("processes")
        pool = make(1)
        assert run(pool, jobs("signals"))[0].detail == "True True"
        os.kill(pool.pids()[0], signal.SIGINT)
        assert run(pool, jobs("pid", first=2))[0].detail == str(pool.pids()[0])

    def test_jobs_may_start_processes(self, make: Callable[..., Pool], tmp_path: Path) -> None:
        self.need("processes")
        diary = tmp_path / "diary"
        pool = make(1)
        assert run(pool, jobs(f"family {diary}"))[0].detail == "0"
        assert diary.read_text() == "grandchild\n"

    def test_max_tasks_replaces_a_child(self, make: Callable[..., Pool], tmp_path: Path) -> None:
        self.need("processes")
        diary = tmp_path / "diary"
        pool = make(2, boot=partial(boot, str(diary)), max_tasks=10)
        pids = Counter(outcome.detail for outcome in run(pool, jobs(*["pid"] * 100)))
        assert len(pids) >= 10
        assert max(pids.values()) <= 10
        pool.stop(PATIENCE)
        assert {line.removeprefix("closed ") for line in diary.read_text().splitlines()} >= pids.keys()

    def test_max_memory_replaces_a_child(self, make: Callable[..., Pool]) -> None:
        self.need("processes")
        pool = make(1, max_memory=400_000)
        first, _, third = run(pool, jobs("pid", f"grow {500_000}", "pid"))
        assert first.detail != third.detail

    def test_children_that_cannot_boot_any_more_end_the_pool(self, make: Callable[..., Pool], tmp_path: Path) -> None:
        self.need("processes")
        broken = tmp_path / "broken"
        pool = make(1, boot=partial(boot_that_fails_later, str(broken), "the schema is gone"))
        broken.touch()
        began_at = time.monotonic()
        with pytest.raises(PoolError, match="the schema is gone"):
            run(pool, jobs("exit 1", *["echo x"] * 3))
        # Back-off: it neither spins nor waits for ever.
        assert 1 < time.monotonic() - began_at < PATIENCE

    def test_a_child_that_dies_at_its_start_is_a_pool_error(self, make: Callable[..., Pool]) -> None:
        self.need("processes")
        with pytest.raises(PoolError, match="exitcode 7"):
            make(boot=partial(boot_that_dies, 7))

    def test_a_boot_that_cannot_be_sent_says_so(self, make: Callable[..., Pool]) -> None:
        self.need("processes")
        with pytest.raises(PoolError, match="top of a module"):
            make(boot=lambda: Player("here"))

    # limits

    def test_a_soft_limit_raises_in_its_job(self, make: Callable[..., Pool]) -> None:
        self.need("soft_limits")
        pool = make(1)
        work = [Job(1, b"echo x", soft=20.0), Job(2, b"doze 20", soft=0.2), Job(3, b"sleep 0.4"), Job(4, b"pid")]
        found = by_tag(run(pool, work))
        assert [found[tag].detail for tag in (1, 2, 3)] == ["x", "soft limit", "0.4"]
        assert found[4].detail == str(pool.pids()[0])

    def test_a_soft_limit_that_is_not_reached_strikes_nothing(self, make: Callable[..., Pool]) -> None:
        self.need("soft_limits")
        pool = make(2)
        for _ in range(5):
            began_at = time.monotonic()
            found = by_tag(run(pool, [Job(tag, b"echo x", soft=0.3) for tag in range(1, 2001)]))
            # A machine may stand still in a job; but each of those that this makes too long has taken its time.
            struck = sum(outcome.detail != "x" for outcome in found.values())
            assert struck * 0.3 <= 2 * (time.monotonic() - began_at)
            if not struck:
                break
        assert not struck, "in no round was each in time"
        assert run(pool, [Job(1, b"doze 0.5")])[0].detail == "0.5"

    def test_a_soft_limit_about_to_strike_costs_no_other_job(self, make: Callable[..., Pool]) -> None:
        self.need("soft_limits")
        pool = make(1)
        work = [
            Job(tag, b"doze 0.01" if tag % 2 else b"echo x", soft=0.01 if tag % 2 else None) for tag in range(1, 201)
        ]
        found = by_tag(run(pool, work))
        assert {outcome.state for tag, outcome in found.items() if not tag % 2} == {"SUCCESS"}
        assert {outcome.state for tag, outcome in found.items() if tag % 2} <= {"SUCCESS", "FAILURE", "OVERTIME"}
        assert not any(outcome.internal for outcome in found.values())

    def test_a_hard_limit_kills(self, make: Callable[..., Pool]) -> None:
        self.need("hard_limits")
        pool = make(1)
        before = pool.pids()
        found = by_tag(run(pool, [Job(1, b"sleep 20", hard=0.2), Job(2, b"echo x")]))
        assert found[1].state == "TIMEOUT"
        assert 0.2 <= found[1].runtime < PATIENCE / 2
        assert "TimeLimitExceeded(0.2)" in found[1].detail
        assert found[2].state == "SUCCESS"
        if self.pool_class.can.processes:
            assert pool.pids() != before

    def test_a_hard_limit_comes_after_the_soft_one(self, make: Callable[..., Pool]) -> None:
        self.need("soft_limits", "hard_limits")
        pool = make(1)
        (outcome,) = run(pool, [Job(1, b"persist 20", soft=0.1, hard=0.3)])
        assert outcome.state == "TIMEOUT"

    def test_limits_begin_with_the_job_not_with_its_window(self, make: Callable[..., Pool]) -> None:
        self.need("soft_limits", "windows")
        pool = make(1)
        run(pool, jobs(*["echo x"] * 300))
        work = [Job(tag, b"sleep 0.1", soft=0.5, hard=0.7) for tag in range(1001, 1011)]
        began_at = time.monotonic()
        pool.submit(work)
        found = by_tag(collect(pool, lambda found: len(found) == len(work)))
        took = time.monotonic() - began_at
        # A machine may stand still in a job; but one after the other has had its time, those at their limit all of it.
        ran = [outcome for outcome in found.values() if outcome.state != "RETURNED"]
        assert ran
        assert took >= sum(0.1 if outcome.detail == "0.1" else 0.5 for outcome in ran)


def began(gate: Path) -> list[str]:
    """The processes that a `hold` job began in, so far."""
    told = Path(f"{gate}.began")
    return told.read_text().splitlines() if told.exists() else []
