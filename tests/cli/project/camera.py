"""A camera that prints what it sees."""

from typing import Any

from celery.events.snapshot import Polaroid


class Camera(Polaroid):
    clear_after = True

    def on_shutter(self, state: Any) -> None:
        for name in list(state.workers):
            print(name, flush=True)
        for _, task in state.tasks_by_time():
            print(task.name, task.state, flush=True)
