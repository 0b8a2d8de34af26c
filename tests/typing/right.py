"""What type checkers must understand of tasks. Never executed."""

from __future__ import annotations

from typing import Any, assert_type

from celery import (
    Celery,
    Signature,
    Task,
    chain,
    chord,
    chunks,
    current_app,
    group,
    shared_task,
    signature,
    xmap,
)
from celery.result import AsyncResult, EagerResult, GroupResult

app = Celery("typed", broker="memory://", backend="memory://", task_acks_late=True)


@app.task
def add(x: int, y: int = 0) -> int:
    return x + y


@app.task(name="typed.greet", max_retries=5)
def greet(name: str, *, loud: bool = False) -> str:
    return name.upper() if loud else name


@app.task(bind=True, autoretry_for=(OSError,), retry_backoff=True)
def fetch(self: Task[..., Any], url: str, timeout: float = 1.0) -> bytes:
    self.update_state(state="PROGRESS", meta={"at": self.request.retries})
    if self.request.is_eager:
        raise self.retry(countdown=3)
    return url.encode()


@app.task
async def download(url: str) -> list[str]:
    return [url]


@shared_task
def shared_plain(x: int) -> str:
    return str(x)


@shared_task(bind=True, ignore_result=False)
def shared_bound(self: Task[..., Any], x: int) -> list[int]:
    return [x]


@shared_task(name="typed.shared")
def shared_named(x: int) -> int:
    return x


class Scale(Task[[float], float]):
    name = "typed.scale"
    factor = 2.0

    def run(self, x: float) -> float:
        return x * self.factor

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        print(task_id)


class Untyped(Task):  # type: ignore[type-arg]
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)


@app.task(base=Untyped)
def based(x: int) -> int:
    return x


scale = app.register_task(Scale())

assert_type(add.delay(1, y=2), AsyncResult[int])
assert_type(add.delay(1).get(timeout=3), int)
assert_type(add(1, 2), int)
assert_type(add.apply_async((1, 2), countdown=10, queue="q"), AsyncResult[int])
assert_type(add.apply((1, 2)), EagerResult[int])
assert_type(add.apply((1, 2)).get(), int)
assert_type(add.s(1), Signature[int])
assert_type(add.si(1, 2).set(queue="q"), Signature[int])
assert_type(add.s(1).delay(2), AsyncResult[int])
assert_type(add.s(1).apply_async().get(), int)
assert_type(add.AsyncResult("id").get(), int)
assert_type(greet.delay("a", loud=True).get(), str)
assert_type(fetch.delay("http://x", timeout=2.0).get(), bytes)
assert_type(fetch("http://x"), bytes)
assert_type(download.delay("http://x").get(), list[str])
assert_type(download.s("http://x").delay().get(), list[str])
assert_type(download.apply_async(("http://x",)), AsyncResult[list[str]])
assert_type(shared_plain.delay(1).get(), str)
assert_type(shared_bound.delay(1).get(), list[int])
assert_type(shared_named.delay(1).get(), int)
assert_type(scale, Scale)
assert_type(scale.delay(1.5).get(), float)
assert_type(based.delay(1).get(), int)
assert_type(add.name, str)
assert_type(current_app.send_task("x"), AsyncResult[Any])
assert_type(signature("typed.add", (1, 2)), Signature[Any])


async def caller() -> None:
    assert_type(await add.adelay(1, y=2), AsyncResult[int])
    assert_type(await add.aapply_async((1,), countdown=1), AsyncResult[int])
    assert_type(await download("http://x"), list[str])
    assert_type(await download.aapply_async(("http://x",)), AsyncResult[list[str]])
    assert_type(await download.adelay("http://x"), AsyncResult[list[str]])
    result = await add.adelay(1)
    assert_type(await result.aget(), int)


assert_type(add.s(1) | greet.s(), Signature[str])
assert_type((add.s(1) | greet.s()).delay().get(), str)
assert_type(chain(add.s(1), greet.s()), chain[str])
assert_type(chain(add.s(1), add.s(2), greet.s(loud=True)).apply_async().get(), str)
assert_type(chain(add.s(x) for x in range(3)), chain[Any])
assert_type(group(add.s(1), add.s(2)), group[int])
assert_type(group(add.s(x) for x in range(3)).delay(), GroupResult)
assert_type(chord([add.s(1)], greet.s()), chord[str])
assert_type(chord([add.s(1)], greet.s()).delay().get(), str)
assert_type(chord(group(add.s(1)))(greet.s()), AsyncResult[str])
assert_type(chain(group(add.s(1), add.s(2)), greet.s()).delay().get(), str)
assert_type(add.chunks([(1, 2)], 1).delay(), GroupResult)
assert_type(add.map([1]), xmap[int])
assert_type(chunks(add.s(), 2, [1, 2]).group(), group[list[int]])
chain(chord([add.s(1)])(greet.s()), greet.s()).link_error(shared_plain.s())

with app.bulk():
    add.delay(1)
