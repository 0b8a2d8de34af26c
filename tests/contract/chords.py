"""What a backend is for: a result, and a chord."""

from __future__ import annotations

from celery import Celery, chord
from celery.contrib.testing.worker import start_worker

SOON = 30.0


def run_tasks_and_chords(app: Celery) -> None:
    """On a worker of threads in this process."""

    @app.task(name="add", shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="total", shared=False)
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    with start_worker(app, pool="threads", perform_ping_check=False):
        assert add.delay(1, 2).get(timeout=SOON) == 3
        assert chord([add.s(number, 1) for number in range(10)])(total.s()).get(timeout=SOON) == 55
    app.close()
