"""The values that travel: messages as bytes, deliveries, settlements and their effects.

One byte format is used on every store and every socket: the *envelope*, the JSON text that kombu keeps in Redis
lists (`body` in base64, `headers`, `properties`).  A producer makes it once; brokers, the worker and its children
hand the same bytes on.  The records here are `msgspec.Struct`s: as cheap to make as a tuple, typed, and directly
encodable for the sockets between a worker and its children.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Exchange(msgspec.Struct, frozen=True):
    """Where messages are published. `''` is the default exchange: the routing key is the name of the queue."""

    name: str = ""
    type: Literal["direct", "topic", "fanout", "headers"] = "direct"
    durable: bool = True
    auto_delete: bool = False
    """Where the broker knows what is bound to it, it goes with the last queue."""


class Binding(msgspec.Struct, frozen=True):
    """One more way into a queue. *arguments*: what an exchange of the kind headers compares, where there are some."""

    exchange: Exchange
    routing_key: str = ""
    arguments: dict[str, Any] | None = None


class Queue(msgspec.Struct, frozen=True):
    """A named queue and how it is bound to its exchange; `bindings`: to others besides.

    `auto_delete`: where the broker knows who listens, it goes with its last listener.
    """

    name: str
    exchange: Exchange = Exchange()
    routing_key: str = ""
    durable: bool = True
    max_priority: int | None = None
    arguments: dict[str, Any] | None = None
    bindings: tuple[Binding, ...] = ()
    binding_arguments: dict[str, Any] | None = None
    auto_delete: bool = False

    @property
    def fleeting(self) -> bool:
        """Whether it is one listener's own, behind an exchange that tells all who listen (kombu's `Broadcast`).

        Whoever only sends neither declares it nor minds that nobody listens.
        """
        return self.auto_delete and self.exchange.type == "fanout"

    def apart(self) -> list[Queue]:
        """This queue once for each of its bindings, the main one first, as brokers declare them."""
        plain = msgspec.structs.replace(self, bindings=())
        return [
            plain,
            *(
                msgspec.structs.replace(
                    plain, exchange=way.exchange, routing_key=way.routing_key, binding_arguments=way.arguments
                )
                for way in self.bindings
            ),
        ]


class Outgoing(msgspec.Struct, frozen=True, array_like=True):
    """A message on its way to a broker.

    `due` is the Unix time in seconds before which it must not be delivered; `expires` the one after which nobody
    wants it.  Routing is AMQP's: with the default exchange `''`, `routing_key` is the name of the queue.  `inner`: it
    belongs to the machinery (the join of a chord): workers of ours get it before whatever waits in the queue, and
    workers of original Celery, which share the queue, do not get it.  `reply`: it goes to the reply queue of somebody
    who may be gone, and is then wanted by nobody.
    """

    envelope: bytes
    routing_key: str
    exchange: str = ""
    priority: int | None = None
    due: float | None = None
    expires: float | None = None
    task_id: str = ""
    inner: bool = False
    reply: bool = False


class Delivery(msgspec.Struct, frozen=True):
    """A message claimed by a consumer, which holds its lease.

    `tag` names the message within its broker; `fence` changes with every claim, so that a settlement by a former
    owner is refused.  `deliveries` counts the executions that were *started* before this claim (a message that was
    only held, and given back or swept, is not counted).  `interrupted`: the last owner had marked it started and
    died.  `revoked`: a durable revocation names its task.
    """

    tag: int | str
    queue: str
    envelope: bytes
    fence: int
    deliveries: int = 0
    interrupted: bool = False
    redelivered: bool = False
    revoked: bool = False


class Record(msgspec.Struct, frozen=True, array_like=True):
    """A result to store under `key`.

    `state` is a task state; a terminal one (SUCCESS, FAILURE, REVOKED) wins once: SUCCESS is never replaced, FAILURE
    and REVOKED only by a record of another `writer` (the message that was executed: a replay or a new message for
    the same task id), and no terminal state by one that is not.  `ttl` in seconds; None keeps it for ever.
    """

    key: str
    value: bytes
    state: str = "SUCCESS"
    writer: str = ""
    ttl: float | None = None


class Arrival(msgspec.Struct, frozen=True, array_like=True):
    """Part `index` of the join under the key `group`, which ends with a dot, has ended as `value`.

    The join is complete when `size` distinct parts have arrived (0: the store has been told elsewhere how many).  Then
    `message` is sent, by whoever completes it: in the same step where that is a settlement.  An `index` ends with a
    colon and the place of the part; a `value` is never empty, and differs from those of other parts.

    `grows`: no part has ended, but the join waits for one more than `size` says; once for each index.
    """

    group: str
    index: str
    value: bytes
    size: int
    message: Outgoing | None = None
    grows: bool = False


class Permit(msgspec.Struct, frozen=True, array_like=True):
    """What a message needs before it may be started, for the store to give or to refuse.

    `slots`: at most so many of those that name the same `key` are started and not settled, in the whole fleet.
    `interval`: they are started at least so many seconds apart, also in the whole fleet, but for a `burst` of as many
    in a row after a pause.  With neither only a worker can give it: it takes what is parked under `key` when it claims.
    """

    key: str
    slots: int = 0
    interval: float = 0.0
    burst: int = 1


class Unique(msgspec.Struct, frozen=True, array_like=True):
    """A key that one task holds at a time, at most until the Unix time `until`, whatever becomes of the task."""

    key: str
    until: float


class Settlement(msgspec.Struct, frozen=True):
    """How a delivery ends, with the effects to commit beside it.

    `done` removes the message; `requeue` makes it claimable again after `delay` seconds; `dead` moves it to the dead
    set with `reason`.  `frees`: (key, task id) of unique keys that are free from now on, if that task holds them.
    """

    delivery: Delivery
    verb: Literal["done", "requeue", "dead"] = "done"
    delay: float = 0.0
    reason: str = ""
    records: tuple[Record, ...] = ()
    messages: tuple[Outgoing, ...] = ()
    arrivals: tuple[Arrival, ...] = ()
    frees: tuple[tuple[str, str], ...] = ()


class Job(msgspec.Struct, frozen=True, array_like=True):
    """A task handed to a pool. `tag` is the worker's own number for it; `soft` and `hard` are limits in seconds."""

    tag: int
    envelope: bytes
    redelivered: bool = False
    soft: float | None = None
    hard: float | None = None


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """What became of a job.

    `state` is a task state (SUCCESS, FAILURE, RETRY, REVOKED, IGNORED, REJECTED) as the tracer found it, or what the
    pool says of a job that never came back: LOST (its process died), TIMEOUT (its hard limit passed and it was
    killed), OVERTIME (its soft limit struck where the runner was not in the task), RETURNED (it was never started: hand
    it out again, uncounted).  `records` and `messages` are effects to
    commit with the settlement; `requeue` asks for redelivery (`Reject(requeue=True)`).  `detail` is the repr of the
    result or of the exception and `traceback` its text, for logs, events and the dead set; `runtime` in seconds.
    `internal`: the tracer itself failed, not the task.
    """

    tag: int
    state: str
    runtime: float = 0.0
    records: tuple[Record, ...] = ()
    messages: tuple[Outgoing, ...] = ()
    arrivals: tuple[Arrival, ...] = ()
    requeue: bool = False
    detail: str = ""
    traceback: str = ""
    internal: bool = False
