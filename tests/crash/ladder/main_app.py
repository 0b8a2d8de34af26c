"""A program that is its own application and worker: its children have to find the app in the file that was run."""

from __future__ import annotations

import threading

from celery import Celery

app = Celery("main_app")


@app.task
def add(x: int, y: int) -> int:
    return x + y


if __name__ == "__main__":
    worker = app.Worker(pool="prefork", concurrency=1, quiet=True)
    thread = threading.Thread(target=worker.start)
    thread.start()
    try:
        assert worker.ready.wait(20)
        assert add.name == "main_app.add"
        assert add.delay(2, 3).get(timeout=20) == 5
    finally:
        worker.stop()
        thread.join()
