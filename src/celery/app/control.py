"""Remote control, the client's side: ask workers, and tell them what to do.

Requests are broadcast on the broker's bus to whoever listens; answers come back to a box of the request's own.
`app.control.ping()`, `app.control.revoke(id, terminate=True)`, `app.control.inspect().active()`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celery.app.lamport import LamportClock
from celery.app.mailbox import Mailbox, Reply
from celery.app.withdrawing import withdraw
from celery.exceptions import DuplicateNodenameWarning
from celery.utils.log import get_logger
from celery.utils.text import pluralize

if TYPE_CHECKING:
    from celery.app.base import Celery

__all__ = ("Control", "Inspect", "flatten_reply")

TERM_SIGNAME = "SIGTERM"
REVOKES_MAX = int(os.environ.get("CELERY_WORKER_REVOKES_MAX", "50000"))
REVOKE_EXPIRES = float(os.environ.get("CELERY_WORKER_REVOKE_EXPIRES", "10800"))
"""Seconds a revocation lasts."""
logger = get_logger(__name__)
W_DUPNODE = "Several workers answer to the {0} {1}: give each a name of its own with -n."


def flatten_reply(reply: Iterable[Reply]) -> Reply:
    """One mapping of node to answer from the list that `broadcast` returns; warns of nodes with one name."""
    nodes: Reply = {}
    seen: dict[str, int] = {}
    for item in reply or ():
        for name in item:
            seen[name] = seen.get(name, 0) + 1
        nodes.update(item)
    duplicates = [name for name, count in seen.items() if count > 1]
    if duplicates:
        warnings.warn(
            DuplicateNodenameWarning(W_DUPNODE.format(pluralize(len(duplicates), "name"), ", ".join(duplicates))),
            stacklevel=2,
        )
    return nodes


class Inspect:
    """Asks workers. Every method returns a mapping of node name to answer; None when nobody answered."""

    app: Celery | None = None

    def __init__(
        self,
        destination: str | Sequence[str] | None = None,
        timeout: float = 1.0,
        callback: Callable[[Reply], Any] | None = None,
        connection: Any = None,
        app: Celery | None = None,
        limit: int | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> None:
        assert app is not None or type(self).app is not None, "Inspect() needs an app: use app.control.inspect()."
        if app is not None:
            self.app = app
        self.destination = destination
        self.timeout = timeout
        self.callback = callback
        self.connection = connection
        self.limit = limit
        self.pattern = pattern
        self.matcher = matcher

    def _request(self, command: str, **arguments: Any) -> Any:
        assert self.app is not None
        return self._prepare(
            self.app.control.broadcast(
                command,
                arguments=arguments,
                destination=self.destination,
                callback=self.callback,
                connection=self.connection,
                limit=self.limit,
                timeout=self.timeout,
                reply=True,
                pattern=self.pattern,
                matcher=self.matcher,
            )
        )

    def _prepare(self, reply: Any) -> Any:
        if not reply:
            return None
        by_node = flatten_reply(reply)
        if self.destination and isinstance(self.destination, str) and not self.pattern:
            return by_node.get(self.destination)
        return by_node

    def report(self) -> Any:
        """Software, platform and settings."""
        return self._request("report")

    def clock(self) -> Any:
        """The logical clock."""
        return self._request("clock")

    def active(self, safe: bool | None = None) -> Any:
        """Tasks that run now."""
        return self._request("active", safe=safe)

    def scheduled(self, safe: bool | None = None) -> Any:
        """Tasks that wait for their time."""
        return self._request("scheduled", safe=safe)

    def reserved(self, safe: bool | None = None) -> Any:
        """Tasks that were claimed and have not started."""
        return self._request("reserved", safe=safe)

    def stats(self) -> Any:
        """Counts, pool, broker and resource usage."""
        return self._request("stats")

    def revoked(self) -> Any:
        """Ids of revoked tasks."""
        return self._request("revoked")

    def registered(self, *taskinfoitems: str) -> Any:
        """Names of the registered tasks, with the attributes *taskinfoitems*."""
        return self._request("registered", taskinfoitems=taskinfoitems)

    registered_tasks = registered

    def ping(self, destination: Any = None) -> Any:
        """Who is there."""
        if destination:
            self.destination = destination
        return self._request("ping")

    def active_queues(self) -> Any:
        """The queues that are consumed from."""
        return self._request("active_queues")

    def query_task(self, *ids: Any) -> Any:
        """What workers know of tasks: node to id to (state, request)."""
        if len(ids) == 1 and isinstance(ids[0], list | tuple):
            ids = tuple(ids[0])
        return self._request("query_task", ids=ids)

    def conf(self, with_defaults: bool = False) -> Any:
        """Settings."""
        return self._request("conf", with_defaults=with_defaults)

    def hello(self, from_node: str, revoked: Any = None) -> Any:
        """What a worker that starts asks its neighbours."""
        return self._request("hello", from_node=from_node, revoked=revoked)

    def memsample(self) -> Any:
        """The resident memory now."""
        return self._request("memsample")

    def memdump(self, samples: int = 10) -> Any:
        """The memory samples taken so far."""
        return self._request("memdump", samples=samples)

    def objgraph(self, type: str = "Request", n: int = 200, max_depth: int = 10) -> Any:
        """A graph of objects, made with the package objgraph."""
        return self._request("objgraph", num=n, max_depth=max_depth, type=type)


class Control:
    """What `app.control` is: commands to workers. Without *reply* they return None at once."""

    Mailbox = Mailbox

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.clock = LamportClock()
        """The logical clock of this process: every control message and event carries it."""
        self.mailbox = self.Mailbox(app, self.clock)

    @property
    def inspect(self) -> type[Inspect]:
        """`Inspect`, made for this app: `app.control.inspect(timeout=2).ping()`."""
        return type("Inspect", (Inspect,), {"app": self.app})

    def broadcast(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        destination: str | Sequence[str] | None = None,
        connection: Any = None,
        reply: bool = False,
        timeout: float = 1.0,
        limit: int | None = None,
        callback: Callable[[Reply], Any] | None = None,
        channel: Any = None,
        pattern: str | None = None,
        matcher: str | None = None,
        **extra_kwargs: Any,
    ) -> Any:
        """Send *command* to all workers, those in *destination*, or those whose name matches *pattern*.

        *matcher* is `glob` or `pcre`.  With *reply*: a list of `{node: answer}`, gathered for *timeout* seconds, or
        until *limit* nodes (or all of *destination*) have answered.
        """
        arguments = {**(arguments or {}), **extra_kwargs}
        nodes = [destination] if isinstance(destination, str) else destination
        return self.mailbox.request(
            command,
            arguments,
            destination=nodes,
            reply=reply,
            timeout=timeout,
            limit=limit,
            callback=callback,
            pattern=pattern,
            matcher=matcher,
        )

    def purge(self, connection: Any = None) -> int:
        """Delete the waiting messages of every queue of this app; how many there were."""
        broker = self.app.broker
        return sum(broker.purge(queue.name) for queue in self.app.amqp.queues.consuming())

    discard_all = purge

    def election(self, id: str, topic: str, action: Any = None, connection: Any = None) -> None:
        self.broadcast("election", connection=connection, arguments={"id": id, "topic": topic, "action": action})

    def revoke(
        self,
        task_id: str | Sequence[str],
        destination: Any = None,
        terminate: bool = False,
        signal: str = TERM_SIGNAME,
        **kwargs: Any,
    ) -> Any:
        """These tasks must not run: recorded durably at the broker, and told to all workers.

        With *terminate* the process that runs one is sent *signal*.
        """
        ids = [task_id] if isinstance(task_id, str) else list(task_id)
        self.app.broker.revoke(ids, REVOKE_EXPIRES, REVOKES_MAX)
        arguments = {"task_id": task_id, "terminate": terminate, "signal": signal}
        said = None
        if terminate or self.app.broker.can.fanout:  # else workers find it where it is recorded
            said = self.broadcast("revoke", destination=destination, arguments=arguments, **kwargs)
        withdraw(self.app, ids)
        return said

    def revoke_by_stamped_headers(
        self,
        headers: Mapping[str, Any],
        destination: Any = None,
        terminate: bool = False,
        signal: str = TERM_SIGNAME,
        **kwargs: Any,
    ) -> Any:
        """Revoke every task with one of these stamps: recorded durably at the broker, and told to all workers."""
        broker = self.app.broker
        if broker.can.withdraws:
            values = {name: _texts(value) for name, value in headers.items()}
            broker.revoke_stamps(values, REVOKE_EXPIRES, REVOKES_MAX)
        arguments = {"headers": headers, "terminate": terminate, "signal": signal}
        return self.broadcast("revoke_by_stamped_headers", destination=destination, arguments=arguments, **kwargs)

    def terminate(self, task_id: Any, destination: Any = None, signal: str = TERM_SIGNAME, **kwargs: Any) -> Any:
        """Revoke, and kill what runs."""
        return self.revoke(task_id, destination=destination, terminate=True, signal=signal, **kwargs)

    def ping(self, destination: Any = None, timeout: float = 1.0, **kwargs: Any) -> Any:
        """`[{node: {"ok": "pong"}}, …]` of who answers within *timeout* seconds."""
        return self.broadcast("ping", reply=True, arguments={}, destination=destination, timeout=timeout, **kwargs)

    def rate_limit(self, task_name: str, rate_limit: Any, destination: Any = None, **kwargs: Any) -> Any:
        """Change the rate limit of a task: `10/m`, `5/s`; 0 for none."""
        arguments = {"task_name": task_name, "rate_limit": rate_limit}
        return self.broadcast("rate_limit", destination=destination, arguments=arguments, **kwargs)

    def pause(self, queue: str | Sequence[str]) -> None:
        """No worker claims from these queues until they are resumed: recorded at the broker. Publishing goes on."""
        self.app.broker.pause([queue] if isinstance(queue, str) else list(queue))

    def resume(self, queue: str | Sequence[str]) -> None:
        """End the pause of these queues."""
        self.app.broker.resume([queue] if isinstance(queue, str) else list(queue))

    def add_consumer(
        self,
        queue: str,
        exchange: str | None = None,
        exchange_type: str = "direct",
        routing_key: str | None = None,
        options: Mapping[str, Any] | None = None,
        destination: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Have workers consume from *queue* too."""
        arguments = {
            "queue": queue,
            "exchange": exchange,
            "exchange_type": exchange_type,
            "routing_key": routing_key,
            **(options or {}),
        }
        return self.broadcast("add_consumer", destination=destination, arguments=arguments, **kwargs)

    def cancel_consumer(self, queue: str, destination: Any = None, **kwargs: Any) -> Any:
        """Have workers consume from *queue* no longer."""
        return self.broadcast("cancel_consumer", destination=destination, arguments={"queue": queue}, **kwargs)

    def time_limit(
        self,
        task_name: str,
        soft: float | None = None,
        hard: float | None = None,
        destination: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Change the time limits of a task, in seconds."""
        arguments = {"task_name": task_name, "hard": hard, "soft": soft}
        return self.broadcast("time_limit", arguments=arguments, destination=destination, **kwargs)

    def enable_events(self, destination: Any = None, **kwargs: Any) -> Any:
        """Have workers send task events."""
        return self.broadcast("enable_events", arguments={}, destination=destination, **kwargs)

    def disable_events(self, destination: Any = None, **kwargs: Any) -> Any:
        """Have workers send no task events."""
        return self.broadcast("disable_events", arguments={}, destination=destination, **kwargs)

    def pool_grow(self, n: int = 1, destination: Any = None, **kwargs: Any) -> Any:
        """Give pools *n* slots more."""
        return self.broadcast("pool_grow", arguments={"n": n}, destination=destination, **kwargs)

    def pool_shrink(self, n: int = 1, destination: Any = None, **kwargs: Any) -> Any:
        """Give pools *n* slots less."""
        return self.broadcast("pool_shrink", arguments={"n": n}, destination=destination, **kwargs)

    def autoscale(self, max: int, min: int, destination: Any = None, **kwargs: Any) -> Any:
        """Change the bounds of autoscaling."""
        return self.broadcast("autoscale", arguments={"max": max, "min": min}, destination=destination, **kwargs)

    def shutdown(self, destination: Any = None, **kwargs: Any) -> Any:
        """Stop workers warmly."""
        return self.broadcast("shutdown", arguments={}, destination=destination, **kwargs)

    def pool_restart(
        self,
        modules: Sequence[str] | None = None,
        reload: bool = False,
        reloader: Any = None,
        destination: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Replace the processes of pools."""
        arguments = {"modules": modules, "reload": reload, "reloader": reloader}
        return self.broadcast("pool_restart", arguments=arguments, destination=destination, **kwargs)

    def heartbeat(self, destination: Any = None, **kwargs: Any) -> Any:
        """Have workers send a heartbeat now."""
        return self.broadcast("heartbeat", arguments={}, destination=destination, **kwargs)


def _texts(value: Any) -> list[str]:
    """One value of a stamp, or several."""
    return [str(one) for one in value] if isinstance(value, list | tuple | set | frozenset) else [str(value)]
