"""Programs as their authors wrote them for Celery, run by real workers: recipes, tutorials, monitors."""

from __future__ import annotations

import asyncio
import functools
import pickle
import sys
import time
import traceback
import types
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, cast

import pytest

import celery
from celery import Celery, Task, shared_task, signals, states
from celery.app import trace
from celery.app.einfo import ExceptionInfo
from celery.app.task import Context
from celery.contrib.testing.worker import start_worker
from celery.exceptions import Ignore, MaxRetriesExceededError
from celery.result import AsyncResult, EagerResult
from celery.utils import uuid
from celery.utils.log import get_task_logger


@pytest.fixture
def url(place: str) -> str:
    return place


@pytest.fixture
def app(url: str) -> Iterator[Celery]:
    app = Celery("tasks", broker=url, backend=url)
    yield app
    app.close()


def worker(app: Celery, **options: Any) -> AbstractContextManager[Any]:
    return cast(
        "AbstractContextManager[Any]",
        start_worker(app, **{"perform_ping_check": False, "shutdown_timeout": 60.0, "pool": "solo", **options}),
    )


@contextmanager
def connected(signal: Any, receiver: Any, **options: Any) -> Iterator[None]:
    signal.connect(receiver, **options)
    try:
        yield
    finally:
        signal.disconnect(receiver, **options)


class FlaskLike:
    """What the recipes use of a `flask.Flask`."""

    current: ContextVar[FlaskLike | None] = ContextVar("current", default=None)

    def __init__(self, name: str) -> None:
        self.name = name
        self.import_name = name
        self.config: dict[str, Any] = {}
        self.extensions: dict[str, Any] = {}

    @contextmanager
    def app_context(self) -> Iterator[None]:
        token = self.current.set(self)
        try:
            yield
        finally:
            self.current.reset(token)


class TestFlask:
    def test_the_recipe_of_flasks_documentation(self, url: str) -> None:
        def celery_init_app(app: FlaskLike) -> Celery:
            class FlaskTask(Task):  # type: ignore[type-arg]
                def __call__(self, *args: object, **kwargs: object) -> object:
                    with app.app_context():
                        return self.run(*args, **kwargs)

            celery_app = Celery(app.name, task_cls=FlaskTask)
            celery_app.config_from_object(app.config["CELERY"])
            celery_app.set_default()
            app.extensions["celery"] = celery_app
            return celery_app

        @shared_task(ignore_result=False)
        def add_together(a: int, b: int) -> int:
            context = FlaskLike.current.get()
            assert context is not None
            assert celery.current_task.request.id
            return a + b + len(context.name)

        flask = FlaskLike("shop")
        flask.config["CELERY"] = {"broker_url": url, "result_backend": url, "task_ignore_result": True}
        celery_app = celery_init_app(flask)

        result = add_together.delay(1, 2)
        with worker(celery_app):
            assert result.get(timeout=30) == 7
        result = AsyncResult(result.id)
        assert (result.ready(), result.successful(), result.result) == (True, True, 7)

    def test_the_recipe_before_it(self, url: str) -> None:
        def make_celery(app: FlaskLike) -> Celery:
            celery = Celery(
                app.import_name, backend=app.config["CELERY_RESULT_BACKEND"], broker=app.config["CELERY_BROKER_URL"]
            )
            celery.conf.update(app.config)
            TaskBase = celery.Task

            class ContextTask(TaskBase):  # type: ignore[misc, valid-type]
                abstract = True

                def __call__(self, *args: Any, **kwargs: Any) -> Any:
                    with app.app_context():
                        return TaskBase.__call__(self, *args, **kwargs)

            celery.Task = ContextTask
            return celery

        flask = FlaskLike("old")
        flask.config.update(
            DEBUG=False, SECRET_KEY="dev", SQLALCHEMY_DATABASE_URI="sqlite://", JSON_AS_ASCII=True, SERVER_NAME=None,
            CELERY_BROKER_URL=url, CELERY_RESULT_BACKEND=url,
        )  # fmt: skip
        celery = make_celery(flask)

        @celery.task(bind=True)
        def who(self: Any, x: int) -> list[Any]:
            context = FlaskLike.current.get()
            return [context.name if context else None, self.request.id, self.request.called_directly, x]

        with worker(celery):
            result = who.delay(3)
            assert result.get(timeout=30) == ["old", result.id, False, 3]
        assert celery.conf["SQLALCHEMY_DATABASE_URI"] == "sqlite://"


class TestTaskClasses:
    @pytest.mark.parametrize("pool", ["solo", "threads"])
    def test_super_call_goes_on_with_the_request_of_the_worker(self, app: Celery, pool: str) -> None:
        class Timed(Task):  # type: ignore[type-arg]
            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                before = self.request.id
                value = super().__call__(*args, **kwargs)
                assert self.request.id == before
                return value

        @app.task(base=Timed, bind=True, name="who")
        def who(self: Any, again: bool = False) -> Any:
            seen = [self.request.id, self.request.called_directly, self.request.hostname is not None]
            # Called as a function, in an execution, it has a request of its own, and its caller has his afterwards.
            inner = self(False)[:2] if again else None
            return [*seen, inner, self.request.id]

        with worker(app, pool=pool):
            result = who.delay(again=True)
            assert result.get(timeout=30) == [result.id, False, True, [None, True], result.id]

    def test_super_call_can_retry(self, app: Celery) -> None:
        class Wrapped(Task):  # type: ignore[type-arg]
            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                return super().__call__(*args, **kwargs)

        @app.task(base=Wrapped, bind=True, default_retry_delay=0.01)
        def flaky(self: Any) -> int:
            if self.request.retries < 2:
                raise self.retry()
            return int(self.request.retries)

        with worker(app):
            assert flaky.delay().get(timeout=30) == 2
        assert flaky.apply().get() == 2

    def test_a_session_lives_as_long_as_the_task(self, app: Celery) -> None:
        closed = []

        class Session:
            def close(self) -> None:
                closed.append(self)

        class DatabaseTask(Task):  # type: ignore[type-arg]
            _db_session: Session | None = None

            @property
            def db(self) -> Session:
                if self._db_session is None:
                    self._db_session = Session()
                return self._db_session

            def after_return(self, status: Any, retval: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
                if self._db_session is not None:
                    self._db_session.close()
                    self._db_session = None

        @shared_task(base=DatabaseTask, bind=True)
        def update_user_stats(self: Any, user_id: int) -> bool:
            return self.db is self.db

        with worker(app):
            assert [update_user_stats.delay(number).get(timeout=30) for number in range(2)] == [True, True]
        assert len(set(map(id, closed))) == 2

    def test_a_lock_around_apply_async(self, app: Celery) -> None:
        """As celery-once and celery-singleton do it."""
        locks: dict[str, str] = {}

        class Once(Task):  # type: ignore[type-arg]
            abstract = True

            def apply_async(self, args: Any = None, kwargs: Any = None, task_id: Any = None, **options: Any) -> Any:  # type: ignore[override]
                assert self._get_app().conf.ONCE == {"backend": "memory"}
                key = f"{self.name}{args}"
                if key in locks:
                    return EagerResult(None, None, states.REJECTED)
                locks[key] = task_id = task_id or uuid()  # it may have run before this returns
                return super().apply_async(args, kwargs, task_id, **options)

            def after_return(self, status: Any, retval: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
                assert locks.pop(f"{self.name}{tuple(args)}") == task_id

        app.conf.ONCE = {"backend": "memory"}

        @app.task(base=Once)
        def slow(x: int) -> int:
            return x

        first, second = slow.delay(1), slow.delay(1)
        assert second.state == states.REJECTED
        with worker(app):
            assert first.get(timeout=30) == 1
            assert slow.delay(1).get(timeout=30) == 1

    def test_a_class_that_is_registered(self, app: Celery) -> None:
        class Add(app.Task):  # type: ignore[misc, name-defined]
            name = "proj.Add"

            def __init__(self) -> None:
                self.calls = 0

            def run(self, x: int, y: int) -> list[int]:
                self.calls += 1
                return [x + y, self.calls]

        add = app.register_task(Add())
        with worker(app):
            assert add.delay(1, 2).get(timeout=30) == [3, 1]
            assert app.send_task("proj.Add", args=[2, 2]).get(timeout=30) == [4, 2]


class TestTutorials:
    def test_a_welcome_email(self, url: str) -> None:
        app = Celery("tasks", broker=url, backend=url)
        app.conf.update(
            task_serializer="json", accept_content=["json"], result_serializer="json", timezone="UTC", enable_utc=True
        )

        @app.task(bind=True, max_retries=3, default_retry_delay=60)
        def send_welcome_email(self: Any, user_email: str, username: str) -> dict[str, str]:
            try:
                print(f"Sending welcome email to {user_email}...")
            except Exception as exc:
                raise self.retry(exc=exc) from exc
            else:
                return {"status": "sent", "email": user_email}

        result = send_welcome_email.delay("user@example.com", "Alice")
        assert result.status == "PENDING"
        assert AsyncResult(result.id, app=send_welcome_email.app).status == "PENDING"
        with worker(app):
            assert result.get(timeout=30) == {"status": "sent", "email": "user@example.com"}
        assert AsyncResult(result.id, app=app).status == "SUCCESS"
        app.close()

    def test_backoff_by_hand(self, app: Celery) -> None:
        tries = []

        @app.task(bind=True, max_retries=2, default_retry_delay=30, acks_late=True)
        def process_payment(self: Any, order_id: int, amount: float) -> None:
            tries.append(self.request.retries)
            try:
                raise ConnectionError("Payment gateway timeout")
            except ConnectionError as exc:
                countdown = 0.01 * (2**self.request.retries)
                raise self.retry(exc=exc, countdown=countdown) from exc

        with worker(app):
            result = process_payment.delay(1, 9.5)
            with pytest.raises(ConnectionError, match="gateway timeout"):
                result.get(timeout=30)
        assert tries == [0, 1, 2]
        assert result.state == states.FAILURE

    def test_retry_without_a_cause_runs_out(self, app: Celery) -> None:
        @app.task(bind=True, max_retries=1)
        def never(self: Any) -> None:
            self.retry(countdown=0)

        with worker(app), pytest.raises(MaxRetriesExceededError):
            never.delay().get(timeout=30)

    def test_autoretry_of_a_shared_task(self, app: Celery) -> None:
        logger = get_task_logger(__name__)

        @shared_task(
            bind=True, max_retries=3, default_retry_delay=60, autoretry_for=(ConnectionError, TimeoutError),
            retry_backoff=0.01, retry_jitter=False, retry_backoff_max=600,
        )  # fmt: skip
        def send_email(self: Any, to_address: str, subject: str, body: str) -> dict[str, Any]:
            logger.info("Sending email to %s", to_address)
            if self.request.retries < 2:
                raise ConnectionError
            return {"message_id": self.request.retries}

        with worker(app):
            assert send_email.delay("user@example.com", "Welcome", "Hello!").get(timeout=30) == {"message_id": 2}

    def test_options_of_apply_async(self, app: Celery) -> None:
        app.conf.task_routes = {"tasks.media": {"queue": "media"}}

        @app.task(name="tasks.order")
        def process_order(order_id: int) -> str:
            return f"Processed order {order_id}"

        media = app.task(name="tasks.media")(lambda: "seen")
        with worker(app, queues="celery,email,media"):
            assert process_order.apply_async(args=[123], retry=True, max_retries=3).get(timeout=30) == (
                "Processed order 123"
            )
            result = process_order.apply_async(args=[5], countdown=0.05, expires=3600, queue="email", priority=5)
            assert result.get(timeout=30) == "Processed order 5"
            assert media.delay().get(timeout=30) == "seen"

    def test_progress_in_a_state_of_its_own(self, app: Celery) -> None:
        seen = []

        @app.task(bind=True)
        def upload_file_with_progress(self: Any, destination: str) -> dict[str, str]:
            for uploaded in (1, 2):
                progress = int((uploaded / 2) * 100)
                self.update_state(state="PROGRESS", meta={"current": uploaded, "total": 2, "progress": progress})
                result = app.AsyncResult(self.request.id)
                seen.append((result.state, result.info["progress"]))
            return {"status": "complete", "file_path": destination}

        with worker(app):
            result = upload_file_with_progress.delay("there")
            assert result.get(timeout=30) == {"status": "complete", "file_path": "there"}
        assert seen == [("PROGRESS", 50), ("PROGRESS", 100)]

    def test_a_state_that_stays(self, app: Celery) -> None:
        @app.task(bind=True)
        def custom(self: Any) -> None:
            self.update_state(state="SKIPPED", meta={"why": "late"})
            raise Ignore

        with worker(app):
            result = custom.delay()
            deadline = time.monotonic() + 10
            while result.state != "SKIPPED":
                assert time.monotonic() < deadline
                time.sleep(0.005)
        assert result.info == {"why": "late"}

    def test_signals_as_in_every_post_about_monitoring(self, app: Celery) -> None:
        heard: list[tuple[Any, ...]] = []

        def task_prerun_handler(
            sender: Any = None, task_id: Any = None, task: Any = None, args: Any = None, kwargs: Any = None, **kw: Any
        ) -> None:
            heard.append(("prerun", task.name, task_id, tuple(args)))

        def task_postrun_handler(
            sender: Any = None, task_id: Any = None, task: Any = None, args: Any = None, kwargs: Any = None,
            retval: Any = None, state: Any = None, **kw: Any,
        ) -> None:  # fmt: skip
            heard.append(("postrun", task_id, state))

        def handle_task_failure(sender: Any, task_id: Any, exception: Any, traceback: Any, **kwargs: Any) -> None:
            heard.append(("failure", sender.name, task_id, str(exception), kwargs["einfo"].type.__name__))

        def handle_task_success(sender: Any, result: Any, **kwargs: Any) -> None:
            heard.append(("success", sender.name, result))

        @app.task(name="half")
        def half(x: int) -> float:
            return 1 / x

        with (
            connected(signals.task_prerun, task_prerun_handler),
            connected(signals.task_postrun, task_postrun_handler),
            connected(signals.task_failure, handle_task_failure, sender=half),
            connected(signals.task_success, handle_task_success),
            worker(app),
        ):
            good, bad = half.delay(2), half.delay(0)
            assert good.get(timeout=30) == 0.5
            with pytest.raises(ZeroDivisionError):
                bad.get(timeout=30)
        assert heard == [
            ("prerun", "half", good.id, (2,)),
            ("success", "half", 0.5),
            ("postrun", good.id, "SUCCESS"),
            ("prerun", "half", bad.id, (0,)),
            ("failure", "half", bad.id, "division by zero", "ZeroDivisionError"),
            ("postrun", bad.id, "FAILURE"),
        ]

    def test_a_project_with_autodiscovery(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
        package = tmp_path / "shopproj"
        (package / "orders").mkdir(parents=True)
        for name, text in {
            "celery.py": (
                "from celery import Celery\napp = Celery('shopproj')\n"
                "app.config_from_object('shopproj.celeryconfig')\napp.autodiscover_tasks(['shopproj.orders'])\n"
            ),
            "celeryconfig.py": f"broker_url = {url!r}\nresult_backend = {url!r}\ntask_default_queue = 'default'\n",
            "__init__.py": "from .celery import app as celery_app\n\n__all__ = ('celery_app',)\n",
            "orders/__init__.py": "",
            "orders/tasks.py": "from celery import shared_task\n\n@shared_task\ndef ship(x):\n    return x + 1\n",
        }.items():
            (package / name).write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        project = __import__("shopproj")
        try:
            assert celery.current_app._get_current_object() is project.celery_app  # type: ignore[attr-defined]
            with worker(project.celery_app):
                assert project.celery_app.send_task("shopproj.orders.tasks.ship", (1,)).get(timeout=30) == 2
        finally:
            project.celery_app.close()
            for name in [name for name in sys.modules if name.partition(".")[0] == "shopproj"]:
                del sys.modules[name]


class TestFastAPI:
    def test_routes_send_and_poll(self, app: Celery) -> None:
        @app.task(name="app.tasks.work")
        def work(x: int) -> int:
            async def inner() -> int:
                await asyncio.sleep(0)
                return x * 2

            return asyncio.run(inner())

        async def route() -> str:
            return str(work.delay(4).id)

        async def native_route() -> str:
            return str((await work.adelay(5)).id)

        async def status(task_id: str) -> dict[str, Any]:
            result: Any = AsyncResult(task_id, app=app)
            return {"status": result.status, "result": result.result if result.ready() else None}

        first, second = asyncio.run(route()), asyncio.run(native_route())
        assert asyncio.run(status(first)) == {"status": "PENDING", "result": None}
        with worker(app):
            assert [AsyncResult(one, app=app).get(timeout=30) for one in (first, second)] == [8, 10]
        assert asyncio.run(status(second)) == {"status": "SUCCESS", "result": 10}

    def test_eager_in_tests(self, app: Celery) -> None:
        app.conf.update(task_always_eager=True, task_eager_propagates=True)

        @app.task
        def send_email(address: str) -> dict[str, str]:
            return {"message_id": address}

        @app.task
        def fail() -> None:
            raise ValueError("no")

        result = send_email.delay("test@example.com")
        assert result.successful()
        assert "message_id" in result.result
        with pytest.raises(ValueError, match="no"):
            fail.delay()


class TestMonitoring:
    """Where packages for tracing and errors take hold."""

    def test_headers_put_in_when_it_is_published_are_attributes_of_the_request(self, app: Celery) -> None:
        def inject(sender: Any = None, headers: Any = None, body: Any = None, **kwargs: Any) -> None:
            headers.update(traceparent="00-abc-def-01", headers={"sentry-trace": "t-1"})
            seen.append((sender, headers["task"], headers["id"]))

        seen: list[tuple[Any, ...]] = []

        @app.task(bind=True, name="traced", default_retry_delay=0.01)
        def traced(self: Any) -> list[Any]:
            if not self.request.retries:
                raise self.retry()
            request = self.request
            return [request.traceparent, request.get("traceparent"), request.get("nothing"), request.headers]

        with connected(signals.before_task_publish, inject), worker(app):
            result = traced.delay()
            found = result.get(timeout=30)
        # What stands in `headers` of the headers, where Sentry puts its own, is what `request.headers` shows.
        assert found == ["00-abc-def-01", "00-abc-def-01", None, {"sentry-trace": "t-1"}]
        assert seen == [("traced", "traced", result.id)] * 2

    def test_headers_of_the_sender_survive_a_retry(self, app: Celery) -> None:
        @app.task(bind=True, default_retry_delay=0.01)
        def task(self: Any) -> list[Any]:
            if not self.request.retries:
                raise self.retry()
            return [self.request.tenant, self.request.headers]

        with worker(app):
            assert task.apply_async(headers={"tenant": "a"}).get(timeout=30) == ["a", {"tenant": "a"}]

    def test_einfo_passes_as_billiards(self, app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
        """As OpenTelemetry looks at it: any other class is taken for the exception itself, and fails."""

        class BilliardsExceptionInfo:
            pass

        billiard = types.ModuleType("billiard.einfo")
        vars(billiard)["ExceptionInfo"] = BilliardsExceptionInfo
        recorded: list[str] = []

        def trace_failure(*args: Any, **kwargs: Any) -> None:
            ex = kwargs["einfo"]
            if isinstance(ex, BilliardsExceptionInfo):
                ex = ex.exception  # type: ignore[attr-defined]
            recorded.extend(traceback.format_exception_only(ex))

        fail = app.task(name="fail")(lambda: 1 / 0)
        with connected(signals.task_failure, trace_failure), worker(app):
            monkeypatch.setitem(sys.modules, "billiard.einfo", billiard)
            with pytest.raises(ZeroDivisionError):
                fail.delay().get(timeout=30)
        assert recorded == ["ZeroDivisionError: division by zero\n"]
        info = ExceptionInfo.of(ValueError("x"))
        assert isinstance(info, ExceptionInfo)
        assert "ValueError: x" in pickle.loads(pickle.dumps(info)).traceback

    def test_build_tracer_is_replaced_on_its_module(self, app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
        """As Sentry does it: the tracer is wrapped, and within it the `run` of the task or its `__call__`."""
        calls: list[str] = []
        original = trace.build_tracer

        def wrap(fun: Any, name: str) -> Any:
            @functools.wraps(fun)
            def inner(*args: Any, **kwargs: Any) -> Any:
                calls.append(name)
                return fun(*args, **kwargs)

            return inner

        def patched(name: str, task: Any, *args: Any, **kwargs: Any) -> Any:
            if not getattr(task, "_is_patched", False):
                if trace.task_has_custom(task, "__call__"):
                    type(task).__call__ = wrap(type(task).__call__, f"{name}.__call__")
                else:
                    task.run = wrap(task.run, f"{name}.run")
                task._is_patched = True
            return wrap(original(name, task, *args, **kwargs), f"{name} traced")

        monkeypatch.setattr(trace, "build_tracer", patched)

        class Custom(Task):  # type: ignore[type-arg]
            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                return super().__call__(*args, **kwargs)

        plain = app.task(name="plain")(lambda: 1)
        custom = app.task(name="custom", base=Custom, bind=True)(lambda self: self.request.id)
        with worker(app):
            assert [plain.delay().get(timeout=30) for _ in range(2)] == [1, 1]
            result: Any = custom.delay()
            assert result.get(timeout=30) == result.id
        assert calls == ["plain traced", "plain.run"] * 2 + ["custom traced", "custom.__call__"]

    def test_apply_async_and_send_task_are_replaced_on_their_classes(
        self, app: Celery, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent: list[str] = []
        apply_async, send_task = Task.apply_async, Celery.send_task

        def traced_apply_async(self: Any, *args: Any, **kwargs: Any) -> Any:
            sent.append(f"apply_async {self.name}")
            return apply_async(self, *args, **kwargs)

        def traced_send_task(self: Any, name: str, *args: Any, **kwargs: Any) -> Any:
            sent.append(f"send_task {name}")
            kwargs["headers"] = {**(kwargs.get("headers") or {}), "baggage": "b"}
            return send_task(self, name, *args, **kwargs)

        monkeypatch.setattr(Task, "apply_async", traced_apply_async)
        monkeypatch.setattr(celery.Celery, "send_task", traced_send_task)
        task = app.task(name="t", bind=True)(lambda self: self.request.get("baggage"))
        with worker(app):
            assert task.delay().get(timeout=30) == "b"
            assert task.s().apply_async().get(timeout=30) == "b"
            assert app.send_task("t").get(timeout=30) == "b"
        assert sent == ["apply_async t", "send_task t"] * 2 + ["send_task t"]

    def test_what_monitors_read_of_a_request(self, app: Celery) -> None:
        @app.task(bind=True)
        def look(self: Any) -> dict[str, Any]:
            request = self.request
            assert self.request_stack.top is request
            assert isinstance(request, Context)
            assert request.__dict__["id"] == request.id
            return {
                name: request.get(name)
                for name in ("delivery_info", "retries", "is_eager", "timelimit", "origin", "reply_to", "task")
            }

        with worker(app):
            seen = look.apply_async(priority=3, soft_time_limit=20, time_limit=30).get(timeout=30)
        assert seen["delivery_info"]["routing_key"] == "celery"
        assert seen["delivery_info"]["priority"] == 3
        assert (seen["retries"], seen["is_eager"], seen["timelimit"]) == (0, False, [30, 20])
        assert seen["task"] == look.name
        assert "@" in seen["origin"]
