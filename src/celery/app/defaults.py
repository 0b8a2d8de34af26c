"""The table of settings: every name, its type, its default, its old upper-case name and what it is for.

`docs/settings.md` is generated from this table. Names, types and defaults up to `OURS` are Celery's; what this
implementation adds stands apart, in `OURS`.
"""

# ruff: noqa: E501 - in the table one line is one setting

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from celery.app.coerce import coerce

DEFAULT_POOL = "prefork"
DEFAULT_ACCEPT_CONTENT = ("json",)
DEFAULT_PROCESS_LOG_FMT = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
DEFAULT_TASK_LOG_FMT = "[%(asctime)s: %(levelname)s/%(processName)s] %(task_name)s[%(task_id)s]: %(message)s"
DEFAULT_SECURITY_DIGEST = "sha256"
OLD_NS = {"celery_{0}"}
OLD_NS_BEAT = {"celerybeat_{0}"}
OLD_NS_WORKER = {"celeryd_{0}"}


class Option:
    """One setting. `old` is its upper-case name of Celery 3; `also` names further types its value may have."""

    def __init__(
        self,
        default: Any = None,
        type: str = "string",
        help: str = "",
        *,
        old: str | Iterable[str] = "",
        also: Iterable[str] = (),
        alt: str | None = None,
        deprecate_by: str | None = None,
        remove_by: str | None = None,
    ) -> None:
        self.default = default
        self.type = type
        self.help = help
        self.old = old
        self.also = frozenset(also)
        self.alt = alt
        self.deprecate_by = deprecate_by
        self.remove_by = remove_by

    def to_python(self, value: Any) -> Any:
        """The value as this setting's type: text becomes a bool, a number or a tuple; `None` stays.

        Raises `ValueError` with the reason if it cannot be.
        """
        return coerce(value, self.type, self.also)

    def __repr__(self) -> str:
        return f"<Option: type->{self.type} default->{self.default!r}>"


class searchresult(NamedTuple):  # noqa: N801 - a public name of Celery
    """Where `find` found a setting."""

    namespace: str | None
    key: str
    type: Option | dict[str, Option]


def old_ns(ns: str) -> set[str]:
    """Formats of the old names of the namespace *ns*."""
    return {ns + "_{0}"}


def Namespace(__old__: str | None = None, **options: Option) -> dict[str, Option]:  # noqa: N802 - a public name of Celery
    """The options of one namespace; `__old__` is what their old upper-case names begin with."""
    if __old__ is not None:
        for key, option in options.items():
            option.old = option.old or __old__ + key.upper()
    return options


def flag(default: bool | None, help: str, **more: Any) -> Option:
    return Option(default, "bool", help, **more)


def whole(default: float | None, help: str, **more: Any) -> Option:
    return Option(default, "int", help, **more)


def number(default: float | timedelta | None, help: str, **more: Any) -> Option:
    return Option(default, "float", help, **more)


def text(default: Any, help: str, **more: Any) -> Option:
    return Option(default, "string", help, **more)


def mapping(default: dict[str, Any] | None, help: str, **more: Any) -> Option:
    return Option(default, "dict", help, **more)


RETRY_POLICY = {"max_retries": 3, "interval_start": 0, "interval_max": 1, "interval_step": 0.2}
ENGINE = {"pool_pre_ping": True, "pool_recycle": 3600}

# One line is one setting, so the formatter keeps off.
# fmt: off
NAMESPACES: dict[str, Option | dict[str, Option]] = {
    "accept_content": Option(DEFAULT_ACCEPT_CONTENT, "list", "Content types or serializer names that are read; others are refused.", old="CELERY_ACCEPT_CONTENT"),
    "result_accept_content": Option(None, "list", "The same for results; `None` means as `accept_content`.", old="RESULT_ACCEPT_CONTENT"),
    "enable_utc": flag(True, "Dates and times in messages are UTC.", old="ENABLE_UTC"),
    "imports": Option((), "tuple", "Modules a worker imports when it starts.", old="CELERY_IMPORTS"),
    "include": Option((), "tuple", "More modules to import; kept apart from `imports`.", old="CELERY_INCLUDE"),
    "timezone": text(None, "Time zone by name, for schedules and times shown; `None` means UTC.", old="CELERY_TIMEZONE"),
    "beat": Namespace(
        "CELERYBEAT_",
        enable_remote_control=flag(False, "Beat answers remote control commands."),
        remote_control_max_tick_age=number(None, "Seconds since its last tick after which beat no longer counts as healthy."),
        max_loop_interval=number(0, "Longest sleep of beat in seconds; 0 lets the scheduler decide."),
        schedule=mapping({}, "The periodic tasks, by name."),
        scheduler=text("celery.beat:PersistentScheduler", "Class that keeps the schedule, or `file`, `store`, or the name of one that a package brought."),
        schedule_filename=text("celerybeat-schedule", "File that keeps when tasks ran; `None`: the store does, and any number of beats share it."),
        sync_every=whole(0, "Write the schedule after so many tasks; 0 writes by time."),
        cron_starting_deadline=whole(None, "Crontab runs missed for longer than so many seconds are skipped; `None` never skips."),
    ),
    "broker": Namespace(
        "BROKER_",
        url=text(None, "Where messages go: a URL, or several (list, or joined by `;`) to fail over.", also=("list",)),
        read_url=text(None, "URL for consuming, when it differs from `broker_url`.", also=("list",)),
        write_url=text(None, "URL for publishing, when it differs from `broker_url`.", also=("list",)),
        transport=text(None, "Transport, when the URL does not name it."),
        transport_options=mapping({}, "Options handed to the driver of the broker."),
        connection_timeout=number(4, "Seconds until an attempt to connect is given up."),
        connection_retry=flag(True, "A worker connects again when the connection is lost."),
        connection_retry_on_startup=flag(None, "The same for the first connection; `None` means as `broker_connection_retry`."),
        connection_max_retries=whole(100, "Attempts to connect before a worker gives up; `None` or 0 means for ever."),
        channel_error_retry=flag(False, "Errors of a channel are retried like errors of the connection."),
        failover_strategy=text(None, "How the next of several URLs is picked: `round-robin`, `shuffle`, or a callable."),
        heartbeat=whole(120, "Seconds between heartbeats of the connection, where the protocol has them; 0 or `None`: off.", also=("float",)),
        heartbeat_checkrate=whole(3.0, "How often within one interval heartbeats are checked.", also=("float",)),
        login_method=text(None, "Login method of AMQP."),
        native_delayed_delivery_queue_type=text("quorum", "Type of the queues that delay messages inside RabbitMQ."),
        pool_limit=whole(10, "Connections kept open by one process; `None` or 0 opens one for every use."),
        pool_acquire_timeout=number(None, "Seconds to wait for a connection of the pool; `None` waits without end."),
        use_ssl=flag(False, "Use TLS, or a dict of its options.", also=("dict",)),
        host=text(None, "Host, when `broker_url` is not set."),
        port=whole(None, "Port, when `broker_url` does not name it."),
        user=text(None, "User, when `broker_url` does not name it."),
        password=text(None, "Password, when `broker_url` does not have it."),
        vhost=text(None, "Virtual host, when `broker_url` does not name it."),
    ),
    "cache": Namespace(
        "CELERY_CACHE_",
        backend=text(None, "The cache for results of `result_backend=\"cache\"`: `memory`, or a URL such as `memcached://host:11211/`."),
        backend_options=mapping({}, "Options of pymemcache's client, for results in memcached."),
    ),
    "cassandra": Namespace(
        "CASSANDRA_",
        entry_ttl=number(None, "Seconds a result is kept."),
        keyspace=text(None, "Keyspace of the results."),
        port=text(None, "Port of the servers.", also=("int",)),
        read_consistency=text(None, "Consistency level of reads."),
        servers=Option(None, "list", "Host names of the servers."),
        bundle_path=text(None, "File of the secure connect bundle."),
        table=text(None, "Table of the results."),
        write_consistency=text(None, "Consistency level of writes."),
        auth_provider=text(None, "Class that authenticates."),
        auth_kwargs=text(None, "Arguments of that class.", also=("dict",)),
        options=mapping({}, "More options of the cluster."),
    ),
    "s3": Namespace(
        "S3_",
        access_key_id=text(None, "Access key."),
        secret_access_key=text(None, "Secret key."),
        bucket=text(None, "Bucket of the results."),
        base_path=text(None, "Folder in the bucket."),
        endpoint_url=text(None, "Another server that speaks S3."),
        region=text(None, "Region of the bucket."),
    ),
    "azureblockblob": Namespace(
        "AZUREBLOCKBLOB_",
        container_name=text("celery", "Container of the results."),
        retry_initial_backoff_sec=whole(2, "Seconds before the first retry."),
        retry_increment_base=whole(2, "Base by which the pause grows."),
        retry_max_attempts=whole(3, "Attempts before giving up."),
        base_path=text("", "Folder in the container."),
        connection_timeout=whole(20, "Seconds to wait for a connection."),
        read_timeout=whole(120, "Seconds to wait for a read."),
    ),
    "gcs": Namespace(
        "GCS_",
        bucket=text(None, "Bucket of the results."),
        project=text(None, "Project of the bucket."),
        base_path=text("", "Folder in the bucket."),
        ttl=number(0, "Seconds a result is kept; 0 keeps it."),
    ),
    "control": Namespace(
        "CONTROL_",
        queue_ttl=number(300.0, "Seconds a remote control command waits for its worker."),
        queue_expires=number(10.0, "Seconds after which an unused control queue is removed."),
        queue_exclusive=flag(True, "Control queues belong to one connection."),
        queue_durable=flag(False, "Control queues outlive the broker's restart."),
        exchange=text("celery", "Exchange of remote control."),
    ),
    "couchbase": Namespace("CELERY_COUCHBASE_", backend_settings=mapping(None, "Options of the Couchbase result backend.")),
    "arangodb": Namespace("CELERY_ARANGODB_", backend_settings=mapping(None, "Options of the ArangoDB result backend.")),
    "mongodb": Namespace("CELERY_MONGODB_", backend_settings=mapping(None, "Options of the MongoDB result backend.")),
    "cosmosdbsql": Namespace(
        "COSMOSDBSQL_",
        database_name=text("celerydb", "Database of the results."),
        collection_name=text("celerycol", "Collection of the results."),
        consistency_level=text("Session", "Consistency level."),
        max_retry_attempts=whole(9, "Attempts before giving up."),
        max_retry_wait_time=whole(30, "Seconds to wait in all."),
    ),
    "event": Namespace(
        "CELERY_EVENT_",
        queue_expires=number(60.0, "Seconds after which the queue of a monitor that went away is removed."),
        queue_ttl=number(5.0, "Seconds an event waits for its monitor."),
        queue_prefix=text("celeryev", "What names of event queues begin with."),
        queue_exclusive=flag(True, "Event queues belong to one connection."),
        queue_durable=flag(False, "Event queues outlive the broker's restart."),
        serializer=text("json", "Serializer of events."),
        exchange=text("celeryev", "Exchange of events."),
    ),
    "redis": Namespace(
        "CELERY_REDIS_",
        backend_use_ssl=mapping(None, "TLS options of the Redis result backend.", also=("bool",)),
        db=whole(None, "Database number."),
        host=text(None, "Host of the result backend."),
        max_connections=whole(None, "Connections in the pool of the result backend."),
        username=text(None, "User name."),
        password=text(None, "Password."),
        port=whole(None, "Port."),
        socket_timeout=number(120.0, "Seconds to wait for a read or a write."),
        socket_connect_timeout=number(None, "Seconds to wait for a connection."),
        retry_on_timeout=flag(False, "Repeat what timed out."),
        socket_keepalive=flag(False, "Keep idle TCP connections alive."),
    ),
    "result": Namespace(
        "CELERY_RESULT_",
        backend=text(None, "Where results go: a URL, `rpc://` (back to the sender), `cache` (see `cache_backend`), a class path, or `disabled://`."),
        cache_max=whole(-1, "Results kept in memory by one process; -1 keeps none, 0 or `None` does not limit.", old="CELERY_MAX_CACHED_RESULTS"),
        compression=text(None, "Compression of results."),
        exchange=text("celeryresults", "Kept for compatibility: results sent as messages go to the queue of whoever asked, by the default exchange."),
        exchange_type=text("direct", "Kept for compatibility."),
        expires=number(timedelta(days=1), "How long results are kept, in seconds or as a timedelta; `None` or 0 keeps them.", old="CELERY_TASK_RESULT_EXPIRES"),
        chord_expires=number(None, "How long the bookkeeping of chords is kept; `None` means as `result_expires`."),
        failure_expires=number(None, "How long failures are kept; `None` means as `result_expires`."),
        persistent=flag(None, "Results sent as messages outlive the broker's restart."),
        extended=flag(False, "Results also have the name, arguments, worker, retries and queue of their task."),
        serializer=text("json", "Serializer of results."),
        backend_transport_options=mapping({}, "Options handed to the driver of the result backend."),
        chord_retry_interval=number(1.0, "Seconds between looks at an unfinished chord, where it must be polled."),
        chord_join_timeout=number(3.0, "Seconds to wait for results when a chord is joined."),
        backend_max_sleep_between_retries_ms=whole(10000, "Longest pause between attempts, in milliseconds."),
        backend_max_retries=number(float("inf"), "Attempts before an error of the backend is raised."),
        backend_base_sleep_between_retries_ms=whole(10, "First pause between attempts, in milliseconds."),
        backend_always_retry=flag(False, "Repeat on errors of the backend that are worth it."),
    ),
    "elasticsearch": Namespace(
        "CELERY_ELASTICSEARCH_",
        retry_on_timeout=flag(None, "Repeat what timed out."),
        max_retries=whole(None, "Attempts before giving up."),
        timeout=number(None, "Seconds to wait for an answer."),
        save_meta_as_text=flag(True, "Results are stored as text, not as structure."),
    ),
    "security": Namespace(
        "CELERY_SECURITY_",
        certificate=text(None, "File of the certificate to sign with."),
        cert_store=text(None, "Folder of the certificates that are trusted."),
        key=text(None, "File of the private key."),
        key_password=Option(None, "bytes", "Password of the private key."),
        digest=text(DEFAULT_SECURITY_DIGEST, "Digest of signatures."),
    ),
    "database": Namespace(
        "DATABASE_",
        url=text(None, "URL of the database, when `result_backend` does not have it.", old="CELERY_RESULT_DBURI"),
        engine_options=mapping(ENGINE, "Options of the engine.", old="CELERY_RESULT_ENGINE_OPTIONS"),
        engine_callback=Option(None, "any", "Called with every new engine."),
        short_lived_sessions=flag(False, "Every use opens its own session.", old="CELERY_RESULT_DB_SHORT_LIVED_SESSIONS"),
        table_schemas=mapping(None, "Schemas of the tables `task` and `group`."),
        table_names=mapping(None, "Names of the tables `task` and `group`.", old="CELERY_RESULT_DB_TABLENAMES"),
        create_tables_at_setup=flag(True, "Tables are made at the start, not at the first use."),
    ),
    "task": Namespace(
        "CELERY_",
        acks_late=flag(False, "Acknowledge after the task ran, so that it runs again when its worker dies."),
        acks_on_failure_or_timeout=flag(True, "A late-acknowledged task is acknowledged also when it fails or times out.", alt="task_acks_on_failure and task_acks_on_timeout", deprecate_by="6.0", remove_by="7.0"),
        acks_on_failure=flag(None, "The same for failures alone; `None` means as `task_acks_on_failure_or_timeout`."),
        acks_on_timeout=flag(None, "The same for time limits alone; `None` means as `task_acks_on_failure_or_timeout`."),
        always_eager=flag(False, "Tasks run at once, where they are called."),
        annotations=Option(None, "any", "Attributes to set on tasks, by name or `*`; or objects that say them."),
        compression=text(None, "Compression of messages.", old="CELERY_MESSAGE_COMPRESSION"),
        create_missing_queues=flag(True, "Queues that `task_queues` does not name are made when used."),
        create_missing_queue_type=text("classic", "Type of queues made so, on RabbitMQ."),
        create_missing_queue_exchange_type=text(None, "Exchange type of queues made so; `None` means `task_default_exchange_type`."),
        inherit_parent_priority=flag(False, "A task sent by a task has its priority."),
        default_delivery_mode=text(2, "2 or `persistent`: messages outlive the broker's restart; 1 or `transient`: they may not.", also=("int",)),
        default_queue=text("celery", "Queue of tasks that no route names."),
        default_queue_type=text("classic", "Type of that queue, on RabbitMQ."),
        default_exchange=text(None, "Exchange of queues that name none; `None` means `task_default_queue`."),
        default_exchange_type=text("direct", "Type of that exchange."),
        default_routing_key=text(None, "Routing key of queues that name none; `None` means `task_default_queue`."),
        default_rate_limit=text(None, "Rate limit of tasks that have none, as `100/m`.", also=("int", "float")),
        default_priority=text(None, "Priority of tasks that have none: 0 to 9.", also=("int",)),
        eager_propagates=flag(False, "Errors of tasks run eagerly are raised.", old="CELERY_EAGER_PROPAGATES_EXCEPTIONS"),
        ignore_result=flag(False, "Results of tasks are not stored."),
        store_eager_result=flag(False, "Results of tasks run eagerly are stored too."),
        protocol=whole(2, "Version of the message protocol that is sent: 2 or 1.", old="CELERY_TASK_PROTOCOL"),
        publish_retry=flag(True, "Publishing is retried when the connection fails.", old="CELERY_TASK_PUBLISH_RETRY"),
        publish_retry_policy=mapping(RETRY_POLICY, "How publishing is retried.", old="CELERY_TASK_PUBLISH_RETRY_POLICY"),
        queues=mapping(None, "The queues, as a list or a dict by name; `None` means `task_default_queue` alone.", also=("list",)),
        queue_max_priority=whole(None, "Highest priority of queues that name none."),
        reject_on_worker_lost=flag(None, "A late-acknowledged task whose process died goes back to its queue."),
        retry_on_worker_lost=flag(False, "A task whose process died is retried within its `max_retries`."),
        remote_tracebacks=flag(False, "Tracebacks of workers are shown with errors raised from results."),
        repr_maxlevels=whole(3, "Depth to which arguments are shown in logs and events."),
        routes=Option(None, "any", "Where tasks go: dict by name or pattern, callables, or a list of them."),
        send_sent_event=flag(False, "Publishing a task sends an event.", old="CELERY_SEND_TASK_SENT_EVENT"),
        serializer=text("json", "Serializer of messages.", old="CELERY_TASK_SERIALIZER"),
        soft_time_limit=number(None, "Seconds after which `SoftTimeLimitExceeded` is raised inside a task.", old="CELERYD_TASK_SOFT_TIME_LIMIT"),
        time_limit=number(None, "Seconds after which the process of a task is killed.", old="CELERYD_TASK_TIME_LIMIT"),
        store_errors_even_if_ignored=flag(False, "Errors are stored even where results are ignored."),
        track_started=flag(False, "Tasks have the state STARTED while they run."),
        allow_error_cb_on_chord_header=flag(False, "Error callbacks of a chord are set on its header tasks too."),
    ),
    "worker": Namespace(
        "CELERYD_",
        agent=text(None, "Class of an agent that runs beside the consumer."),
        autoscaler=text("celery.worker.autoscale:Autoscaler", "Class that grows and shrinks the pool."),
        cancel_long_running_tasks_on_connection_loss=flag(False, "Late-acknowledged tasks are stopped when the connection is lost."),
        soft_shutdown_timeout=number(0.0, "Seconds running tasks get before a cold shutdown kills them."),
        enable_soft_shutdown_on_idle=flag(False, "The soft shutdown is gone through also when no task runs; it then ends at once, because nothing is held here that would have to be waited for."),
        concurrency=Option(None, "any", "Processes, threads or greenlets; `None` means one for each CPU, `auto` minds the limits of containers.", also=("int",)),
        consumer=text("celery.worker.consumer:Consumer", "Class of the consumer."),
        direct=flag(False, "Every worker also has a queue of its own.", old="CELERY_WORKER_DIRECT"),
        disable_rate_limits=flag(False, "Rate limits are not applied.", old="CELERY_DISABLE_RATE_LIMITS"),
        deduplicate_successful_tasks=flag(False, "A message delivered again does not run again when its result is a success."),
        enable_remote_control=flag(True, "Workers answer remote control commands.", old="CELERY_ENABLE_REMOTE_CONTROL"),
        hijack_root_logger=flag(True, "Handlers of the root logger are replaced."),
        log_color=flag(None, "Logs are coloured; `None` means when they go to a terminal."),
        log_datefmt=text(None, "Format of dates in logs."),
        log_format=text(DEFAULT_PROCESS_LOG_FMT, "Format of lines in logs."),
        lost_wait=number(10.0, "Seconds to wait for the result of a process that ended.", old="CELERYD_WORKER_LOST_WAIT"),
        max_memory_per_child=whole(None, "Kilobytes of memory after which a process is replaced when its task ends."),
        max_tasks_per_child=whole(None, "Tasks after which a process is replaced."),
        pool=text(DEFAULT_POOL, "The pool: `prefork`, `threads`, `asyncio`, `solo`, `custom`, or `module:Class`; `gevent` and `eventlet` are chosen by `-P`, so that they can take over the process first."),
        pool_putlocks=flag(True, "The pool takes no more tasks than it has free slots."),
        pool_restarts=flag(False, "The remote control command `pool_restart` is allowed."),
        pool_start_method=text("fork", "How processes start; kept for compatibility: they start from a clean template."),
        proc_alive_timeout=number(4.0, "Seconds a new process has to come up."),
        prefetch_multiplier=whole(4, "Messages reserved for each slot of the pool; 0 does not limit."),
        eta_task_limit=whole(None, "Most tasks with an ETA that a worker holds in memory."),
        enable_prefetch_count_reduction=flag(True, "Prefetch is lowered after a lost connection, and grows again."),
        disable_prefetch=flag(False, "A worker reserves no more than it can run at once."),
        redirect_stdouts=flag(True, "What is printed goes to the log.", old="CELERY_REDIRECT_STDOUTS"),
        redirect_stdouts_level=text("WARNING", "Level of lines logged so.", old="CELERY_REDIRECT_STDOUTS_LEVEL", also=("int",)),
        send_task_events=flag(False, "Workers send events, so that tasks can be watched.", old="CELERY_SEND_EVENTS"),
        state_db=text(None, "File in which a worker keeps its revoked tasks."),
        task_log_datefmt=text(None, "Format of dates in logs of tasks."),
        task_log_format=text(DEFAULT_TASK_LOG_FMT, "Format of lines in logs of tasks."),
        timer=text(None, "Class of the timer."),
        timer_precision=number(1.0, "Longest sleep of the timer, in seconds."),
        detect_quorum_queues=flag(True, "Quorum queues of RabbitMQ are found, and used as they must be."),
    ),
}

# What this implementation adds to Celery's settings.
OURS: dict[str, Option] = {
    "beat_location": Option(None, "tuple", "(latitude, longitude) in degrees, north and east positive, for `crontab(hour=\"sunset\")` and its like."),
    "beat_lease": number(10.0, "Seconds after which another beat steps in for one that has stopped answering, where they share a store."),
    "beat_missed": Option("one", "string", "Ticks missed while no beat ran, where the schedule is in the store: `skip` them, run `one`, `all` (1,000 at most), or so many at most. An entry may say it for itself, as `missed`.", also=("int",)),
    "beat_namespace": text(None, "What the schedule in the store is called; the name of the app by default."),
    "beat_persistent": flag(False, "Beat keeps its schedule in the store instead of in a file."),
    "beat_schedule_retry_delay": number(None, "Seconds after which beat tries again to send a task that could not be sent; 5 by default."),
    "broker_publish_timeout": number(5.0, "Seconds within which a publish, with all its retries, succeeds or raises."),
    "task_idempotency_expires": number(timedelta(days=1), "How long an `idempotency_key` brings back the task that was sent with it first, unless `unique` says otherwise."),
    "task_max_deliveries": whole(5, "Deliveries of one message after which it goes to the dead set: its tasks kill workers."),
    "task_rate_limit_scope": text("worker", "Whose rate `rate_limit` is: that of each `worker`, as in Celery, or `global`, of all of them together."),
    "task_unique_expires": number(timedelta(days=7), "How long a task with `unique=True` keeps others out if its end does not become known, counted from when it may run."),
    "worker_autoscale_max": whole(None, "Most slots under autoscaling, as --autoscale sets it."),
    "worker_autoscale_min": whole(None, "Fewest slots under autoscaling, as --autoscale sets it."),
    "worker_enable_gossip": flag(False, "Workers listen to each other's heartbeats and can hold elections, as with --gossip."),
    "worker_enable_mingle": flag(False, "A worker that starts asks its neighbours for their revocations, which takes a second, as with --mingle."),
    "worker_health": text(None, "Where a worker says how it is, over HTTP: `:PORT`, `HOST:PORT` or `unix:/PATH`; as --health."),
    "worker_health_patience": number(30.0, "Seconds for which a worker's loop may not turn, or a broker that others reach may not answer it, until it no longer counts as live."),
    "worker_lease": number(30.0, "Seconds a worker that stopped answering keeps its messages before others may take them."),
    "worker_log_json": flag(False, "Logs are one JSON object a line."),
    "workflow_records": flag(True, "Store what a chain, group or chord consists of when it is sent, for `celery workflow`: one request of the result store for each."),
}
# fmt: on


def flatten(d: Mapping[str, Any], root: str = "", keyfilter: Any = None) -> Iterator[tuple[str, Option]]:
    """(full name, option) of every setting in the nested table *d*."""
    for key, value in d.items():
        name = f"{root}_{key}" if root else key
        if isinstance(value, Mapping):
            yield from flatten(value, name)
        else:
            yield name, value


CELERY_OPTIONS: dict[str, Option] = dict(flatten(NAMESPACES))
OPTIONS: dict[str, Option] = {**CELERY_OPTIONS, **OURS}
DEFAULTS: dict[str, Any] = {name: option.default for name, option in OPTIONS.items()}
SETTING_KEYS: frozenset[str] = frozenset(OPTIONS)
OLD_NAMES: dict[str, str] = {name: str(option.old) for name, option in CELERY_OPTIONS.items()}
NEW_NAMES: dict[str, str] = {old: name for name, old in OLD_NAMES.items()}


def find_deprecated_settings(source: Iterable[str]) -> set[str]:
    """Names in *source* that are old upper-case names."""
    return {name for name in source if name in NEW_NAMES}


def find(name: str, namespace: str = "celery") -> searchresult:
    """Where the setting *name* is, given in full or without its namespace (*namespace* is looked at first).

    Raises `KeyError` if there is none.
    """
    name = name.lower()
    preferred = NAMESPACES.get(namespace.lower())
    if isinstance(preferred, dict) and name in preferred:
        return searchresult(namespace.lower(), name, preferred[name])
    for space, options in NAMESPACES.items():
        if space == name:
            return searchresult(None, name, options)
        if isinstance(options, dict) and name in options:
            return searchresult(space, name, options[name])
    if name in OPTIONS:
        return searchresult(None, name, OPTIONS[name])
    raise KeyError(name)


__all__ = ["DEFAULTS", "NAMESPACES", "OPTIONS", "OURS", "SETTING_KEYS", "Option", "find", "flatten"]
