"""An application that adds a step to its workers."""

from __future__ import annotations

from celery import Celery

app = Celery("stepped")


class Mine:
    """A step, as far as a picture is concerned."""

    requires = ("celery.worker.components:Pool",)


app.steps["worker"].add(Mine)
