"""`Celery`: the application. It holds the parts together; each part has its own module."""

from __future__ import annotations

import os
import platform
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime, tzinfo
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, Literal, ParamSpec, Self, TypeVar, cast, overload

from celery import drivers, signals
from celery._state import (
    _announce_app_finalized,
    _deregister_app,
    _get_active_apps,
    _register_app,
    _set_current_app,
    set_default_app,
)
from celery.app import builtins as builtins
from celery.app import itemwise as itemwise
from celery.app import joins as joins
from celery.app.annotations import prepare as prepare_annotations
from celery.app.configuration import Configuration, PendingConfiguration
from celery.app.connections import Connections
from celery.app.parts import Parts
from celery.app.periodic import Periodic
from celery.app.publish import Publisher
from celery.app.pydantic import pydantic_wrapper as pydantic_wrapper
from celery.app.registration import W_DUPTASK as W_DUPTASK
from celery.app.registration import (
    Registration,
    describe_callable,
    frame_is_ours,
    type_checker,
)
from celery.app.registration import caller_stacklevel as caller_stacklevel
from celery.app.sending import UNSET, send_message, send_task
from celery.app.utils import AppPickler, bugreport
from celery.exceptions import ImproperlyConfigured
from celery.loaders import get_loader_cls
from celery.result import AsyncResult
from celery.utils.deferred import deferred
from celery.utils.dispatch import Signal
from celery.utils.functional import first
from celery.utils.imports import gen_task_name, module_exists, symbol_by_name
from celery.utils.log import get_logger
from celery.utils.objects import mro_lookup
from celery.utils.time import timezone

if TYPE_CHECKING:
    from celery import canvas
    from celery.app.amqp import Draft
    from celery.app.broadcast import BroadcastResult
    from celery.app.registry import TaskRegistry
    from celery.app.task import Task
    from celery.canvas.signature import Signature
    from celery.wire.message import Outgoing
else:
    canvas = deferred("celery.canvas")

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

logger = get_logger(__name__)

BUILTIN_FIXUPS = {"celery.fixups.django:fixup"}
USING_EXECV = os.environ.get("FORKED_BY_MULTIPROCESSING")
ERR_ENVVAR_NOT_SET = "The environment variable {0!r} is not set: it has to name the module of the configuration."


class Celery(Parts):
    """An application: `app = Celery("proj", broker="redis://", backend="redis://")`.

    Any thread may use it once it is set up.  Nothing is read, imported or connected before it is needed: the
    configuration is read at its first use, tasks are made when the app is finalised (at their first use), and the
    broker is reached by the first message.
    """

    SYSTEM = platform.system()
    IS_macOS = SYSTEM == "Darwin"
    IS_WINDOWS = SYSTEM == "Windows"

    Pickler: Any = AppPickler
    loader_cls: Any = None
    registry_cls: Any = "celery.app.registry:TaskRegistry"
    task_cls: Any = "celery.app.task:Task"
    builtin_fixups: ClassVar[set[str]] = BUILTIN_FIXUPS

    main: str | None = None
    steps: dict[str, set[Any]]
    user_options: dict[str, set[Any]]
    on_configure: Any = None
    # Each app has its own.
    on_after_configure: Signal = cast("Signal", None)
    on_after_finalize: Signal = cast("Signal", None)
    on_after_fork: Signal = cast("Signal", None)

    configured = False
    finalized = False

    def __init__(
        self,
        main: str | None = None,
        loader: Any = None,
        backend: Any = None,
        amqp: Any = None,
        events: Any = None,
        log: Any = None,
        control: Any = None,
        set_as_current: bool = True,
        tasks: Any = None,
        broker: str | None = None,
        include: Any = None,
        changes: Mapping[str, Any] | None = None,
        config_source: Any = None,
        fixups: Iterable[str] | None = None,
        task_cls: Any = None,
        autofinalize: bool = True,
        namespace: str | None = None,
        strict_typing: bool = True,
        config_source_silent: bool = False,
        **kwargs: Any,
    ) -> None:
        self._lock = threading.RLock()
        self._finalize_lock = threading.RLock()
        self._local = threading.local()
        self.main = main
        self.amqp_cls = amqp or self.amqp_cls
        self.events_cls = events or self.events_cls
        self.loader_cls = loader or self._default_loader()
        self.log_cls = log or self.log_cls
        self.control_cls = control or self.control_cls
        self._custom_task_cls = task_cls is not None
        self.task_cls = task_cls or self.task_cls
        self.set_as_current = set_as_current
        self.autofinalize = autofinalize
        self.strict_typing = strict_typing
        self.steps = {"worker": set(), "consumer": set()}
        self.user_options = {"preload": set(), "worker": set(), "beat": set(), "events": set()}
        self.configuration = Configuration(self, changes or {}, config_source, namespace, config_source_silent)
        if backend is not None and not isinstance(backend, str):
            self.backend_cls = backend
            backend = None
        for setting, value in {"broker_url": broker, "result_backend": backend, "include": include, **kwargs}.items():
            self.configuration.preset(setting, value)
        self.registration = Registration(self, tasks)
        self.publisher = Publisher(self)
        self.connections = Connections(self)
        self.periodic = Periodic(self)
        for hook in ("on_configure", "on_after_configure", "on_after_finalize", "on_after_fork"):
            if getattr(type(self), hook, None) is None:
                setattr(self, hook, Signal(name=f"app.{hook}"))
        self.fixups = set(self.builtin_fixups if fixups is None else fixups)
        self._fixups = [fixup for fixup in map(self._load_fixup, self.fixups) if fixup is not None]
        if set_as_current:
            self.set_current()
        self.on_init()
        _register_app(self)

    def _load_fixup(self, path: str) -> Any:
        """A framework's fixup says by itself whether it applies; Django's is loaded only where Django is meant."""
        if path in BUILTIN_FIXUPS and not (
            os.environ.get("DJANGO_SETTINGS_MODULE") and module_exists(path.partition(":")[0])
        ):
            return None
        return symbol_by_name(path)(self)

    def on_init(self) -> None:
        """Called at the end of the constructor; for subclasses."""

    def set_current(self) -> None:
        """Make this the current app of this thread."""
        _set_current_app(self)

    def set_default(self) -> None:
        """Make this the app of every thread that has no current one."""
        set_default_app(self)

    def close(self) -> None:
        """Let go of the broker and the store. The app can be used again."""
        for name in ("broker", "backend"):
            made = self.__dict__.pop(name, None)
            closer = getattr(getattr(made, "store", None) or made, "close", None)
            if closer is not None:
                closer()
        self.__dict__.pop("store", None)
        _deregister_app(self)

    # -- configuration -----------------------------------------------------------------------------------------------

    @property
    def namespace(self) -> str | None:
        return self.configuration.namespace

    def config_from_object(
        self, obj: Any, silent: bool = False, force: bool = False, namespace: str | None = None
    ) -> Any:
        """Take settings from an object, a dictionary, or the name of a module or of an object in one.

        With *namespace* only names that begin with it count (`CELERY_BROKER_URL` for `CELERY`).  It is read when a
        setting is first needed; with *force* now.
        """
        again = self.configured
        self.configured = False
        self._settings = None
        self._forget("amqp", "annotations", "backend", "broker", "store", "timezone")
        self.configuration.read_from(obj, namespace)
        self.configuration.silent = silent
        if force or again:
            return self.configuration.load()
        return None

    def config_from_envvar(self, variable_name: str, silent: bool = False, force: bool = False) -> Any:
        """Take settings from the module that an environment variable names; whether there is one."""
        module = os.environ.get(variable_name)
        if not module:
            if silent:
                return False
            raise ImproperlyConfigured(ERR_ENVVAR_NOT_SET.format(variable_name))
        return self.config_from_object(module, silent=silent, force=force) or True

    def config_from_cmdline(self, argv: Iterable[str], namespace: str = "celery") -> None:
        """Take settings from arguments of the form `worker.concurrency=4`."""
        self.conf.update(self.loader.cmdline_config_parser(argv, namespace))

    def add_defaults(self, fun: Any) -> Any:
        """Add defaults: a mapping, or a function that returns one and is called when the configuration is read."""
        self.configuration.add_defaults(fun)
        return fun

    def prepare_config(self, c: Any) -> Any:
        """What the loader read, as it is to be used; for subclasses."""
        return c

    def either(self, default_key: str, *defaults: Any) -> Any:
        """The first of *defaults* that is not None, else the setting *default_key*."""
        return first(None, [*defaults, self.conf.get(default_key)])

    def _when_configured(self) -> None:
        assert self._settings is not None
        self.periodic.put_into(self._settings)

    def _default_loader(self) -> Any:
        return self.loader_cls or os.environ.get("CELERY_LOADER") or "app"

    @cached_property
    def loader(self) -> Any:
        """Reads the configuration and imports the modules of tasks."""
        return get_loader_cls(self.loader_cls)(app=self)

    @cached_property
    def annotations(self) -> Any:
        return prepare_annotations(self.conf.task_annotations)

    @cached_property
    def timezone(self) -> tzinfo:
        """The zone of naive times and of schedules: `timezone`, else UTC, else, without `enable_utc`, the machine's."""
        conf = self.conf
        if not conf.timezone:
            return timezone.utc if conf.enable_utc else timezone.local
        return timezone.get_timezone(conf.timezone)

    def uses_utc_timezone(self) -> bool:
        return self.timezone == timezone.utc

    def now(self) -> datetime:
        """The time now, in the app's zone."""
        return datetime.now(UTC).astimezone(self.timezone)

    def clock_time(self) -> float:
        """Unix time as the broker counts it."""
        return self.broker.clock.time()

    # -- tasks -------------------------------------------------------------------------------------------------------

    if TYPE_CHECKING:

        @overload
        def task(self, fun: Callable[P, R], /) -> Task[P, R]: ...
        @overload
        def task(
            self, *, bind: Literal[True], **opts: Any
        ) -> Callable[[Callable[Concatenate[Any, P], R]], Task[P, R]]: ...
        @overload
        def task(self, *, bind: Literal[False] = False, **opts: Any) -> Callable[[Callable[P, R]], Task[P, R]]: ...

    def task(self, *args: Any, **opts: Any) -> Any:
        """Decorator: make a function a task of this app. `@app.task` or `@app.task(bind=True, name="…", …)`."""
        if args and isinstance(args[0], type):
            raise TypeError(
                f"app.task decorates functions; register the class with app.register_task({args[0].__name__})."
            )
        if len(args) > 1 or (args and not callable(args[0])):
            raise TypeError("app.task takes a function and keyword options: @app.task or @app.task(name=...).")
        shared, lazy, filter_ = opts.pop("shared", True), opts.pop("lazy", True), opts.pop("filter", None)

        def decorate(fun: Callable[..., Any]) -> Any:
            made = self.registration.declare(fun, shared=shared, lazy=lazy, **opts)
            return filter_(made) if filter_ else made

        return decorate(args[0]) if args else decorate

    def _task_from_fun(self, fun: Callable[..., Any], **options: Any) -> Any:
        return self.registration.make(fun, **options)

    def register_task(self, task: T, **options: Any) -> T:
        """Register a task that is a class or an object of one; the object."""
        return cast("T", self.registration.register(task, **options))

    def type_checker(self, fun: Callable[..., Any], bound: bool = False) -> Any:
        """Something that raises `TypeError` for arguments *fun* does not take."""
        return type_checker(fun, bound)

    def gen_task_name(self, name: str, module: str) -> str:
        """The name of a task that was not given one."""
        return gen_task_name(self, name, module)

    def create_task_cls(self) -> type[Task[..., Any]]:
        """The class that this app's tasks are made from."""
        return cast("type[Task[..., Any]]", self.subclass_with_self(
            self.task_cls, name="Task", attribute="_app", keep_reduce=True, abstract=True
        ))  # fmt: skip

    @cached_property
    def Task(self) -> type[Task[..., Any]]:  # noqa: N802 - the public name
        """Base of this app's tasks; can be replaced before the first task is made."""
        return self.create_task_cls()

    @property
    def tasks(self) -> TaskRegistry:
        """Every task by name. Finalises the app."""
        if not self.finalized:
            self.finalize(auto=True)
        return self.registration.tasks

    @property
    def _tasks(self) -> TaskRegistry:
        return self.registration.tasks

    def finalize(self, auto: bool = False) -> None:
        """Make the tasks that were declared, and those shared by other modules. Happens once."""
        with self._finalize_lock:
            if self.finalized:
                return
            if auto and not self.autofinalize:
                raise RuntimeError(
                    f"The app {self.main!r} was made with autofinalize=False: call app.finalize() first."
                )
            self.finalized = True
            self.registration.make_pending()
            _announce_app_finalized(self)
            for task in list(self.registration.tasks.values()):
                if task._app is not self or not task.__bound__:  # handed to the constructor
                    task.bind(self)
            if isinstance(self.on_after_finalize, Signal):
                self.on_after_finalize.send(sender=self)

    def autodiscover_tasks(self, packages: Any = None, related_name: str | None = "tasks", force: bool = False) -> None:
        """Import the module *related_name* of every package: now with *force*, else when a worker imports its modules.

        *packages* can be a function.  Without it, the framework is asked (Django's installed apps).
        """
        if force:
            self._autodiscover(packages, related_name)
            return

        def later(**_: Any) -> None:
            self._autodiscover(packages, related_name)

        signals.import_modules.connect(later, weak=False, sender=self)

    def _autodiscover(self, packages: Any, related_name: str | None) -> None:
        if packages:
            names = packages() if callable(packages) else packages
        else:
            names = [
                name
                for fixup in self._fixups
                if hasattr(fixup, "autodiscover_tasks")
                for name in fixup.autodiscover_tasks()
            ]
        self.loader.autodiscover_tasks(names, related_name)

    def add_periodic_task(
        self, schedule: Any, sig: Any, args: Any = (), kwargs: Any = (), name: str | None = None, **opts: Any
    ) -> str:
        """Have beat send *sig* by *schedule*; the key of the entry in `beat_schedule`."""
        return self.periodic.add(schedule, sig, args, dict(kwargs), name, opts)

    def signature(self, *args: Any, **kwargs: Any) -> Signature[Any]:
        """A signature of a task of this app."""
        kwargs["app"] = self
        return canvas.signature(*args, **kwargs)

    # -- sending -----------------------------------------------------------------------------------------------------

    def send_task(
        self,
        name: str,
        args: Any = None,
        kwargs: Any = None,
        countdown: float | None = None,
        eta: Any = None,
        task_id: str | None = None,
        producer: Any = None,
        connection: Any = None,
        router: Any = None,
        result_cls: Any = None,
        expires: Any = UNSET,
        publisher: Any = None,
        link: Any = None,
        link_error: Any = None,
        add_to_parent: bool = True,
        group_id: str | None = None,
        group_index: int | None = None,
        retries: int = 0,
        chord: Any = None,
        reply_to: str | None = None,
        time_limit: float | None = UNSET,
        soft_time_limit: float | None = UNSET,
        root_id: str | None = None,
        parent_id: str | None = None,
        route_name: str | None = None,
        shadow: str | None = None,
        chain: Any = None,
        task_type: Any = None,
        replaced_task_nesting: int = 0,
        **options: Any,
    ) -> AsyncResult[Any]:
        """Send a task by its name, which this process need not know. Options as `Task.apply_async` takes them.

        An `expires`, `time_limit` or `soft_time_limit` that is not given is the task's own, where it is known here.
        """
        options.update(
            task_id=task_id, countdown=countdown, eta=eta, expires=expires, link=link, link_error=link_error,
            group_id=group_id, group_index=group_index, retries=retries, chord=chord, reply_to=reply_to,
            time_limit=time_limit, soft_time_limit=soft_time_limit, root_id=root_id, parent_id=parent_id,
            shadow=shadow, chain=chain, replaced_task_nesting=replaced_task_nesting,
        )  # fmt: skip
        return send_task(
            self, name, args, kwargs, options, task_type=task_type, result_cls=result_cls,
            add_to_parent=add_to_parent, route_name=route_name, router=router,
            producer=producer or publisher or connection,
        )  # fmt: skip

    def _send_message(self, producer: Any, name: str, draft: Draft, options: Mapping[str, Any]) -> None:
        send_message(self, producer, draft, options)

    _send_task = send_task
    """What `send_task` is unless a subclass, or a package that traces, put its own in the place of it."""

    def publish(self, outgoings: Iterable[Outgoing]) -> None:
        """Hand messages to the broker; raises kombu's `OperationalError` when it cannot."""
        self.publisher.publish(list(outgoings))

    def bulk(self) -> AbstractContextManager[None]:
        """`with app.bulk():` sends what this thread sends in the block in batches, at its end.

        Results exist at once, messages only when the block has ended; when it raises, nothing is sent.
        """
        return self.publisher.bulk()

    def broadcast(
        self, name: Any, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> BroadcastResult:
        """Send the task *name* once to every worker that is up. See `celery.broadcast`."""
        return cast("BroadcastResult", drivers.door("broadcast")(name, args, kwargs, app=self, **options))

    # -- commands ----------------------------------------------------------------------------------------------------

    def start(self, argv: list[str] | None = None) -> None:
        """Run `celery` with *argv* (or this program's arguments) and this app, and return when that has ended.

        Raises click's errors for arguments that it does not understand, and SystemExit when the command failed.
        """
        self.set_current()
        code = drivers.door("main")(sys.argv[1:] if argv is None else argv, self)
        if code:
            raise SystemExit(code)

    def worker_main(self, argv: list[str] | None = None) -> None:
        """Run `celery worker` with *argv*, whose first word is `worker`."""
        argv = sys.argv[1:] if argv is None else argv
        if "worker" not in argv:
            raise ValueError("The worker sub-command must be specified in argv: app.worker_main(['worker', ...]).")
        self.start(argv=argv)

    def select_queues(self, queues: Any = None) -> None:
        """Consume only from *queues*."""
        self.amqp.queues.select(queues)

    def setup_security(
        self,
        allowed_serializers: Any = None,
        key: str | None = None,
        key_password: Any = None,
        cert: str | None = None,
        store: str | None = None,
        digest: str = "sha256",
        serializer: str = "json",
    ) -> None:
        """Sign messages, and refuse those that are not signed."""
        drivers.door("security")(allowed_serializers, key, key_password, cert, store, digest, serializer, app=self)

    def bugreport(self) -> str:
        """What belongs into a report of a problem."""
        return bugreport(self)

    # -- Python ------------------------------------------------------------------------------------------------------

    def _after_fork(self) -> None:
        """Called in a new process: what is connected or locked belongs to the old one."""
        self._local = threading.local()
        self._lock, self._finalize_lock = threading.RLock(), threading.RLock()
        self._forget("oid")
        self.publisher = Publisher(self)
        if isinstance(self.on_after_fork, Signal):
            self.on_after_fork.send(sender=self)

    def _forget(self, *names: str) -> None:
        for name in names:
            self.__dict__.pop(name, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.main or '__main__'} at {id(self):#x}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle_app, (type(self), self.Pickler, *self.__reduce_args__())

    def __reduce_args__(self) -> tuple[Any, ...]:
        """What the app's `Pickler` makes it of again."""
        changes = self._settings.changes if self._settings is not None else self.configuration.changes
        return (
            self.main, dict(changes), self.loader_cls, self.backend_cls, self.amqp_cls, self.events_cls, self.log_cls,
            self.control_cls, False, self.configuration.source,
        )  # fmt: skip


def _unpickle_app(cls: type[Celery], pickler: Any, *args: Any) -> Any:
    return pickler()(cls, *args)


def app_has_custom(app: Celery, attr: str) -> bool:
    """Whether the class of *app* has its own *attr*."""
    return bool(mro_lookup(type(app), attr, stop={Celery, object}, monkey_patched=[__name__]))


def _after_fork_in_child() -> None:
    for app in _get_active_apps():
        app._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

frame_is_celery = frame_is_ours
task_callable_qualname = describe_callable
App = Celery

__all__ = ["App", "Celery", "PendingConfiguration"]
