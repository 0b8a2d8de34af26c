"""What type checkers must report: every line marked `wrong`, and no other. Never executed."""

from __future__ import annotations

from typing import Any

from celery import Celery, Task, shared_task

app = Celery("typed")


@app.task
def add(x: int, y: int = 0) -> int:
    return x + y


@app.task(bind=True)
def bound(self: Task[..., Any], x: int) -> str:
    return str(x)


@shared_task
def shared(x: int) -> int:
    return x


class Scale(Task[[float], float]):
    def run(self, x: float) -> float:
        return x


scale = app.register_task(Scale())

add.delay("1")  # wrong: a str is no int
add.delay()  # wrong: x is missing
add.delay(1, z=2)  # wrong: there is no z
add(1, 2, 3)  # wrong: too many
bound.delay(bound, 1)  # wrong: the task itself is given by the worker
bound.delay(x="1")  # wrong: a str is no int
shared.delay(None)  # wrong: None is no int
scale.delay("a")  # wrong: a str is no float
add.si(x="1")  # wrong: a str is no int
number: int = bound.delay(1).get()  # wrong: it returns a str
text: str = add.s(1).apply_async().get()  # wrong: it returns an int


async def caller() -> None:
    await add.adelay("1")  # wrong: a str is no int
