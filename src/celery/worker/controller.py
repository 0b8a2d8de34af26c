"""`WorkController`: one worker, from its options to its exit code.

The services and the order in which they start and stop stand in `start` and `_stop_services`, each with its reason.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from celery import drivers, signals
from celery._state import app_or_default
from celery.concurrency.base import Boot, Pool
from celery.drivers import pool_class
from celery.exceptions import BackendError, BrokerError, ImproperlyConfigured, WorkerShutdown, WorkerTerminate
from celery.utils import worker_direct
from celery.utils.imports import symbol_by_name
from celery.utils.log import get_logger, mlevel
from celery.utils.nodenames import default_nodename, host_format, node_format
from celery.utils.pidfiles import Pidfile, take_pidfile
from celery.utils.text import str_to_list
from celery.utils.turns import weighed
from celery.worker import stamps, state, statistics
from celery.worker.aside import Aside
from celery.worker.banner import masked
from celery.worker.child import ChildOptions, app_reference, boot_here, child_boot
from celery.worker.consumer import Consumer
from celery.worker.control import ControlState, Panel
from celery.worker.endings import ask_store
from celery.worker.facts import FactsTable
from celery.worker.leases import LeaseKeeper
from celery.worker.looptimer import LoopTimer
from celery.worker.mailbox import Mailbox
from celery.worker.mingle import mingle
from celery.worker.monitoring import Monitoring
from celery.worker.options import OPTION_NAMES, WorkerOptions, complete
from celery.worker.reloading import restart_pool
from celery.worker.shutdown import Shutdown
from celery.worker.statedb import Persistent
from celery.worker.timelimits import tell, wanted

if TYPE_CHECKING:
    from celery.app.base import Celery

logger = get_logger(__name__)

SELECT_UNKNOWN_QUEUE = (
    "Trying to select queue subset of {0!r}, but queue {1} isn't defined in the `task_queues` setting.\n\nIf you want"
    " to automatically declare unknown queues you can enable the `task_create_missing_queues` setting."
)
DESELECT_UNKNOWN_QUEUE = (
    "Trying to deselect queue subset of {0!r}, but queue {1} isn't defined in the `task_queues` setting."
)
EX_OK, EX_FAILURE = 0, 1


class WorkController:
    """A worker. `start` blocks until it has stopped; `stop` and `terminate` may be called from any thread.

    Subclasses may override the hooks `on_before_init`, `on_after_init`, `on_start`, `on_consumer_ready` and
    `on_stopped`.  This class takes no signals and prints nothing: `celery.worker.worker.Worker` does.
    """

    app: Celery
    pidlock: Pidfile | None = None
    pool: Pool | None = None
    consumer: Consumer | None = None
    exitcode: int | None = None
    takes_signals = False
    colorize: bool | None = None
    """Whether the log is coloured; None: as the settings and the terminal say."""
    state = state

    def __init__(self, app: Celery | None = None, hostname: str | None = None, **kwargs: Any) -> None:
        self.app = app_or_default(app or getattr(type(self), "app", None))
        self.hostname = host_format(default_nodename(hostname))
        self.pid = os.getpid()
        self.startup_time = datetime.now(UTC)
        self.app.loader.init_worker()
        self.on_before_init(**kwargs)
        self.loglevel = mlevel(kwargs.get("loglevel"))
        self.logfile = kwargs.get("logfile")
        self.setup_includes(kwargs.get("include") or ())
        self.app.finalize()
        self.options: WorkerOptions = complete(self.app, kwargs)
        self.concurrency = self.options.concurrency
        self.setup_queues(kwargs.get("queues") or (), kwargs.get("exclude_queues") or ())
        self.broker = self.app.broker_for_read()
        self.ready = threading.Event()
        """Set when the worker claims tasks."""
        self._shutdown: Shutdown | None = None
        self._early: str | None = None
        self._statedb: Persistent | None = None
        self._keeper: LeaseKeeper | None = None
        self._aside: Aside | None = None
        self._mailbox: Mailbox | None = None
        self.autoscaler: Any = None
        """What keeps the pool between two sizes, where that is asked for."""
        self._beat: Any = None
        self._monitoring: Monitoring | None = None
        self.timer = LoopTimer()
        """Calls at a later time, made by the loop once it runs."""
        self._asked_to_stop = threading.Event()
        self._stopped = threading.Event()
        signals.worker_init.send(sender=self)
        self.steps: list[Any] = []
        self.blueprint: Any = None
        self._steps: Any = None
        if self.app.steps["worker"] or self.app.steps["consumer"]:
            self._steps = import_module("celery.worker.steps").Steps(self, kwargs)
        self.on_after_init(**kwargs)
        signals.celeryd_after_setup.send(sender=self.hostname, instance=self, conf=self.app.conf)

    hub = None
    """No event loop of kombu's: calls at a later time go through `timer`."""

    @property
    def active_requests(self) -> Any:
        """What runs now."""
        return state.active_requests

    # -- hooks -----------------------------------------------------------------------------------------------------

    def on_before_init(self, **kwargs: Any) -> None:
        """Before the options are read."""
        options = {**dict.fromkeys(OPTION_NAMES), **kwargs}
        signals.celeryd_init.send(sender=self.hostname, instance=self, conf=self.app.conf, options=options)

    def on_after_init(self, **kwargs: Any) -> None:
        """The options are read, nothing has started."""

    def on_start(self) -> None:
        """About to start."""

    def on_cannot_connect(self, error: Exception) -> None:
        """The broker or the result store is out of reach; it will be tried again."""

    def on_consumer_ready(self, consumer: Consumer) -> None:
        """Claiming tasks from now on."""

    def on_stopped(self) -> None:
        """Everything has stopped."""

    # -- preparation -----------------------------------------------------------------------------------------------

    def setup_includes(self, includes: str | Sequence[str]) -> None:
        """Import further modules with tasks."""
        names = tuple(str_to_list(includes) or ())
        if names:
            self.app.conf.include = (*(self.app.conf.include or ()), *names)
            for name in names:
                self.app.loader.import_task_module(name)

    def setup_queues(self, include: str | Sequence[str], exclude: str | Sequence[str] | None = None) -> None:
        """Choose the queues; raises ImproperlyConfigured for one that is not defined."""
        queues = self.app.amqp.queues
        include, self.weights = weighed(str_to_list(include) or (), queues)
        try:
            queues.select(include)
        except KeyError as error:
            raise ImproperlyConfigured(SELECT_UNKNOWN_QUEUE.format(include, error)) from error
        try:
            queues.deselect(str_to_list(exclude or ()))
        except KeyError as error:
            raise ImproperlyConfigured(DESELECT_UNKNOWN_QUEUE.format(exclude, error)) from error
        if self.app.conf.worker_direct:
            queues.select_add(worker_direct(self.hostname))
        if not queues.consuming():
            raise ImproperlyConfigured("This worker has no queue to consume from: see -Q and -X.")

    @property
    def keeper(self) -> LeaseKeeper | None:
        """What keeps the leases, once there are some."""
        return self._keeper

    @property
    def queue_names(self) -> list[str]:
        return [queue.name for queue in self.app.amqp.queues.consuming()]

    # -- start and stop --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Run until stopped. What ends it is in `exitcode`; an error that keeps it from starting is raised."""
        self.on_start()
        try:
            self._start_services()
            self._work()
        except WorkerTerminate as error:
            self._leave(error.code, cold=True)
        except SystemExit as error:
            self._leave(error.code, cold=False)
        finally:
            self._stop_services()

    def _start_services(self) -> None:
        """In this order; `_stop_services` ends them in its own."""
        state.reset_state()
        broker = self.broker
        # Nobody else runs under this name.
        if self.options.pidfile:
            self.pidlock = take_pidfile(self.options.pidfile)
        # What was revoked in an earlier run, before anything is claimed.
        if self.options.statedb:
            self._statedb = Persistent(state, node_format(self.options.statedb, self.hostname), self.app.clock)
            self._statedb.merge()
        # An unreachable broker is said before there are processes to clean up.
        self._connect()
        if self.options.purge:
            logger.warning("purge: removed %s messages", sum(broker.purge(name) for name in self.queue_names))
        # The pool before any thread: its processes come from a template, but a template may still be made by a fork.
        self.pool = self._make_pool()
        self.pool.start()
        # From here on a signal finds a loop that it can tell.
        self.consumer = self._make_consumer(self.pool)
        self.consumer.controller = self
        self._shutdown = Shutdown(
            self.consumer,
            self.hostname,
            soft_timeout=self.options.soft_shutdown_timeout,
            soft_when_idle=self.options.soft_shutdown_on_idle,
            blocking_pool=self.pool.name == "solo",
        )
        if self.takes_signals:
            self._shutdown.install()
        # The lease before the first claim.
        self._keeper = LeaseKeeper(
            broker,
            self._renew,
            partial(self.consumer.call_soon, self.consumer.on_lease_lost),
            store=self.app.store,
        )
        self._keeper.start()
        self._aside = Aside(self.consumer.source, broker.lease)
        self._aside.start()
        # What is to be known before the first claim, from workers that keep it in their memory.
        if self.options.mingle and broker.can.fanout:
            mingle(self.app, self.hostname)
        # From the first task on monitors are told. Before the commands that turn it on and off.
        if broker.can.fanout:
            self._monitoring = Monitoring(self.app, self.hostname, self.consumer, self.options)
            self._monitoring.start()
        if self.options.autoscale is not None:
            self.autoscaler = self._make_autoscaler(self.pool)
            self.autoscaler.start()
        # Commands last: everything they ask about is there.
        if self.app.conf.worker_enable_remote_control and broker.can.fanout:
            control = ControlState(self.app, self.hostname, self.consumer, self)
            self._mailbox = Mailbox(control, Panel)
            self._mailbox.start()
        self._start_guests(self.consumer)

    def _start_guests(self, consumer: Consumer) -> None:
        """What finds a whole worker, which has claimed nothing yet."""
        if self._steps is not None:
            self._steps.start(consumer)
        # Who hears that this worker is there may ask it something.
        if self._monitoring is not None:
            self._monitoring.announce()
        # What it sends finds a worker.
        if self.options.beat:
            self._beat = self._make_beat()
            self._beat.start()

    def _connect(self) -> None:
        """Reach the broker and the result store; try again for as often as the settings say, if that may help."""
        conf = self.app.conf
        self.broker.introduce(self.hostname)
        retry = conf.broker_connection_retry_on_startup
        if retry is None:
            retry = conf.broker_connection_retry
        most = (conf.broker_connection_max_retries or math.inf) if retry else 0
        for tries in itertools.count(1):
            try:
                self._reach()
                return
            except (BrokerError, BackendError) as error:
                if tries > most or not error.temporary:
                    raise
                pause = min(2.0 * tries, 32.0)
                logger.error("Cannot connect: %s Trying again in %g s (%s/%s).", error, pause, tries, most)  # noqa: TRY400 - the sentence says it
                self.on_cannot_connect(error)
                if self._asked_to_stop.wait(pause):
                    raise

    def _reach(self) -> None:
        """Declare the queues. Raises what keeps the broker or the result store from being used."""
        self.broker.connect()
        self.broker.declare(self.app.amqp.queues.apart())
        stamps.refresh(self.broker)
        store = self.app.store
        ask_store(store, self.app)
        if store is not None and self.broker.fuses(store):
            store.close()  # the broker's connections do for both

    def _stop_services(self) -> None:
        """In this order, each whether or not the one before it went well."""
        signals.worker_shutdown.send(sender=self)
        # Whoever else keeps the schedule takes over.
        if self._beat is not None:
            self._beat.stop()
        # Steps may use whatever is there.
        if self._steps is not None:
            self._steps.stop(terminate=self._is_cold())
        # No command reaches a loop that has ended.
        if self._mailbox is not None:
            self._mailbox.stop()
        # Nobody changes a pool that ends.
        if self.autoscaler is not None:
            self.autoscaler.stop()
        # Processes end before their messages are given back, so that nothing runs here and elsewhere.
        if self.pool is not None:
            self.pool.terminate() if self._is_cold() else self.pool.stop()
        # What is not settled goes back while the lease still holds.
        if self.consumer is not None:
            self.consumer.close()
        if self._aside is not None:
            self._aside.stop()
        if self._keeper is not None:
            self._keeper.stop()
        # When nothing more can happen to its tasks, a worker is offline.
        if self._monitoring is not None:
            self._monitoring.stop()
        if self._shutdown is not None:
            self._shutdown.uninstall()
        # No revocation can come any more.
        if self._statedb is not None:
            self._statedb.save()
        if self.pidlock is not None:
            self.pidlock.release()
        self.ready.clear()
        self._stopped.set()
        self.on_stopped()

    def _work(self) -> None:
        assert self.consumer is not None
        logger.info("Connected to %s", masked(self.broker.url))
        self._warn_of_limits()
        self._tell_of_time_limits()
        self.ready.set()
        self.on_consumer_ready(self.consumer)
        signals.worker_ready.send(sender=self.consumer)
        logger.info("%s ready.", self.hostname)
        if self._early is not None:
            self._request(self._early)
        while True:
            try:
                self.consumer.run()
            except WorkerShutdown as error:
                # Raised by a task or a command: what runs is finished first.
                self._leave(error.code, cold=False)
                continue
            break
        if self.exitcode is None:
            self.exitcode = self._shutdown.exitcode if self._shutdown is not None else EX_OK
        asked = state.should_terminate if state.should_terminate not in {None, False} else state.should_stop
        if isinstance(asked, int) and not isinstance(asked, bool):
            self.exitcode = asked

    def _leave(self, code: Any, *, cold: bool) -> None:
        if code is not None and not isinstance(code, bool):
            self.exitcode = code if isinstance(code, int) else EX_FAILURE
        if self.consumer is not None:
            if cold:
                self.consumer.terminate()
                self.consumer.run()
            else:
                self.consumer.stop()

    def _is_cold(self) -> bool:
        return self.consumer is not None and self.consumer.stage == "cold"

    def stop(self, in_sighandler: bool = False, exitcode: int | None = None) -> None:
        """Warm: claim no more, finish what runs. Returns at once; `start` returns when it is done."""
        if exitcode is not None:
            self.exitcode = exitcode
        self._request("TERM")

    def terminate(self, in_sighandler: bool = False) -> None:
        """Cold: kill what runs. Returns at once; `start` returns when it is done."""
        self._request("QUIT")

    def _request(self, event: str) -> None:
        self._asked_to_stop.set()
        if self._stopped.is_set():
            return
        if self._shutdown is None:
            self._early = event
        elif event == "QUIT" or self._shutdown.stage == "run":
            self._shutdown.request(event)

    def wait_stopped(self, timeout: float | None = None) -> bool:
        """Wait until `start` is about to return; whether it is."""
        return self._stopped.wait(timeout)

    # -- parts -----------------------------------------------------------------------------------------------------

    def _make_pool(self) -> Pool:
        kind = pool_class(self.options.pool)
        preload: Sequence[str] = ()
        if kind.can.processes:
            reference = app_reference(self.app)
            preload = [reference.partition(":")[0]] if isinstance(reference, str) else ()
        return kind(self.concurrency, self._make_boot(kind), self.options.pool_options(preload))

    def _make_beat(self) -> Any:
        """A beat beside the processes of the pool, as one of them; in a thread where tasks run in threads."""
        assert self.pool is not None
        return drivers.door("beat embedded")(
            self.app, thread=not self.pool.can.processes, schedule_filename=self.options.schedule_filename,
            scheduler_cls=self.options.scheduler, loglevel=self.loglevel, logfile=self.logfile,
        )  # fmt: skip

    def _make_boot(self, kind: type[Pool]) -> Boot:
        if not kind.can.processes:
            return partial(boot_here, self.app, self.hostname, process_signals=kind.name == "solo")
        conf = self.app.conf
        options = ChildOptions(
            self.loglevel,
            self.logfile,
            bool(conf.worker_redirect_stdouts),
            str(conf.worker_redirect_stdouts_level),
            self.colorize,
        )
        return child_boot(self.app, self.hostname, options)

    def _make_consumer(self, pool: Pool) -> Consumer:
        facts = FactsTable(
            self.app,
            soft=self.options.soft_time_limit,
            hard=self.options.time_limit,
            max_deliveries=int(self.app.conf.task_max_deliveries),
            rates=not self.app.conf.worker_disable_rate_limits,
        )
        return consumer_class(self.app.conf.worker_consumer)(
            self.app,
            pool,
            self.queue_names,
            hostname=self.hostname,
            facts=facts,
            prefetch=self.options.prefetch(),
            broker=self.broker,
            cancel_on_loss=bool(self.app.conf.worker_cancel_long_running_tasks_on_connection_loss),
            timer=self.timer,
            weights=self.weights,
        )

    # -- what remote control asks for ------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Counts, pool, broker and resource usage, with the keys of the original."""
        pool, consumer = self.pool, self.consumer
        return {
            **self.info(),
            **({"autoscaler": self.autoscaler.info()} if self.autoscaler is not None else {}),
            "pool": self._pool_info(),
            "broker": statistics.broker_info(self.broker.url, self.app.conf),
            "prefetch_count": 0 if pool is None or consumer is None else consumer.prefetch.target(pool.size),
            "rusage": self.rusage(),
        }

    def _make_autoscaler(self, pool: Pool) -> Any:
        """An instance of the class that `worker_autoscaler` names."""
        assert self.options.autoscale is not None
        kind = symbol_by_name(self.app.conf.worker_autoscaler)
        most, least = self.options.autoscale
        return kind(pool, most, least, worker=self)

    def reload(
        self,
        modules: Iterable[str] | None = None,
        reload: bool = False,
        reloader: Callable[[Any], Any] | None = None,
    ) -> None:
        """Import *modules* and replace the slots of the pool: see `celery.worker.reloading`."""
        restart_pool(self, modules, reload, reloader)

    def _pool_info(self) -> dict[str, Any]:
        if self.pool is None or self.consumer is None:
            return {}
        return statistics.pool_info(self.pool, self.options, state.all_total_count[0], len(self.consumer.inside))

    def info(self) -> dict[str, Any]:
        """Counts, process id, clock and seconds since the start."""
        uptime = datetime.now(UTC) - self.startup_time
        return {
            "total": dict(state.total_count),
            "pid": os.getpid(),
            "clock": str(self.app.control.clock),
            "uptime": round(uptime.total_seconds()),
        }

    def rusage(self) -> dict[str, Any]:
        """What this process has used."""
        return statistics.rusage()

    def _tell_of_time_limits(self) -> None:
        pool, options = self.pool, self.options
        if pool is not None:
            tell(options.pool, pool.can, wanted(self.app, soft=options.soft_time_limit, hard=options.time_limit))

    def _warn_of_limits(self) -> None:
        """Where the broker cannot do what tasks ask for."""
        if self.broker.can.limits:
            return
        limited = sorted(name for name, task in self.app.tasks.items() if task.concurrency_limit)
        shared = sorted(name for name, task in self.app.tasks.items() if task.rate_limit_scope == "global")
        for names, what in ((limited, "concurrency limits"), (shared, "rates of all workers together")):
            if names:
                logger.warning("This broker cannot keep to %s: %s", what, ", ".join(names))

    def _renew(self) -> bool:
        assert self.consumer is not None
        kept = self.consumer.renew()
        stamps.refresh(self.broker)
        return kept

    def __repr__(self) -> str:
        return f"<Worker: {self.hostname} ({'running' if self.ready.is_set() else 'not running'})>"

    def __str__(self) -> str:
        return self.hostname


def consumer_class(path: Any) -> type[Consumer]:
    """The class that `worker_consumer` names; raises ImproperlyConfigured for one that is no consumer."""
    found = symbol_by_name(path)
    if not (isinstance(found, type) and issubclass(found, Consumer)):
        name = getattr(found, "__name__", found)
        raise ImproperlyConfigured(
            f"worker_consumer names {name}, which is no subclass of celery.worker.consumer.Consumer."
        )
    return found
