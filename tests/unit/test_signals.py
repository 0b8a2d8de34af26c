"""Signals: who is told, in what order, and what a failing receiver costs."""

from __future__ import annotations

import gc
import logging
import threading
from typing import Any

import pytest

from celery import signals
from celery.local import PromiseProxy
from celery.utils.dispatch import Signal


@pytest.fixture
def signal() -> Signal:
    return Signal(name="test", providing_args={"value"})


def test_receivers_are_called_in_order_with_what_was_sent(signal: Signal) -> None:
    seen: list[Any] = []

    @signal.connect
    def first(sender: Any, value: int, **kwargs: Any) -> str:
        seen.append(("first", sender, value, kwargs["signal"]))
        return "a"

    @signal.connect(sender=None)
    def second(**kwargs: Any) -> str:
        seen.append("second")
        return "b"

    assert signal.send(sender="s", value=3) == [(first, "a"), (second, "b")]
    assert seen == [("first", "s", 3, signal), "second"]


def test_a_sender_is_listened_to_alone(signal: Signal) -> None:
    seen: list[Any] = []
    me, other = object(), object()

    @signal.connect(sender=me)
    def receiver(sender: Any, **kwargs: Any) -> None:
        seen.append(sender)

    signal.send(sender=me)
    signal.send(sender=other)
    signal.send(sender=None)
    assert seen == [me]
    assert signal.has_listeners(me)
    assert not signal.has_listeners(other)


def test_names_are_compared_by_value(signal: Signal) -> None:
    seen: list[Any] = []

    @signal.connect(sender=str(b"proj.add", "ascii"))
    def receiver(sender: Any, **kwargs: Any) -> None:
        seen.append(sender)

    signal.send(sender="proj.add")
    assert seen == ["proj.add"]


def test_a_failing_receiver_is_logged_and_the_next_is_called(signal: Signal, caplog: pytest.LogCaptureFixture) -> None:
    @signal.connect
    def bad(**kwargs: Any) -> None:
        raise ValueError("no")

    @signal.connect
    def good(**kwargs: Any) -> int:
        return 1

    with caplog.at_level(logging.ERROR):
        answers = signal.send(sender=None)
    assert isinstance(answers[0][1], ValueError)
    assert answers[1] == (good, 1)
    assert "ValueError: no" in caplog.text


def test_what_nobody_holds_is_let_go(signal: Signal) -> None:
    def connect_and_leave() -> None:
        def receiver(**kwargs: Any) -> None: ...

        signal.connect(receiver)

    connect_and_leave()
    gc.collect()
    assert not signal.receivers


def test_strong_receivers_stay(signal: Signal) -> None:
    signal.connect(lambda **kwargs: 5, weak=False)
    gc.collect()
    assert [answer for _, answer in signal.send(sender=None)] == [5]


def test_bound_methods(signal: Signal) -> None:
    class Holder:
        seen = 0

        def receiver(self, **kwargs: Any) -> None:
            self.seen += 1

    holder = Holder()
    signal.connect(holder.receiver)
    signal.connect(holder.receiver)
    signal.send(sender=None)
    assert holder.seen == 1
    assert signal.disconnect(holder.receiver)
    signal.connect(holder.receiver)
    del holder
    gc.collect()
    assert not signal.receivers


def test_a_dispatch_uid_connects_once_and_disconnects(signal: Signal) -> None:
    signal.connect(lambda **kwargs: 1, weak=False, dispatch_uid="me")
    signal.connect(lambda **kwargs: 2, weak=False, dispatch_uid="me")
    assert [answer for _, answer in signal.send(sender=None)] == [1]
    assert signal.disconnect(dispatch_uid="me")
    assert not signal.disconnect(dispatch_uid="me")
    assert not signal.receivers


def test_a_receiver_must_take_what_may_come(signal: Signal) -> None:
    with pytest.raises(ValueError, match=r"add \*\*kwargs"):
        signal.connect(lambda sender: None)


def test_a_sender_that_is_not_made_yet(signal: Signal) -> None:
    seen: list[Any] = []
    made = object()
    proxy = PromiseProxy(lambda: made)

    @signal.connect(sender=proxy)
    def receiver(sender: Any, **kwargs: Any) -> None:
        seen.append(sender)

    assert not signal.receivers
    proxy._get_current_object()
    signal.send(sender=made)
    assert seen == [made]


def test_retry_calls_until_it_succeeds(signal: Signal, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("celery.utils.dispatch.signal.time.sleep", waits.append)
    tries: list[int] = []

    @signal.connect(retry=True)
    def receiver(**kwargs: Any) -> str:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("not yet")
        return "done"

    assert [answer for _, answer in signal.send(sender=None)] == ["done"]
    assert waits == [2.0, 4.0]


def test_connecting_while_sending_is_safe(signal: Signal) -> None:
    def late(**kwargs: Any) -> None: ...

    @signal.connect
    def receiver(**kwargs: Any) -> None:
        signal.connect(late)

    assert len(signal.send(sender=None)) == 1
    assert len(signal.send(sender=None)) == 2


def test_many_threads_connect() -> None:
    signal = Signal()
    start = threading.Barrier(8)

    def connect_some() -> None:
        start.wait()
        for _ in range(50):
            signal.connect(lambda **kwargs: None, weak=False)

    threads = [threading.Thread(target=connect_some) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(signal.receivers) == 400


def test_the_public_signals() -> None:
    assert len(signals.__all__) == 34
    for name in signals.__all__:
        found = getattr(signals, name)
        assert isinstance(found, Signal)
        assert found.name == name
    assert signals.task_success.providing_args == {"result", "runtime"}
