"""Lists of events, as workers send them: taken in one go, and as good as one by one."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any

import pytest

from celery import Celery
from celery.events import EventReceiver
from celery.events.dumper import Dumper, evdump
from celery.events.state import State
from celery.wire.broadcast import encode
from celery.worker.outlet import CHUNK, Outlet
from events.conftest import PATIENCE
from rig.calls import count_calls

TASKS = 50


def told(**fields: Any) -> dict[str, Any]:
    return {"hostname": "w@h", "utcoffset": -2, "pid": 7, "timestamp": 1000.0, **fields}


def story() -> list[dict[str, Any]]:
    """What a worker tells of some tasks."""
    events: list[dict[str, Any]] = []
    for number in range(TASKS):
        uuid = f"task-{number}"
        events += [
            told(type="task-received", uuid=uuid, name="t", args="()", kwargs="{}", clock=3 * number + 20),
            told(type="task-started", uuid=uuid, clock=3 * number + 21),
            told(type="task-succeeded", uuid=uuid, result="1", runtime=0.5, clock=3 * number + 22),
        ]
    return events


def heard(receiver: EventReceiver, body: Any) -> None:
    receiver._take("celeryev/task.multi", encode(body, exchange="celeryev", routing_key="task.multi"))


@pytest.fixture
def receiver(memory_app: Celery) -> EventReceiver:
    receiver: EventReceiver = memory_app.events.Receiver(None)
    return receiver


def test_a_list_says_what_its_events_say_one_by_one(memory_app: Celery) -> None:
    found: list[list[dict[str, Any]]] = []
    for bodies in ([story()], story()):
        events: list[dict[str, Any]] = []
        receiver = memory_app.events.Receiver(None, handlers={"*": events.append})
        for body in bodies:
            heard(receiver, body)
        assert all(time.time() - event.pop("local_received") < 60 for event in events)
        found.append(events)
    assert found[0] == found[1]
    assert len(found[0]) == 3 * TASKS


def test_the_clock_moves_past_the_last_of_a_list(receiver: EventReceiver) -> None:
    receiver.clock.value = 10
    heard(receiver, story())
    assert receiver.clock.value == 3 * TASKS + 20


@pytest.mark.parametrize(
    "odd",
    [
        {"type": "task-sent", "uuid": "a", "hostname": "client", "clock": 5},
        {"type": "task-x", "uuid": "a", "clock": None},
        {"type": "task-x", "uuid": "a"},
        {"type": "task-x", "uuid": "a", "clock": 5, "timestamp": "noon", "utcoffset": 1},
    ],
)
def test_a_list_with_another_kind_of_event_in_it(receiver: EventReceiver, odd: dict[str, Any]) -> None:
    events: list[dict[str, Any]] = []
    receiver.handlers = {"*": events.append}
    heard(receiver, [*story(), odd])
    assert len(events) == 3 * TASKS + 1
    assert isinstance(events[-1]["clock"], int)
    assert {event.get("timestamp") for event in events[:-1]} == {events[0]["timestamp"]}


def test_what_comes_before_something_that_is_no_event_is_handled(receiver: EventReceiver) -> None:
    events: list[dict[str, Any]] = []
    receiver.handlers = {"*": events.append}
    heard(receiver, [*story(), "no event", told(type="task-x", uuid="a", clock=1)])
    assert len(events) == 3 * TASKS


def test_handlers_of_a_type_come_first(memory_app: Celery) -> None:
    begun: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    heard(memory_app.events.Receiver(None, handlers={"task-started": begun.append, "*": others.append}), story())
    assert (len(begun), len(others)) == (TASKS, 2 * TASKS)


@pytest.mark.parametrize("method", ["process", "event_from_message"])
@pytest.mark.parametrize("way", ["class", "object"])
def test_programs_that_replace_a_method_are_asked_for_every_event(memory_app: Celery, method: str, way: str) -> None:
    seen: list[Any] = []

    def replaced(own: Callable[..., Any]) -> Callable[..., Any]:
        def method(*args: Any, **kwargs: Any) -> Any:
            seen.append(args)
            return own(*args, **kwargs)

        return method

    if way == "class":
        cls = type("Theirs", (EventReceiver,), {method: replaced(getattr(EventReceiver, method))})
        receiver = cls(None, app=memory_app)
    else:
        receiver = memory_app.events.Receiver(None)
        setattr(receiver, method, replaced(getattr(receiver, method)))
    heard(receiver, story())
    assert len(seen) == 3 * TASKS


def test_a_list_costs_as_many_calls_as_an_event_beside_its_handlers(memory_app: Celery) -> None:
    counted: list[str] = []

    class Handler:
        def __call__(self, event: dict[str, Any]) -> None:
            counted.append(event["type"])

    receiver = memory_app.events.Receiver(None, handlers={"*": Handler()})
    heard(receiver, story())
    calls = count_calls(lambda: heard(receiver, story()))
    assert sum(count for name, count in calls.items() if "/events/receiver.py:" in name) <= 10


def test_a_state_learns_of_a_task_in_few_calls(memory_app: Celery) -> None:
    state = State()
    receiver = memory_app.events.Receiver(None, handlers={"*": state.event})
    calls = count_calls(lambda: heard(receiver, story()))
    assert len(state.tasks_by_worker["w@h"]) == len(state.tasks_by_type["t"]) == TASKS
    assert sum(count for name, count in calls.items() if "_weakrefset" in name and name.endswith(":add")) == 2 * TASKS


def test_a_state_has_a_task_under_each_worker_that_had_it() -> None:
    state = State()
    for number, hostname in enumerate(["one@h", "one@h", "two@h", "one@h"]):
        for type in ("task-received", "task-retried"):
            event = told(type=type, uuid="a", name="t", clock=number, local_received=1000.0)
            state.event({**event, "hostname": hostname})
    assert [task.uuid for task in state.tasks_by_worker["one@h"]] == ["a"]
    assert [task.uuid for task in state.tasks_by_worker["two@h"]] == ["a"]
    assert state.tasks["a"].worker.hostname == "one@h"


class Counting(io.StringIO):
    flushed = 0

    def flush(self) -> None:
        self.flushed += 1


def test_a_dump_writes_each_event_at_once_unless_it_gathers() -> None:
    at_once, gathered = Counting(), Counting()
    eager, patient = Dumper(at_once), Dumper(gathered, gathers=True)
    for event in story():
        eager.on_event(event)
        patient.on_event(event)
    assert (at_once.flushed, gathered.getvalue()) == (3 * TASKS, "")
    patient.flush()
    assert gathered.flushed == 1
    assert gathered.getvalue() == at_once.getvalue()


def test_a_dump_shows_fields_whatever_their_names_are() -> None:
    out = io.StringIO()
    Dumper(out).on_event(told(type="worker-odd", **{"100% (of it)": 1, "load": "5 %"}))
    assert out.getvalue().endswith(
        " worker-odd: 100% (of it)=1, load=5 %, pid=7, utcoffset=-2\n".replace("-odd", " odd")
    )


def test_the_dump_of_a_program_writes_a_message_in_one_go(memory_app: Celery) -> None:
    bus = memory_app.broker.bus()

    class Interrupting(Counting):
        def write(self, text: str) -> int:
            written = super().write(text)
            if "starting capture" in text:
                payload = encode(story(), exchange="celeryev", routing_key="task.multi")
                memory_app.events.Receiver.on_consume_ready = lambda *args, **kwargs: bus.publish(
                    "celeryev/task.multi", payload
                )
            if "task succeeded" in text:
                raise KeyboardInterrupt
            return written

    out = Interrupting()
    evdump(memory_app, out)
    assert out.getvalue().count("\n") == 3 * TASKS + 1
    assert out.flushed <= 3


def test_whether_anybody_listens_is_asked_once_for_all_that_is_said(memory_app: Celery) -> None:
    asked: list[str] = []
    bus = memory_app.broker.bus()
    hears = bus.hears

    def counted(topic: str) -> bool:
        asked.append(topic)
        return hears(topic)

    bus.hears = counted  # type: ignore[method-assign] # what it says is passed on
    outlet = Outlet(bus)

    class Writer:
        topic = "t"

        def write(self, notes: Any) -> list[tuple[str, bytes]]:
            return [("t", b"%d" % len(notes))]

    outlet.writer = Writer()
    with bus.subscribe(["t"]) as listener:
        outlet.note_all([(number,) for number in range(3 * CHUNK)])
        outlet._drain()
        assert [listener.get(PATIENCE) for _ in range(3)] == [("t", b"%d" % CHUNK)] * 3
    outlet.note_all([(number,) for number in range(3 * CHUNK)])
    outlet._drain()
    assert (asked, outlet.sent) == (["t", "t"], 3)
