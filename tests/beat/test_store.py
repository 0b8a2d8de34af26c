"""The schedule in a store that beats share: in memory, in a file, in Redis; with a clock that the test moves."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from beat.clocks import Sent, sent
from celery import Celery
from celery.beat import Service, StoreScheduler
from celery.beat.codec import write_entry
from celery.beat.entry import ScheduleEntry
from celery.beat.shared import read_state, task_id_of
from celery.exceptions import BrokerError
from celery.schedules import clocked, crontab
from celery.utils.clock import FakeClock

NOON = 1_710_072_000.0  # 10 March 2024, 12:00 UTC
SECONDLY = {"tick": {"task": "add", "schedule": 1.0, "missed": "all"}}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOON)


Make = Callable[..., Celery]


@pytest.fixture
def make(place: str, clock: FakeClock) -> Make:
    def make(schedule: dict[str, Any] | None = None, **settings: Any) -> Celery:
        app = Celery("shared", broker=place, backend=place, set_as_current=False)
        app.conf.update(settings, beat_schedule=schedule or {}, beat_schedule_filename=None, result_expires=None)

        @app.task(name="add", shared=False)
        def add(x: int = 0, y: int = 0) -> int:
            return x + y

        app.broker.clock = clock
        if hasattr(app.broker, "_scripts"):
            app.broker._scripts._clock = clock
        if hasattr(app.broker, "_outbox"):
            app.broker._outbox._clock = clock
        return app

    return make


def beat(app: Celery, clock: FakeClock) -> StoreScheduler:
    scheduler = StoreScheduler(app, clock=clock)
    scheduler.look_every = 0
    return scheduler


def walk(clock: FakeClock, seconds: float, *schedulers: StoreScheduler, step: float = 1.0) -> list[Sent]:
    """Tick all of them each *step*; what was sent."""
    for _ in range(int(seconds / step)):
        clock.advance(step)
        for scheduler in schedulers:
            while scheduler.tick() == 0:
                pass
    return sent(schedulers[0].app)


def ids(ticks: range, name: str = "tick") -> list[str]:
    return [task_id_of(f"shared\n{name}", NOON + tick) for tick in ticks]


class TestTicks:
    def test_each_is_sent_once_with_an_id_of_its_own(self, make: Make, clock: FakeClock) -> None:
        app = make({"tick": {"task": "add", "schedule": 2.0, "args": (1, 2)}})
        scheduler = beat(app, clock)
        scheduler.tick()
        found = walk(clock, 10, scheduler)
        assert [one.id for one in found] == ids(range(2, 11, 2))
        assert {(one.task, tuple(one.args), one.headers["periodic_task_name"]) for one in found} == {
            ("add", (1, 2), "tick")
        }

    def test_it_says_when_to_come_again(self, make: Make, clock: FakeClock) -> None:
        scheduler = beat(make({"tick": {"task": "add", "schedule": 2.0}}), clock)
        assert scheduler.tick() == pytest.approx(2.0)
        clock.advance(1.5)
        assert scheduler.tick() == pytest.approx(0.5)

    def test_ticks_stay_where_they_are_however_late_beat_comes(self, make: Make, clock: FakeClock) -> None:
        scheduler = beat(make({"tick": {"task": "add", "schedule": 10.0}}), clock)
        scheduler.tick()
        assert [one.id for one in walk(clock, 39, scheduler, step=3.0)] == ids(range(10, 40, 10))

    @pytest.mark.parametrize(
        ("missed", "expected"), [("skip", [70]), ("one", [70]), ("all", [10, 20, 30, 40, 50, 60, 70]), (2, [60, 70])]
    )
    def test_what_was_missed(self, make: Make, clock: FakeClock, missed: Any, expected: list[int]) -> None:
        scheduler = beat(make({"tick": {"task": "add", "schedule": 10.0, "missed": missed}}), clock)
        scheduler.tick()
        assert [one.id for one in walk(clock, 75, scheduler, step=75)] == [
            task_id_of("shared\ntick", NOON + tick) for tick in expected
        ]

    def test_the_setting_for_all(self, make: Make, clock: FakeClock) -> None:
        scheduler = beat(make({"daily": {"task": "add", "schedule": crontab(0, 13)}}, beat_missed="skip"), clock)
        scheduler.tick()
        assert walk(clock, 7200, scheduler, step=7200) == []
        assert [json.loads(note)[2] for note in scheduler.book.history("daily")] == ["missed"]

    def test_many_at_once(self, make: Make, clock: FakeClock) -> None:
        scheduler = beat(make({f"{n}": {"task": "add", "schedule": 1.0} for n in range(450)}), clock)
        scheduler.tick()
        assert len(walk(clock, 1, scheduler)) == 450

    def test_a_schedule_that_changes_counts_from_then(self, make: Make, clock: FakeClock) -> None:
        app = make({"daily": {"task": "add", "schedule": crontab(0, 13)}})
        scheduler = beat(app, clock)
        scheduler.tick()
        clock.advance(4 * 3600)
        scheduler.tick()
        assert len(sent(app)) == 1
        app.conf.beat_schedule["daily"]["schedule"] = crontab(0, 14)  # which has passed today
        assert walk(clock, 3600, scheduler, step=600) == []
        assert len(walk(clock, 22 * 3600, scheduler, step=3600)) == 1

    def test_entries_that_end(self, make: Make, clock: FakeClock) -> None:
        app = make({"once": {"task": "add", "schedule": clocked("2024-03-10T12:00:05+00:00")}})
        scheduler = beat(app, clock)
        scheduler.tick()
        assert [one.id for one in walk(clock, 60, scheduler)] == [task_id_of("shared\nonce", NOON + 5)]
        assert scheduler.upcoming() == []

    def test_a_clock_that_jumps(self, make: Make, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
        app = make({
            "often": {"task": "add", "schedule": 100.0},
            "hourly": {"task": "add", "schedule": crontab(minute=0), "args": [7]},
        })  # fmt: skip
        scheduler = beat(app, clock)
        scheduler.tick()
        walk(clock, 40, scheduler, step=10)
        for jump, hourly in ((-3600.0, 0), (3600.0, 0), (3600.0, 1)):
            clock._now += jump
            clock._start += jump  # the steady clock does not notice
            scheduler._asked -= 60  # so that it asks for the time
            while scheduler.tick() == 0:
                pass
            assert [one.args for one in sent(app)] == [[7]] * hourly, jump
        assert "put back by 1.00 hour" in caplog.text
        assert "put forward by 1.00 hour" in caplog.text
        assert [one.args for one in walk(clock, 60, scheduler, step=10)] == [[]]


class TestMany:
    def test_one_leads_and_another_steps_in(
        self, make: Make, clock: FakeClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "celery.beat")
        apps = [make(SECONDLY) for _ in range(3)]
        first, second, third = (beat(app, clock) for app in apps)
        assert first.tick() > 0
        assert 0 < second.tick() <= 10
        assert (first.leads, second.leads) == (True, False)
        found = walk(clock, 20, first, second, third)
        assert [one.id for one in found] == ids(range(1, 21))
        # The leader is gone: within the lease another goes on, and makes up for what was missed.
        found = walk(clock, 15, second, third)
        assert [one.id for one in found] == ids(range(21, 36))
        assert second.leads is not third.leads
        # It comes back, and has lost it.
        assert first.tick() > 0
        assert not first.leads
        assert walk(clock, 5, first, second, third)[0].id == ids(range(36, 37))[0]
        assert "beat: leading" in caplog.text
        assert "leads" in caplog.text

    def test_two_that_both_believe_they_lead(
        self, make: Make, clock: FakeClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        first, second = (beat(make(SECONDLY), clock) for _ in range(2))
        first.tick()
        clock.advance(11)
        second.tick()
        assert first.leads
        assert second.leads
        first._asked = clock.monotonic()  # it slept, and does not know for how long
        first.tick()
        assert not first.leads
        assert "another beat leads by now" in caplog.text
        assert [one.id for one in sent(first.app)] == ids(range(1, 12))

    def test_one_that_is_stopped_lets_the_next_in_at_once(self, make: Make, clock: FakeClock) -> None:
        first, second = (beat(make(SECONDLY), clock) for _ in range(2))
        first.tick()
        second.tick()
        first.close()
        second.tick()
        assert second.leads

    def test_fail_over_is_quick_enough(self, make: Make, clock: FakeClock) -> None:
        first, second = (beat(make(SECONDLY), clock) for _ in range(2))
        first.tick()
        waited = 0.0
        while not second.leads:
            wait = second.tick()
            waited += wait
            clock.advance(wait)
        assert waited <= 15

    def test_apps_do_not_see_each_other(self, make: Make, clock: FakeClock) -> None:
        one, other = make(SECONDLY), make(SECONDLY, beat_namespace="other")
        first, second = beat(one, clock), beat(other, clock)
        first.tick()
        second.tick()
        assert first.leads
        assert second.leads


class TestTrouble:
    def test_a_store_that_is_away(
        self, make: Make, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        scheduler = beat(make(SECONDLY), clock)
        scheduler.tick()

        def away(*_: Any) -> None:
            error = BrokerError("the store is away")
            error.temporary = True
            raise error

        for name in ("advance", "lead"):
            with monkeypatch.context() as patch:
                patch.setattr(scheduler.book, name, away)
                for _ in range(4):
                    clock.advance(1)
                    assert scheduler.tick() > 0 or name == "lead"
            assert scheduler.tick() >= 0
        while scheduler.tick() == 0:
            pass
        assert [one.id for one in sent(scheduler.app)] == ids(range(1, 9))
        assert caplog.text.count("the store is away") == 2  # once each time

    def test_an_answer_that_was_lost(self, make: Make, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
        scheduler = beat(make(SECONDLY), clock)
        scheduler.tick()
        advance = scheduler.book.advance

        def lost(*args: Any) -> None:
            advance(*args)
            error = BrokerError("the connection broke")
            error.temporary = True
            raise error

        clock.advance(1)
        with monkeypatch.context() as patch:
            patch.setattr(scheduler.book, "advance", lost)
            scheduler.tick()
        assert [one.id for one in walk(clock, 2, scheduler)] == ids(range(1, 4))

    def test_bad_entries_hold_up_nobody(self, make: Make, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
        app = make({
            **SECONDLY, "policy": {"task": "add", "schedule": 1.0, "missed": "never"},
            "args": {"task": "add", "schedule": 1.0, "args": [object()]}, "zero": {"task": "add", "schedule": 0},
            "sun": {"task": "add", "schedule": crontab(hour="sunset")},
            "fails": {"task": "add", "schedule": lambda: 1 / 0},
        })  # fmt: skip
        scheduler = beat(app, clock)
        scheduler.book.define(
            {
                "junk": b"{",
                "kind": b'{"schedule": {"type": "x"}}',
                "task": b'{"schedule": {"type": "interval", "every": 1}}',
            }
        )
        scheduler.tick()
        assert [one.id for one in walk(clock, 5, scheduler)] == ids(range(1, 6))
        for name in ("policy", "args", "zero", "sun", "fails", "junk", "kind", "task"):
            assert caplog.text.count(f"Entry '{name}' of the schedule") == 1, name

    def test_one_whose_message_goes_nowhere(
        self, make: Make, clock: FakeClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lost = {"task": "add", "schedule": 1.0, "options": {"exchange": "nowhere", "routing_key": "x"}}
        app = make({**SECONDLY, "lost": lost})
        scheduler = beat(app, clock)
        scheduler.tick()
        found = walk(clock, 3, scheduler)
        assert [one.id for one in found if one.queue == "celery"] == ids(range(1, 4))
        assert caplog.text.count("Entry 'lost' of the schedule") == 1
        assert json.loads(scheduler.book.history("lost")[0])[2] == "failed"

    def test_a_state_that_cannot_be_read_begins_anew(self, make: Make, clock: FakeClock) -> None:
        scheduler = beat(make(SECONDLY), clock)
        scheduler.tick()
        scheduler.close()
        other = beat(make(SECONDLY), clock)
        token = other.book.lead("x", 5).token
        from celery.brokers.book import Advance

        other.book.advance(token, 5, [Advance("tick", other.book.states()["tick"], b"junk")])
        other.book.resign(token)
        other.tick()
        assert [one.id for one in walk(clock, 2, other)] == ids(range(1, 3))


class TestApart:
    """The broker has no book: the schedule is in the result store, and the message goes first."""

    @pytest.fixture
    def app(self, make: Make, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Celery:
        app = make(SECONDLY, result_backend=f"sqlite:///{tmp_path}/results.db")
        monkeypatch.setattr(app.broker, "book", lambda name: None)
        assert app.store is not None
        app.store.clock = clock
        return app

    def test_ticks_are_sent(self, app: Celery, clock: FakeClock) -> None:
        scheduler = beat(app, clock)
        assert not scheduler.book.sends
        scheduler.tick()
        assert [one.id for one in walk(clock, 5, scheduler)] == ids(range(1, 6))

    def test_who_has_lost_the_lease_sends_nothing(self, app: Celery, clock: FakeClock) -> None:
        first, second = beat(app, clock), beat(app, clock)
        first.tick()
        clock.advance(11)
        second.tick()
        assert [one.id for one in sent(app)] == ids(range(1, 12))
        clock.advance(1)
        first._asked = clock.monotonic()
        first.tick()
        assert not first.leads
        assert sent(app) == []


class TestDynamic:
    def test_entries_of_the_store(self, make: Make, clock: FakeClock) -> None:
        app = make()
        scheduler = beat(app, clock)
        scheduler.tick()
        entry = ScheduleEntry("added", "add", schedule=2.0, args=(5,), app=app)
        scheduler.book.define({"added": write_entry(entry)})
        found = walk(clock, 10, scheduler)
        assert len(found) in {3, 4}  # it is seen at the next renewal of the lease
        assert found[0].args == [5]
        scheduler.book.define({"added": None})
        walk(clock, 4, scheduler)
        assert walk(clock, 10, scheduler) == []

    def test_pause_and_resume(self, make: Make, clock: FakeClock) -> None:
        scheduler = beat(make(SECONDLY), clock)
        scheduler.tick()
        scheduler.book.pause(["tick"], paused=True)
        walk(clock, 5, scheduler)
        assert walk(clock, 20, scheduler) == []
        scheduler.book.pause(["tick"], paused=False)
        found = walk(clock, 10, scheduler)
        assert 5 <= len(found) <= 10  # what passed while it rested does not count as missed

    def test_overlap(self, make: Make, clock: FakeClock) -> None:
        app = make({"tick": {"task": "add", "schedule": 1.0, "overlap": "skip", "options": {"ignore_result": True}}})
        scheduler = beat(app, clock)
        scheduler.tick()
        for _ in range(5):
            clock.advance(1)
            scheduler.tick()
        assert len(sent(app)) == 1  # the first waits still
        clock.advance(1)
        scheduler.tick()
        assert [json.loads(note)[2] for note in scheduler.book.history("tick")] == ["sent", *["overlapped"] * 4, "sent"]

    def test_overlap_by_results(self, make: Make, clock: FakeClock) -> None:
        app = make({"tick": {"task": "add", "schedule": 1.0, "overlap": "skip"}})
        scheduler = beat(app, clock)
        scheduler.tick()
        clock.advance(1)
        scheduler.tick()
        app.backend.mark_as_done(ids(range(1, 2))[0], 3)
        clock.advance(1)
        scheduler.tick()
        assert len(sent(app)) == 2

    def test_additions_to_the_settings(self, make: Make, clock: FakeClock) -> None:
        app = make()
        scheduler = beat(app, clock)
        scheduler.tick()
        app.conf.beat_schedule.update(SECONDLY)
        assert len(walk(clock, 5, scheduler)) == 4


class TestChoice:
    def test_no_file_means_the_store(self, make: Make) -> None:
        assert type(Service(make()).get_scheduler(lazy=True)) is StoreScheduler
        app = make()
        app.conf.update(beat_schedule_filename="file", beat_persistent=True)
        assert type(Service(app).get_scheduler(lazy=True)) is StoreScheduler
        assert type(Service(app, scheduler_cls="store").get_scheduler(lazy=True)) is StoreScheduler

    def test_what_is_kept(self, make: Make, clock: FakeClock) -> None:
        scheduler = beat(make(SECONDLY), clock)
        scheduler.tick()
        walk(clock, 3, scheduler)
        state = read_state(scheduler.book.states()["tick"])
        assert state is not None
        assert (state.last, state.next, state.count, state.task_id) == (NOON + 3, NOON + 4, 3, ids(range(3, 4))[0])
        assert scheduler.schedule["tick"].total_run_count == 3
        assert read_state(b"[]") is None
