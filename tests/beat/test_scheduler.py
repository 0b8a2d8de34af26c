"""The scheduler that keeps its schedule in memory: what it sends and when, and what third parties may change in it."""

from __future__ import annotations

import logging
import pickle
from datetime import timedelta
from typing import Any

import pytest

from beat.clocks import START, make_app, sent
from celery import beat, signals
from celery.beat import BeatLazyFunc, ScheduleEntry, Scheduler, SchedulingError
from celery.exceptions import BrokerError
from celery.schedules import crontab, schedstate, schedule

EVERY_MINUTE: dict[str, Any] = {"task": "add", "schedule": 60.0, "args": (1, 2)}


def walk(scheduler: Scheduler, seconds: int, step: float = 1.0) -> list[float]:
    """Tick each *step* for so many seconds; the seconds at which something was sent."""
    times = []
    for number in range(int(seconds / step)):
        scheduler.app.move(step)
        scheduler.tick()
        times += [(number + 1) * step] * len(sent(scheduler.app))
    return times


class TestTicks:
    def test_entries_are_sent_when_they_are_due(self) -> None:
        app = make_app(beat_schedule={
            "minutely": EVERY_MINUTE, "twenty": {"task": "add", "schedule": timedelta(seconds=20)},
            "crontab": {"task": "add", "schedule": crontab(minute="*/2")},
        })  # fmt: skip
        assert walk(Scheduler(app), 120) == [20, 40, 60, 60, 80, 100, 120, 120, 120]

    def test_it_says_when_to_come_again(self) -> None:
        app = make_app(beat_schedule={"a": {"task": "add", "schedule": 2.0}})
        scheduler = Scheduler(app)
        assert scheduler.tick() == pytest.approx(2.0)
        app.move(1.5)
        assert scheduler.tick() == pytest.approx(0.5)
        app.move(0.5)
        assert scheduler.tick() == pytest.approx(2.0)
        assert len(sent(app)) == 1

    @pytest.mark.parametrize(("setting", "argument", "wait"), [(0, None, 5.0), (3, None, 3.0), (3, 2.0, 2.0)])
    def test_it_never_sleeps_longer_than_it_may(self, setting: float, argument: float | None, wait: float) -> None:
        app = make_app(beat_max_loop_interval=setting)
        scheduler = Scheduler(app, max_interval=argument)
        assert scheduler.max_interval == (argument or setting or beat.DEFAULT_MAX_INTERVAL)
        assert scheduler.tick() == wait

    def test_what_is_sent(self) -> None:
        entry = {
            "task": "add", "schedule": 1.0, "args": [1], "kwargs": {"y": 2},
            "options": {"queue": "other", "headers": {"from": "beat"}, "expires": 60},
        }  # fmt: skip
        app = make_app(beat_schedule={"a": entry, "unknown": {"task": "elsewhere", "schedule": 1.0}})
        scheduler = Scheduler(app)
        app.move(1)
        scheduler.tick()
        first, second = sorted(sent(app))
        assert (first.task, first.args, first.kwargs, first.queue) == ("add", [1], {"y": 2}, "other")
        assert first.headers["from"] == "beat"
        assert first.headers["expires"] is not None
        assert (second.task, second.args, second.queue) == ("elsewhere", [], "celery")

    def test_calls_among_the_arguments_are_made_when_it_is_sent(self) -> None:
        numbers = iter(range(10))
        lazy = BeatLazyFunc(lambda start: start + next(numbers), 100)
        app = make_app(beat_schedule={"a": {"task": "add", "schedule": 1.0, "args": [lazy], "kwargs": {"y": lazy}}})
        scheduler = Scheduler(app)
        for _ in range(2):
            app.move(1)
            scheduler.tick()
        assert [(one.args, one.kwargs) for one in sent(app)] == [([100], {"y": 101}), ([102], {"y": 103})]

    def test_a_thousand_at_once_need_few_ticks(self) -> None:
        app = make_app(beat_schedule={f"{n}": {"task": "add", "schedule": 1.0} for n in range(1500)})
        scheduler = Scheduler(app)
        app.move(1)
        assert scheduler.tick() == 0
        assert scheduler.tick() > 0
        assert len(sent(app)) == 1500

    def test_one_that_was_missed_is_sent_once(self) -> None:
        app = make_app(
            beat_schedule={"a": {"task": "add", "schedule": 10.0}, "b": {"task": "add", "schedule": crontab()}}
        )
        scheduler = Scheduler(app)
        app.move(3600)
        scheduler.tick()
        assert len(sent(app)) == 2
        assert walk(scheduler, 60) == [10, 20, 30, 40, 50, 60, 60]

    def test_an_entry_that_puts_itself_off_does_not_hold_up_the_others(self) -> None:
        class Moody(ScheduleEntry):
            off = False

            def is_due(self) -> schedstate:
                return schedstate(is_due=False, next=3600.0) if self.name == "moody" and Moody.off else super().is_due()

        class Moods(Scheduler):
            Entry = Moody

        app = make_app(beat_schedule={
            "moody": {"task": "add", "schedule": 10.0}, "steady": {"task": "add", "schedule": 30.0},
        })  # fmt: skip
        scheduler = Moods(app)
        scheduler.tick()
        Moody.off = True
        app.move(10)
        assert scheduler.tick() == pytest.approx(5.0)
        assert walk(scheduler, 20) == [20]

    def test_functions_that_say_when(self) -> None:
        waits = iter([10, 20, 5, 1000])
        app = make_app(beat_schedule={"a": {"task": "add", "schedule": lambda: next(waits)}})
        assert walk(Scheduler(app), 60) == [10, 30, 35]


class TestTrouble:
    @pytest.mark.parametrize(
        ("entry", "words"),
        [
            ({"schedule": 3.0}, "its task is None: give the name of a task"),
            ({"task": "add"}, "its schedule is None: give seconds"),
            ({"task": "add", "schedule": "soon"}, "its schedule is 'soon': give seconds"),
            ({"task": "add", "schedule": 3.0, "args": 3}, "its args are 3: give a list"),
            ({"task": "add", "schedule": 3.0, "kwargs": [1]}, r"its kwargs are \[1\]: give a dict"),
            ({"task": "add", "schedule": 3.0, "options": "x"}, "its options are 'x': give a dict"),
            ({"task": "add", "shedule": 3.0}, "it has no 'shedule': known are args, kwargs"),
            (3, "it is 3: give a dict with 'task' and 'schedule'"),
            ({"task": "add", "schedule": crontab(hour="sunset")}, "needs a place: set beat_location"),
            ({"task": "add", "schedule": lambda: "x"}, "is to return a timedelta or a number"),
            ({"task": "add", "schedule": 0}, "would never end"),
            ({"task": "add", "schedule": 1.0, "args": [object()]}, "Couldn't apply scheduled task bad"),
            ({"task": "add", "schedule": 1.0, "args": [1, 2, 3]}, "Couldn't apply scheduled task bad"),
            ({"task": "add", "schedule": 1.0, "options": {"eta": "x"}}, "Couldn't apply scheduled task bad"),
            ({"task": "add", "schedule": 1.0, "args": [BeatLazyFunc(lambda: 1 / 0)]}, "division by zero"),
            ({"task": "nowhere", "schedule": 1.0}, "knows no task 'nowhere'. It is sent, in case a worker does."),
        ],
    )
    def test_a_bad_entry_is_told_once_and_holds_up_nobody(
        self, entry: Any, words: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = make_app(beat_schedule={"bad": entry, "good": {"task": "add", "schedule": 1.0, "args": (7,)}})
        scheduler = Scheduler(app)
        for _ in range(4):
            app.move(1)
            assert scheduler.tick() > 0
        assert [one.args for one in sent(app) if one.args == [7]] == [[7]] * 4
        (told,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert told.getMessage().startswith("Entry 'bad' of the schedule: ")
        caplog.clear()
        with pytest.raises(AssertionError, match=words):
            raise AssertionError(told.getMessage())

    def test_a_broker_that_is_down_delays_and_loses_nothing(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = make_app(beat_schedule_retry_delay=3.0, task_publish_retry=False, beat_schedule={
            name: {"task": "add", "schedule": 10.0, "kwargs": {"y": n}} for n, name in enumerate("abcd")
        })  # fmt: skip
        scheduler = Scheduler(app)
        app.move(10)
        with monkeypatch.context() as patch:
            patch.setattr(app.broker, "publish", _down)
            assert scheduler.tick() == 3.0
            app.move(3)
            assert scheduler.tick() == 3.0
        assert "Trying again in 3 s." in caplog.text
        app.move(3)
        scheduler.tick()
        assert sorted(one.kwargs["y"] for one in sent(app)) == [0, 1, 2, 3]

    def test_the_others_pass_one_that_the_broker_never_takes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        app = make_app(task_publish_retry=False, beat_schedule={
            "stuck": {"task": "add", "schedule": 1.0, "args": (99,), "options": {"queue": "stuck"}},
            **{f"{n}": {"task": "add", "schedule": 1.0} for n in range(5)},
        })  # fmt: skip
        scheduler, publish = Scheduler(app), app.broker.publish

        def refuse_some(messages: Any) -> None:
            if messages[0].routing_key == "stuck":
                _down(messages)
            publish(messages)

        monkeypatch.setattr(app.broker, "publish", refuse_some)
        for _ in range(20):
            app.move(1)
            scheduler.tick()
        assert len(sent(app)) == 5 * 20

    def test_apply_async_says_what_failed(self) -> None:
        app = make_app()
        scheduler = Scheduler(app)
        entry = ScheduleEntry("x", "add", schedule=schedule(1), args=(object(),), app=app)
        with pytest.raises(SchedulingError, match="Couldn't apply scheduled task x: ") as caught:
            scheduler.apply_async(entry, advance=False)
        assert caught.value.__cause__ is not None


def _down(messages: Any) -> None:
    error = BrokerError("the broker is away")
    error.temporary = True
    raise error


class TestChanges:
    def test_additions_while_it_runs(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "celery.beat")
        app = make_app(beat_schedule={"a": {"task": "add", "schedule": 10.0}})
        scheduler = Scheduler(app)
        scheduler.look_every = 0
        assert walk(scheduler, 10) == [10]
        app.conf.beat_schedule["b"] = {"task": "add", "schedule": 4.0}
        assert walk(scheduler, 9) == [5, 9]  # it is seen a second later
        app.conf.beat_schedule["b"]["schedule"] = 2.0  # in place
        assert walk(scheduler, 4) == [1, 2, 4]
        app.conf.beat_schedule.pop("b")
        app.conf.beat_schedule = {**app.conf.beat_schedule, "c": {"task": "add", "schedule": 5.0}}
        assert walk(scheduler, 7) == [6, 7]
        assert set(scheduler.schedule) == {"a", "c"}
        assert "the schedule has changed: b" in caplog.text

    def test_entries_added_to_the_scheduler_stay(self) -> None:
        app = make_app()
        scheduler = Scheduler(app)
        scheduler.look_every = 0
        scheduler.add(name="mine", task="add", schedule=5.0)
        app.conf.beat_schedule["theirs"] = {"task": "add", "schedule": 5.0}
        scheduler.tick()
        assert set(scheduler.schedule) == {"mine", "theirs"}

    def test_add_periodic_task(self) -> None:
        app = make_app()

        @app.on_after_configure.connect
        def early(sender: Any, **_: Any) -> None:
            sender.add_periodic_task(10.0, sender.tasks["add"].s(1), name="early", expires=5)

        @app.on_after_finalize.connect
        def late(sender: Any, **_: Any) -> None:
            sender.add_periodic_task(crontab(), sender.tasks["add"].s(2), kwargs={"y": 3})

        scheduler = Scheduler(app)
        assert walk(scheduler, 60) == [10, 20, 30, 40, 50, 60, 60]
        assert set(scheduler.schedule) == {"early", "add(2, y=3)"}
        app.add_periodic_task(1.0, app.tasks["add"].s(9), name="while it runs")
        scheduler.look_every = 0
        scheduler.tick()
        assert "while it runs" in scheduler.schedule

    def test_the_default_entry(self) -> None:
        from celery.backends.base import BaseDictBackend

        class Kept(BaseDictBackend):
            pass

        app = make_app()
        app.backend_cls = Kept
        app._forget("backend")
        entry = Scheduler(app).schedule["celery.backend_cleanup"]
        assert (entry.schedule, entry.options) == (crontab("0", "4"), {"expires": 12 * 3600})
        app.conf.result_expires = None
        assert "celery.backend_cleanup" not in Scheduler(app).schedule
        assert "celery.backend_cleanup" not in Scheduler(make_app()).schedule  # ours end by themselves

    def test_a_clock_that_jumps(self) -> None:
        app = make_app(beat_schedule={
            "often": {"task": "add", "schedule": 100.0},
            "hourly": {"task": "add", "schedule": crontab(minute=0), "args": [7]},
        })  # fmt: skip
        scheduler = Scheduler(app)
        walk(scheduler, 40, 10)
        for jump, hourly in ((-3600, 0), (3600, 0), (3600, 1)):  # back, forth again, and to what was not there before
            app.move(jump)
            scheduler.clock_jumped(jump)
            scheduler.tick()
            assert [one.args for one in sent(app)] == [[7]] * hourly
        assert walk(scheduler, 60, 10) == [60]


class TestSeams:
    """What schedulers of others override, and what tools that trace wrap."""

    def test_classes_are_where_celery_has_them(self) -> None:
        assert {cls.__module__ for cls in (beat.Scheduler, beat.PersistentScheduler, ScheduleEntry, beat.Service)} == {
            "celery.beat"
        }
        assert pickle.loads(pickle.dumps(SchedulingError("x"))).args == ("x",)

    def test_a_scheduler_with_a_schedule_of_its_own(self) -> None:
        class Mine(Scheduler):
            reads = 0

            def setup_schedule(self) -> None:
                self.table = {"x": ScheduleEntry("x", "add", schedule=schedule(5), app=self.app)}

            @property
            def schedule(self) -> Any:
                self.reads += 1
                return self.table

            def reserve(self, entry: Any) -> Any:
                self.table[entry.name] = following = next(entry)
                return following

        scheduler = Mine(make_app(beat_schedule={"ignored": EVERY_MINUTE}))
        assert walk(scheduler, 20) == [5, 10, 15, 20]
        scheduler.table["y"] = ScheduleEntry("y", "add", schedule=schedule(1), app=scheduler.app)
        assert walk(scheduler, 3) == [1, 2, 3]
        assert scheduler.reads

    def test_an_entry_that_is_a_row_of_a_database(self) -> None:
        """As django-celery-beat's: it does not call the constructor, and goes on with next(entry)."""
        row = {"last": START, "count": 0}

        class Row(ScheduleEntry):
            def __init__(self, name: str, app: Any) -> None:
                self.name, self.app, self.task, self.args, self.kwargs, self.options = name, app, "add", [3], {}, {}
                self.schedule = schedule(5, app=app)
                self.last_run_at, self.total_run_count = row["last"], row["count"]

            def __next__(self) -> Any:
                row.update(last=self.app.now(), count=row["count"] + 1)
                return type(self)(self.name, self.app)

        class Rows(Scheduler):
            Entry = Row

            def setup_schedule(self) -> None:
                self.data["x"] = Row("x", self.app)

        scheduler = Rows(make_app())
        assert walk(scheduler, 20) == [5, 10, 15, 20]
        assert row == {"last": START + timedelta(seconds=20), "count": 4}

    def test_apply_entry_and_tick_can_be_wrapped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        called, apply_entry, tick = [], Scheduler.apply_entry, Scheduler.tick

        def applied(*args: Any, **kwargs: Any) -> Any:
            _, entry = args
            entry.options["headers"] = {"sentry": entry.name}
            called.append(entry.name)
            return apply_entry(*args, **kwargs)

        def ticked(*args: Any, **kwargs: Any) -> Any:
            called.append("tick")
            return tick(*args, **kwargs)

        monkeypatch.setattr(Scheduler, "apply_entry", applied)
        monkeypatch.setattr(Scheduler, "tick", ticked)
        app = make_app(beat_schedule={"a": EVERY_MINUTE})
        scheduler = Scheduler(app)
        app.move(60)
        scheduler.tick()
        assert called == ["tick", "a"]
        assert sent(app)[0].headers["sentry"] == "a"

    def test_what_sends_is_the_task(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Tools wrap `Task.apply_async`, and signals may change the message."""
        app, seen = make_app(beat_schedule={"a": EVERY_MINUTE}), []
        apply_async = type(app.tasks["add"]).apply_async
        monkeypatch.setattr(
            type(app.tasks["add"]), "apply_async", lambda *a, **k: seen.append(1) or apply_async(*a, **k)
        )

        def change(headers: Any = None, **_: Any) -> None:
            headers["trace"] = "t"

        signals.before_task_publish.connect(change, sender="add")
        try:
            scheduler = Scheduler(app)
            app.move(60)
            scheduler.tick()
        finally:
            signals.before_task_publish.disconnect(change, sender="add")
        assert seen == [1]
        assert sent(app)[0].headers["trace"] == "t"

    def test_lazy_and_data(self) -> None:
        app = make_app(beat_schedule={"a": EVERY_MINUTE})
        assert Scheduler(app, lazy=True).schedule == {}
        assert set(Scheduler(app, schedule={}).schedule) == {"a"}
        assert Scheduler(app).info == ""

    def test_sync_by_time_and_by_number(self) -> None:
        app = make_app(beat_sync_every=2, beat_schedule={"a": {"task": "add", "schedule": 1.0}})
        scheduler = Scheduler(app)
        assert scheduler.should_sync()
        scheduler._do_sync()
        assert not scheduler.should_sync()
        walk(scheduler, 2)
        assert scheduler.should_sync()
        scheduler._do_sync()
        scheduler.sync_every = 0
        assert scheduler.should_sync()


class TestEntries:
    def test_what_they_look_like(self) -> None:
        app = make_app()
        entry = ScheduleEntry(
            "a", "add", schedule=crontab(), args=(1,), kwargs={"y": 2}, options={"queue": "q"}, app=app
        )
        assert repr(entry) == "<ScheduleEntry: a add(1, y=2) <crontab: * * * * * (m/h/dM/MY/d)>"
        assert dict(entry) == {
            "app": app, "name": "a", "task": "add", "args": (1,), "kwargs": {"y": 2}, "options": {"queue": "q"},
            "schedule": crontab(), "last_run_at": START, "total_run_count": 0,
        }  # fmt: skip

    def test_next(self) -> None:
        app = make_app()
        entry = ScheduleEntry("a", "add", schedule=1.0, app=app)
        app.move(5)
        after = next(entry)  # type: ignore[call-overload]
        assert (after.last_run_at, after.total_run_count) == (app.now(), 1)
        assert entry.next(START).last_run_at == START

    def test_equality_update_and_order(self) -> None:
        app = make_app()
        one = ScheduleEntry("a", "add", schedule=1.0, args=(1,), app=app, missed="skip")
        other = ScheduleEntry("b", "add", schedule=1.0, args=(1,), app=app, total_run_count=5)
        assert one == other
        assert one != ScheduleEntry("a", "add", schedule=2.0, args=(1,), app=app)
        assert one != 3
        assert (one < other) != (other < one)
        assert one <= other
        assert one >= other
        one.update(ScheduleEntry("c", "sub", schedule=2.0, app=app, overlap="skip"))
        assert (one.name, one.task, one.schedule, one.missed, one.overlap) == ("a", "sub", schedule(2), None, "skip")

    def test_pickles_as_celery_writes_them(self) -> None:
        entry = ScheduleEntry("a", "add", START, 3, crontab(), (1,), {"y": 2}, {"queue": "q"}, app=make_app())
        cls, fields = entry.__reduce__()
        assert cls is ScheduleEntry
        assert fields == ("a", "add", START, 3, crontab(), (1,), {"y": 2}, {"queue": "q"})
        again = pickle.loads(pickle.dumps(entry))
        assert (again, again.last_run_at, again.total_run_count) == (entry, START, 3)
