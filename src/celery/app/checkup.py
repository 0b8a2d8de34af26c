"""What a configuration risks, and where this implementation behaves otherwise than the original: rules over settings.

Pure: `examine` reads the settings and tasks of the app and connects to nothing.  Each rule is a function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from celery import drivers
from celery.app.defaults import NEW_NAMES, OPTIONS
from celery.app.hidden import sanitize_url

if TYPE_CHECKING:
    from celery.app.base import Celery

Level = Literal["error", "warning", "note"]
PICKLE = frozenset({"pickle", "application/x-python-serialize"})
UNUSED = {
    "broker_heartbeat": "only the AMQP protocol has heartbeats; leases take their place elsewhere",
    "worker_pool_putlocks": "there are no locks between processes",
    "worker_timer": "the worker has no timer of its own: delays are in the broker",
    "worker_timer_precision": "the worker has no timer of its own: delays are in the broker",
    "worker_eta_task_limit": "tasks with an ETA wait in the broker, not in a worker's memory",
    "result_chord_retry_interval": "chords are joined by events: nothing polls",
}
"""Settings of the original that change nothing here, with the reason."""


class Finding(NamedTuple):
    """`error`: it will not work; `warning`: it is risky; `note`: good to know."""

    level: Level
    setting: str
    text: str
    advice: str = ""


def examine(app: Celery) -> list[Finding]:
    """Everything there is to say of the settings and tasks of *app*."""
    return [finding for rule in RULES for finding in rule(app)]


def _drivers(app: Celery) -> Iterator[Finding]:
    conf = app.conf
    for setting, url, look in (
        ("broker_url", conf.broker_read_url or conf.broker_url, drivers.broker_class),
        ("result_backend", conf.result_backend, drivers.store_class),
    ):
        if not url:
            continue
        first = drivers.first_url(url)
        if setting == "result_backend" and ("." in drivers.scheme(first) or drivers.scheme(first) == "disabled"):
            continue  # a class of the user's, or none
        try:
            look(first)
        except Exception as error:  # noqa: BLE001 - whatever keeps a driver from being loaded is the finding
            if setting == "broker_url":
                yield Finding("error", setting, f"{sanitize_url(first)}: {error}")
    if not conf.broker_url:
        yield Finding(
            "note", "broker_url", "is not set: the embedded broker (an SQLite file) serves this machine only.",
            "Set it to redis://… to share queues between machines.",
        )  # fmt: skip


def _losing(app: Celery) -> Iterator[Finding]:
    """What loses or repeats work."""
    conf = app.conf
    if not conf.task_acks_late:
        yield Finding(
            "warning", "task_acks_late", "is off: a task that runs when its worker dies ends as WorkerLostError.",
            "Set it to True if your tasks may run twice.",
        )  # fmt: skip
    elif not conf.task_reject_on_worker_lost and not conf.task_retry_on_worker_lost:
        yield Finding(
            "warning", "task_reject_on_worker_lost",
            "is off: a late-ack task whose process is killed (out of memory) fails instead of running again.",
            "Set it, or task_retry_on_worker_lost, to True; task_max_deliveries bounds it.",
        )  # fmt: skip
    if not conf.worker_soft_shutdown_timeout:
        yield Finding(
            "warning", "worker_soft_shutdown_timeout", "is 0: a cold shutdown kills tasks without grace.",
            "Set it to some seconds less than your supervisor waits before SIGKILL.",
        )  # fmt: skip
    if conf.broker_connection_max_retries not in {None, 0}:
        yield Finding(
            "warning", "broker_connection_max_retries",
            f"is {conf.broker_connection_max_retries}: a worker that starts while the broker is long away gives up.",
            "Set it to None to wait for as long as it takes.",
        )  # fmt: skip
    if (conf.task_publish_retry_policy or {}).get("max_retries") == OPTIONS["task_publish_retry_policy"].default[
        "max_retries"
    ]:
        yield Finding(
            "note", "task_publish_retry_policy", "gives up after about half a second: a fail-over fails requests.",
            f"More retries help up to broker_publish_timeout ({conf.broker_publish_timeout:g} s).",
        )  # fmt: skip


def _hanging(app: Celery) -> Iterator[Finding]:
    """What keeps slots, memory or clients for too long."""
    conf = app.conf
    if conf.task_time_limit is None:
        yield Finding(
            "warning", "task_time_limit", "is not set: a task that hangs holds its slot for ever.",
            "Set it, and task_soft_time_limit a little below.",
        )  # fmt: skip
    elif conf.task_soft_time_limit and conf.task_soft_time_limit >= conf.task_time_limit:
        yield Finding("error", "task_soft_time_limit", "is not below task_time_limit: it never strikes.")
    if conf.worker_max_tasks_per_child is None and conf.worker_max_memory_per_child is None:
        yield Finding(
            "note", "worker_max_memory_per_child", "is not set: leaked memory stays until the worker restarts.",
            "A limit for the machine's memory, divided by the concurrency, is a good one.",
        )  # fmt: skip
    if not conf.task_ignore_result and conf.result_expires is None:
        yield Finding("warning", "result_expires", "is None: results are kept for ever.", "Set it to some hours.")
    if not conf.task_track_started:
        yield Finding(
            "note", "task_track_started", "is off: PENDING means unknown, queued or running.",
            "Set it to True to see which.",
        )  # fmt: skip


def _unsafe(app: Celery) -> Iterator[Finding]:
    """What lets others in."""
    conf = app.conf
    if PICKLE & set(conf.accept_content or ()):
        yield Finding(
            "warning", "accept_content", "has pickle: whoever can write to the queues can run any code.",
            "Take it out; JSON and msgpack carry most values.",
        )  # fmt: skip
    for setting in ("task_serializer", "result_serializer"):
        if conf[setting] == "pickle" and not PICKLE & set(conf.accept_content or ()):
            yield Finding("error", setting, "is pickle, which accept_content does not accept: nothing can be read.")
    for setting in ("broker_url", "result_backend"):
        url = drivers.first_url(conf[setting] or "")
        host = url.partition("://")[2].rpartition("@")[2]
        if url.startswith("redis://") and "@" not in url and not host.startswith(("localhost", "127.", "[::1]", "/")):
            yield Finding(
                "warning", setting, f"{url}: Redis on another machine without a password or TLS.",
                "Use rediss://:password@host.",
            )  # fmt: skip


def _queues(app: Celery) -> Iterator[Finding]:
    conf = app.conf
    if conf.task_create_missing_queues and conf.task_queues:
        yield Finding(
            "note", "task_create_missing_queues", "is on beside task_queues: nobody reads a misspelt queue.",
            "Set it to False.",
        )  # fmt: skip
    routed = {
        route.get("queue")
        for route in (conf.task_routes.values() if isinstance(conf.task_routes, dict) else ())
        if isinstance(route, dict)
    }
    known = set(app.amqp.queues)
    for name in sorted(str(name) for name in routed - known - {None}):
        if not conf.task_create_missing_queues:
            yield Finding("error", "task_routes", f"leads to the queue {name!r}, which task_queues does not have.")


def _logging(app: Celery) -> Iterator[Finding]:
    if app.conf.worker_hijack_root_logger and not app.conf.worker_log_json:
        yield Finding(
            "note", "worker_hijack_root_logger", "is on: handlers of the root logger are removed.",
            "Set it to False if it sets up logging itself.",
        )  # fmt: skip


def _differences(app: Celery) -> Iterator[Finding]:
    """What is said otherwise than in the original, or to no effect."""
    conf = app.conf
    for setting, reason in UNUSED.items():
        if setting in conf.changes:
            yield Finding("note", setting, f"has no effect here: {reason}.")
    options = conf.broker_transport_options or {}
    if "visibility_timeout" in options or "visibility_timeout" in conf.changes:
        yield Finding(
            "note", "broker_transport_options", "visibility_timeout is for original workers: here leases are renewed,"
            " and a message returns when its worker is gone.", "worker_lease says after how many seconds.",
        )  # fmt: skip
    if conf.task_time_limit and conf.worker_pool in {"threads", "gevent", "eventlet", "asyncio", "solo"}:
        yield Finding(
            "warning", "task_time_limit", f"is not enforced by the pool {conf.worker_pool!r}.",
            "Use prefork for tasks that may hang.",
        )  # fmt: skip
    old = sorted(key for key in conf.changes if key in NEW_NAMES and NEW_NAMES[key] != key)
    if old:
        yield Finding(
            "note", old[0], f"is a name of Celery 3, as are {len(old) - 1} more." if len(old) > 1 else
            "is a name of Celery 3.", "`celery upgrade settings FILE` writes the new names.",
        )  # fmt: skip


def _tasks(app: Celery) -> Iterator[Finding]:
    for name, task in sorted(app.tasks.items()):
        if name.startswith("celery."):
            continue
        soft, hard = task.soft_time_limit, task.time_limit
        if soft and hard and soft >= hard:
            yield Finding("error", name, f"its soft_time_limit ({soft}) is not below its time_limit ({hard}).")
        if task.max_retries is None and getattr(task, "autoretry_for", None):
            yield Finding(
                "warning", name, "retries for ever (max_retries=None).", "Bound it, or its message never ends."
            )


Rule = Callable[[Any], Iterable[Finding]]
RULES: tuple[Rule, ...] = (_drivers, _losing, _hanging, _unsafe, _queues, _logging, _differences, _tasks)
