"""`Task`: a function with a name that can be sent to a worker, and what it knows while it runs there."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import datetime, timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Generic, ParamSpec, TypeVar, cast, overload

from celery._state import _task_stack, get_current_app
from celery.app.annotations import resolve_all as resolve_all_annotations
from celery.app.annotations import wrapping
from celery.app.batches import Courier, courier_of
from celery.app.context import X_DEATH_HEADERS as X_DEATH_HEADERS
from celery.app.context import Context, get_actual_ignore_result
from celery.app.eager import apply_eagerly, through_serializer
from celery.app.limits import KEYS, asks_first
from celery.app.plans import Plan, Shape
from celery.app.plans import send as send_as_planned
from celery.app.replace import add_to_chord, replace_task
from celery.app.retry import retry_task, signature_from_request
from celery.canvas.maps import chunks, xmap, xstarmap
from celery.canvas.signature import Signature, signature
from celery.exceptions import Ignore, ImproperlyConfigured, MaxRetriesExceededError
from celery.local import class_property
from celery.result import denied_join_result
from celery.utils import uuid
from celery.utils.deferred import deferred_attribute
from celery.utils.functional import mattrgetter
from celery.utils.imports import instantiate
from celery.utils.threads import LocalStack

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.result import AsyncResult, EagerResult

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

extract_exec_options = mattrgetter(
    "queue", "routing_key", "exchange", "priority", "expires", "serializer", "delivery_mode", "compression",
    "time_limit", "soft_time_limit", "immediate", "mandatory",
)  # fmt: skip

R_BOUND_TASK = "<class {0.__name__} of {app}{flags}>"
R_UNBOUND_TASK = "<unbound {0.__name__}{flags}>"
R_INSTANCE = "<@task: {0.name} of {app}{flags}>"

TaskType = type
"""The metaclass of tasks, of old: it is the plain one."""


class Task(Generic[P, R_co]):
    """A task of one app: `P` are the parameters of its function, `R_co` is what that returns.

    One instance per name and app serves every thread; what belongs to one execution is in `request`.
    """

    MaxRetriesExceededError: ClassVar[type[MaxRetriesExceededError]] = MaxRetriesExceededError
    OperationalError: ClassVar[Any] = deferred_attribute("kombu.exceptions", "OperationalError")

    Strategy = "celery.worker.strategy:default"
    Request = "celery.worker.request:Request"

    _app: Celery | None = None
    name: str = None  # type: ignore[assignment]  # named when it is registered
    typing: bool | None = None
    max_retries: int | None = 3
    default_retry_delay: float = 180
    rate_limit: str | float | None = None
    ignore_result: bool | None = None
    trail: bool = True
    send_events: bool = True
    store_errors_even_if_ignored: bool | None = None
    store_eager_result: bool | None = None
    serializer: str | None = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    track_started: bool | None = None
    acks_late: bool | None = None
    acks_on_failure: bool | None = None
    acks_on_timeout: bool | None = None
    acks_on_failure_or_timeout: bool | None = None
    reject_on_worker_lost: bool | None = None
    retry_on_worker_lost: bool | None = None
    throws: tuple[type[BaseException], ...] | type[BaseException] = ()
    expires: float | datetime | None = None
    priority: int | None = None
    rate_limit_scope: str | None = None
    concurrency_limit: int | None = None
    concurrency_key: str | Callable[..., Any] | None = None
    unique: bool | float | timedelta | None = None
    idempotency_key: str | Callable[..., Any] | None = None
    resultrepr_maxsize: int = 1024
    abstract: bool = True
    request_stack: LocalStack[Context] = None  # type: ignore[assignment]  # made when it is bound

    from_config: tuple[tuple[str, str], ...] = (
        ("serializer", "task_serializer"),
        ("rate_limit", "task_default_rate_limit"),
        ("rate_limit_scope", "task_rate_limit_scope"),
        ("priority", "task_default_priority"),
        ("time_limit", "task_time_limit"),
        ("soft_time_limit", "task_soft_time_limit"),
        ("track_started", "task_track_started"),
        ("acks_late", "task_acks_late"),
        ("acks_on_failure_or_timeout", "task_acks_on_failure_or_timeout"),
        ("acks_on_failure", "task_acks_on_failure"),
        ("acks_on_timeout", "task_acks_on_timeout"),
        ("reject_on_worker_lost", "task_reject_on_worker_lost"),
        ("retry_on_worker_lost", "task_retry_on_worker_lost"),
        ("ignore_result", "task_ignore_result"),
        ("store_eager_result", "task_store_eager_result"),
        ("store_errors_even_if_ignored", "task_store_errors_even_if_ignored"),
    )
    """Attributes that take a setting's value where the task does not say otherwise."""

    __bound__ = False
    __v2_compat__ = False
    __trace__: Any = None
    __header__: Callable[..., Any] | None = None
    _backend: Any = None
    _exec_options: dict[str, Any] | None = None
    _plans: dict[Shape, Plan] | None = None
    _default_request: Context | None = None
    _dump_pydantic_arguments: Callable[..., tuple[Any, Any]] | None = None

    # -- binding to an app -------------------------------------------------------------------------------------------

    @classmethod
    def bind(cls, app: Celery) -> Celery:
        """Make it a task of *app*: settings and annotations fill in what the task leaves open."""
        bound, cls.__bound__ = cls.__bound__, True
        cls._app = app
        conf = app.conf
        cls._exec_options = None
        if cls.typing is None:
            cls.typing = app.strict_typing
        for attribute, setting in cls.from_config:
            if getattr(cls, attribute, None) is None:
                setattr(cls, attribute, conf[setting])
        if not bound:
            cls.annotate()
            cls.request_stack = LocalStack()
        cls.on_bound(app)
        return app

    @classmethod
    def on_bound(cls, app: Celery) -> None:
        """Called when it is bound to *app*; for subclasses."""

    @classmethod
    def _get_app(cls) -> Celery:
        app = cls._app
        if app is None:
            app = cls._app = get_current_app()
        if not cls.__bound__:
            cls.bind(app)
        return app

    @classmethod
    def annotate(cls) -> None:
        """Set what `task_annotations` says; a key that begins with `@` wraps that method."""
        for annotation in resolve_all_annotations(cls._get_app().annotations, cls):
            for key, value in annotation.items():
                if key.startswith("@"):
                    cls.add_around(key[1:], value)
                else:
                    setattr(cls, key, staticmethod(value) if key in KEYS and callable(value) else value)

    @classmethod
    def add_around(cls, attr: str, around: Callable[..., Any]) -> None:
        """Wrap method *attr*: *around* is called with the same arguments and finds the method as `__wrapped__`."""
        original = getattr(cls, attr)
        if getattr(original, "__wrapped__", None):
            original = original.__wrapped__
        setattr(cls, attr, wrapping(original, around))

    if TYPE_CHECKING:

        @property
        def app(self) -> Celery: ...
    else:
        app = class_property(_get_app, bind)

    # -- running -----------------------------------------------------------------------------------------------------

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Run the task here and now, as the function it is made of."""
        request = self.request_stack.top if self.request_stack is not None else None
        if (
            request is not None
            and not request.called_directly
            and not request._protected
            and type(self).__call__ is not Task.__call__
        ):
            # `super().__call__()` in a subclass, which a worker has called: it goes on with the worker's request.
            request._protected = 1
            return self.run(*args, **kwargs)
        _task_stack.push(self)
        self.push_request(args=args, kwargs=kwargs)
        try:
            return self.run(*args, **kwargs)
        finally:
            self.pop_request()
            _task_stack.pop()

    def run(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """What the task does."""
        raise ImproperlyConfigured(f"The task {self.name or type(self).__name__} has no run() method: define one.")

    def start_strategy(self, app: Celery, consumer: Any, **kwargs: Any) -> Any:
        """What a worker does with a message for this task."""
        return instantiate(self.Strategy, self, app, consumer, **kwargs)

    @property
    def request(self) -> Context:
        """The message that is executed here; outside of an execution a blank one."""
        stack = self.request_stack
        request = stack.top if stack is not None else None
        return self._get_request() if request is None else request

    def _get_request(self) -> Context:
        request = self.request_stack.top if self.request_stack is not None else None
        if request is not None:
            return request
        if self._default_request is None:
            self._default_request = Context()
        return self._default_request

    def push_request(self, *args: Any, **kwargs: Any) -> None:
        """Begin an execution in this thread: the fields of its request."""
        if self.request_stack is None:
            self._get_app()
        self.request_stack.push(Context(*args, **kwargs))

    def pop_request(self) -> Context | None:
        """End the last execution begun."""
        return self.request_stack.pop()

    # -- sending -----------------------------------------------------------------------------------------------------

    if TYPE_CHECKING:

        @overload
        def delay(self: Task[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> AsyncResult[T]: ...
        @overload
        def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R_co]: ...

    def delay(self, *args: Any, **kwargs: Any) -> Any:
        """Send it with these arguments. See `apply_async`."""
        return self.apply_async(args, kwargs)

    if TYPE_CHECKING:

        @overload
        def apply_async(
            self: Task[P, Coroutine[Any, Any, T]],
            args: Iterable[Any] | None = None,
            kwargs: Mapping[str, Any] | None = None,
            task_id: str | None = None,
            producer: Any = None,
            link: Any = None,
            link_error: Any = None,
            shadow: str | None = None,
            **options: Any,
        ) -> AsyncResult[T]: ...
        @overload
        def apply_async(
            self,
            args: Iterable[Any] | None = None,
            kwargs: Mapping[str, Any] | None = None,
            task_id: str | None = None,
            producer: Any = None,
            link: Any = None,
            link_error: Any = None,
            shadow: str | None = None,
            **options: Any,
        ) -> AsyncResult[R_co]: ...

    def apply_async(
        self,
        args: Any = None,
        kwargs: Any = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> Any:
        """Send it; when this returns, the broker has the message.

        Blocks for at most `broker_publish_timeout` seconds.  Raises `TypeError` when the arguments do not fit the
        function, kombu's `EncodeError` when they cannot be serialised and its `OperationalError` when the broker did
        not take the message.  With `task_always_eager` the task runs here instead.
        """
        header = self.__header__
        if header is not None and self.typing:
            header(*(args or ()), **(kwargs or {}))
        app = self._app if self.__bound__ else self._get_app()
        assert app is not None
        if self._dump_pydantic_arguments is not None:
            args, kwargs = self._dump_pydantic_arguments(args, kwargs)
        if type(self).shadow_name is not Task.shadow_name:
            shadow = shadow or self.shadow_name(args, kwargs, options)
        if producer is None and link is None and link_error is None and shadow is None:
            result = send_as_planned(self, app, args, kwargs, task_id, options)
            if result is not None:
                return result
        preset = self._exec_options or self._get_exec_options()
        if options:
            preset = {**preset, **options}
            if preset.get("ignore_result") is None:
                preset["ignore_result"] = self.ignore_result
        if app.conf.task_always_eager:
            args, kwargs = through_serializer(args, kwargs, preset.get("serializer") or app.conf.task_serializer)
            return self.apply(
                args, kwargs, task_id=task_id or uuid(), link=link, link_error=link_error, shadow=shadow, **preset
            )
        return app.send_task(
            self.name, args, kwargs, task_id=task_id, producer=producer, link=link, link_error=link_error,
            result_cls=self.AsyncResult, shadow=shadow, task_type=self, **preset,
        )  # fmt: skip

    _plain_apply_async = apply_async

    def _courier(self, options: dict[str, Any], chord: Any = None) -> Courier | None:
        """What makes many messages of this task that differ in arguments, id and place in a group only, if any can."""
        return courier_of(self, self._get_app(), options, chord)

    def shadow_name(self, args: Any, kwargs: Any, options: dict[str, Any]) -> str | None:
        """A name to show in logs and monitors instead of the task's own; for subclasses."""
        return None

    _plain_shadow_name = shadow_name

    def _get_exec_options(self) -> dict[str, Any]:
        if self._exec_options is None:
            found = {**extract_exec_options(self), "ignore_result": self.ignore_result}
            self._exec_options = {name: value for name, value in found.items() if value is not None}
        return self._exec_options

    if TYPE_CHECKING:

        @overload
        async def adelay(
            self: Task[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
        ) -> AsyncResult[T]: ...
        @overload
        async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R_co]: ...

    async def adelay(self, *args: Any, **kwargs: Any) -> Any:
        """`delay` for coroutines: does not block the event loop."""
        return await self.aapply_async(args, kwargs)

    if TYPE_CHECKING:

        @overload
        async def aapply_async(
            self: Task[P, Coroutine[Any, Any, T]],
            args: Iterable[Any] | None = None,
            kwargs: Mapping[str, Any] | None = None,
            **options: Any,
        ) -> AsyncResult[T]: ...
        @overload
        async def aapply_async(
            self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
        ) -> AsyncResult[R_co]: ...

    async def aapply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """`apply_async` for coroutines: does not block the event loop.

        Messages that several coroutines send at the same time reach the broker in one step.
        """
        app = self._get_app()
        if asks_first(self, options):
            return await import_module("asyncio").to_thread(self.apply_async, args, kwargs, **options)
        with app.publisher.collect() as outbox:
            result = self.apply_async(args, kwargs, **options)
        await app.publisher.apublish(outbox)
        return result

    def apply(
        self,
        args: Any = None,
        kwargs: Any = None,
        link: Any = None,
        link_error: Any = None,
        task_id: str | None = None,
        retries: int | None = None,
        throw: bool | None = None,
        logfile: str | None = None,
        loglevel: int | None = None,
        headers: dict[str, Any] | None = None,
        **options: Any,
    ) -> EagerResult[R_co]:
        """Run it here and now, as a worker would; with *throw* (or `task_eager_propagates`) its error is raised."""
        return cast(
            "EagerResult[R_co]",
            apply_eagerly(
                self, args, kwargs, link=link, link_error=link_error, task_id=task_id, retries=retries, throw=throw,
                logfile=logfile, loglevel=loglevel, headers=headers, **options,
            ),
        )  # fmt: skip

    # -- signatures --------------------------------------------------------------------------------------------------

    def signature(self, args: Any = None, *starargs: Any, **starkwargs: Any) -> Signature[R_co]:
        """A signature of this task: `signature(args, kwargs, options…)`."""
        starkwargs.setdefault("app", self.app)
        return signature(self, args, *starargs, **starkwargs)

    subtask = signature

    if TYPE_CHECKING:

        @overload
        def s(self: Task[P, Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> Signature[T]: ...
        @overload
        def s(self, *args: Any, **kwargs: Any) -> Signature[R_co]: ...

    def s(self, *args: Any, **kwargs: Any) -> Any:
        """A signature with these arguments, which may be partial."""
        return self.signature(args, kwargs)

    def si(self, *args: P.args, **kwargs: P.kwargs) -> Signature[R_co]:
        """A signature with exactly these arguments."""
        return self.signature(args, kwargs, immutable=True)

    def signature_from_request(
        self,
        request: Context | None = None,
        args: Any = None,
        kwargs: Any = None,
        queue: str | None = None,
        **extra_options: Any,
    ) -> Signature[R_co]:
        """A signature that sends this execution once more: same id, same callbacks, same place in its workflow."""
        return signature_from_request(self, request or self.request, args, kwargs, queue, **extra_options)

    subtask_from_request = signature_from_request

    def map(self, it: Iterable[Any]) -> xmap[R_co]:
        """A signature that calls this task with every item, all in one task."""
        return xmap(self, it, app=self.app)

    def starmap(self, it: Iterable[Any]) -> xstarmap[R_co]:
        """A signature that calls this task with every item as its arguments, all in one task."""
        return xstarmap(self, it, app=self.app)

    def chunks(self, it: Any, n: Any) -> chunks[R_co]:
        """A signature that calls this task with every item as its arguments, in tasks of *n* items each."""
        return chunks(self, it, n, app=self.app)

    # -- steering an execution ---------------------------------------------------------------------------------------

    def retry(
        self,
        args: Any = None,
        kwargs: Any = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Any:
        """Run the task again later; raises `Retry`, so that what follows in the task is not executed.

        After *max_retries* it raises *exc*, or `MaxRetriesExceededError` where there is none.  *eta*, or *countdown*
        in seconds, says when (`default_retry_delay` if neither is given).  With *throw* off, `Retry` is returned.
        """
        return retry_task(
            self, args, kwargs, exc=exc, throw=throw, eta=eta, countdown=countdown, max_retries=max_retries, **options
        )

    def replace(self, sig: Signature[Any], visitor: Any = None) -> Any:
        """Let *sig*, which *visitor* stamps, take the place of this execution, with its id, callbacks, chain and chord.

        Raises `Ignore`, so that what follows in the task is not executed; in eager mode the value of *sig* is returned.
        """
        return replace_task(self, sig, visitor)

    def add_to_chord(self, sig: Signature[Any], lazy: bool = False) -> Any:
        """Add *sig* to the header of the chord that this execution is in the header of; it is sent unless *lazy*."""
        return add_to_chord(self, sig, lazy)

    def update_state(
        self, task_id: str | None = None, state: str | None = None, meta: Any = None, **kwargs: Any
    ) -> None:
        """Store *state* and *meta* as what is known of this execution."""
        if task_id is None:
            task_id = self.request.id
        self.backend.store_result(task_id, meta, state, request=self.request, **kwargs)

    def add_trail(self, result: T) -> T:
        """Remember *result* as a child of this execution."""
        if self.trail:
            self.request.children.append(result)
        return result

    def send_event(self, type_: str, retry: bool = True, retry_policy: Any = None, **fields: Any) -> Any:
        """Send a monitoring event about this execution."""
        request = self.request
        policy = self.app.conf.task_publish_retry_policy if retry_policy is None else retry_policy
        with self.app.events.default_dispatcher(hostname=request.hostname) as dispatcher:
            return dispatcher.send(type_, uuid=request.id, retry=retry, retry_policy=policy, **fields)

    def AsyncResult(self, task_id: str, **kwargs: Any) -> AsyncResult[R_co]:  # noqa: N802 - the public name
        """The result of the task that was sent with *task_id*."""
        app = self._app if self.__bound__ else self._get_app()
        assert app is not None
        result: AsyncResult[R_co] = app.AsyncResult(task_id, task_name=self.name, **kwargs)
        return result

    _plain_result = AsyncResult

    # -- what subclasses may handle ----------------------------------------------------------------------------------

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Called in the worker before the task runs."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Called in the worker when it has returned."""

    def on_retry(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called in the worker when it is to be retried."""

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called in the worker when it has failed."""

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called in the worker when its result has been stored, whatever it is."""

    def on_replace(self, sig: Signature[Any]) -> Any:
        """Called when the task replaced itself; sends *sig* in its place."""
        with denied_join_result():
            if self.request.is_eager:
                return sig.apply().get(disable_sync_subtasks=False)
            sig.delay()
        raise Ignore("Replaced by new task")

    @property
    def backend(self) -> Any:
        """Where its results are stored: the app's backend, unless one was set."""
        return self.app.backend if self._backend is None else self._backend

    @backend.setter
    def backend(self, value: Any) -> None:
        self._backend = value

    @property
    def __name__(self) -> str:
        name: str = type.__getattribute__(type(self), "__name__")  # the property hides it from a plain read
        return name

    def __repr__(self) -> str:
        return describe(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _find_task, (self.name, type(self).__module__)


def describe(task: Any, app: Any = None, bound: str = R_BOUND_TASK, unbound: str = R_UNBOUND_TASK) -> str:
    """How a task, or a class of tasks, reads in a log."""
    if isinstance(task, Task):
        return R_INSTANCE.format(task, app=task._app, flags=", v2 compatible" if task.__v2_compat__ else "")
    app = app or task._app
    return (bound if app else unbound).format(task, app=app, flags="")


def _find_task(name: str, module: str | None = None) -> Task[..., Any]:
    """What a pickled task becomes: the one registered under its name in the current app."""
    if module:
        import_module(module)
    return cast("Task[..., Any]", get_current_app().tasks[name])


BaseTask = Task

__all__ = [
    "R_BOUND_TASK",
    "R_INSTANCE",
    "R_UNBOUND_TASK",
    "BaseTask",
    "Context",
    "Task",
    "TaskType",
    "extract_exec_options",
    "get_actual_ignore_result",
]
