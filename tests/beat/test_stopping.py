"""A beat is told to stop by a signal, whose handler runs between any two steps of the very loop that it is to end."""

from __future__ import annotations

import sys
import threading
from itertools import count
from types import FrameType
from typing import Any

from beat.clocks import make_app
from celery import Celery
from celery.beat import Scheduler, Service

PATIENCE = 20.0


class Brief(Scheduler):
    """Has nothing to send, and is soon asked again."""

    def tick(self, *args: Any, **kwargs: Any) -> float:
        return 0.001


class Interrupted(threading.Thread):
    """Runs *service*, and has it stopped at step number *moment* of a turn, as a signal handler would."""

    def __init__(self, service: Service, moment: int) -> None:
        super().__init__(daemon=True)
        self.service = service
        self.moment = moment
        self.interrupted = False

    def run(self) -> None:
        self.service.turn()  # what only the first one does is done
        steps = count()

        def step(frame: FrameType, event: str, arg: object) -> None:
            if next(steps) == self.moment:
                sys.setprofile(None)
                self.interrupted = True
                self.service.stop()

        sys.setprofile(step)
        self.service.turn()
        sys.setprofile(None)


def test_it_ends_at_whatever_moment_of_a_turn_it_is_told_to() -> None:
    app = make_app(Celery)
    for moment in count():
        beat = Interrupted(Service(app, scheduler_cls=Brief), moment)
        beat.start()
        beat.join(PATIENCE)
        assert not beat.is_alive(), f"it hangs when it is told to stop at step {moment}"
        if not beat.interrupted:
            break
    assert moment > 10
