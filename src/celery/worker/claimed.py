"""A claimed task message on its way through the worker."""

from __future__ import annotations

from typing import Any

from celery.exceptions import DecodeError
from celery.utils.saferepr import saferepr
from celery.wire.message import Delivery, Job
from celery.wire.protocol import Head, decode_envelope, split_body
from celery.worker.decisions import Facts, Killed

NO_LIMITS = (None, None)
PLAIN = frozenset({"application/json"})
Limits = tuple[float | None, float | None]


class Claimed:
    """One message this worker has claimed: its head, its delivery and what is known of its task.

    Made for every task that passes, so it holds references and computes the rest when asked.  The body stays bytes.
    """

    __slots__ = (
        "claimed",
        "delivery",
        "facts",
        "head",
        "hostname",
        "killed",
        "signum",
        "tag",
        "time_start",
        "worker_pid",
    )

    def __init__(
        self, head: Head, delivery: Delivery, facts: Facts, tag: int, hostname: str = "", claimed: float = 0.0
    ) -> None:
        self.head = head
        self.delivery = delivery
        self.facts = facts
        self.tag = tag
        self.hostname = hostname
        self.claimed = claimed
        """Monotonic time of the claim; what waits too long is given back."""
        self.time_start: float | None = None
        """Unix time at which it was handed to the pool."""
        self.worker_pid: int | None = None
        self.killed: Killed | None = None
        self.signum: int | None = None
        """The number of the signal it was killed with."""

    def job(self) -> Job:
        """What the pool runs."""
        delivery, facts = self.delivery, self.facts
        if self.head.timelimit == NO_LIMITS:
            return Job(self.tag, delivery.envelope, delivery.redelivered, facts.soft, facts.hard)
        hard, soft = self.limits()
        return Job(self.tag, delivery.envelope, delivery.redelivered, soft, hard)

    def limits(self) -> Limits:
        """Hard and soft limit in force, in seconds: those of the message come before those of its task."""
        facts, own = self.facts, self.head.timelimit
        if own == NO_LIMITS:
            return facts.hard, facts.soft
        return own[0] or facts.hard, own[1] or facts.soft

    @property
    def suspect(self) -> bool:
        """Whether its next death is its last: its worker died with it as often as `task_max_deliveries` bears."""
        delivery = self.delivery
        return delivery.interrupted and delivery.deliveries + 1 >= self.facts.max_deliveries

    @property
    def frees(self) -> tuple[tuple[str, str], ...]:
        """The unique key that its end frees, with its id; as settlements have it."""
        return () if self.head.unique is None else ((self.head.unique, self.id),)

    @property
    def id(self) -> str:
        return self.head.id

    @property
    def task_id(self) -> str:
        return self.head.id

    @property
    def name(self) -> str:
        return self.head.shadow or self.head.task

    @property
    def type(self) -> str:
        return self.head.task

    @property
    def task_name(self) -> str:
        return self.head.task

    @property
    def root_id(self) -> str | None:
        return self.head.root_id

    @property
    def parent_id(self) -> str | None:
        return self.head.parent_id

    @property
    def group(self) -> str | None:
        return self.head.group

    @property
    def argsrepr(self) -> str | None:
        return self.head.argsrepr

    @property
    def kwargsrepr(self) -> str | None:
        return self.head.kwargsrepr

    @property
    def eta(self) -> str | None:
        return self.head.eta

    @property
    def expires(self) -> str | None:
        return self.head.expires

    @property
    def reply_to(self) -> str | None:
        return self.head.reply_to

    @property
    def correlation_id(self) -> str | None:
        return self.head.correlation_id

    @property
    def stamped_headers(self) -> Any:
        return self.head.stamped_headers

    @property
    def stamps(self) -> Any:
        return self.head.stamps

    @property
    def ignore_result(self) -> bool:
        return bool(self.head.ignore_result) or self.facts.ignore_result

    @property
    def store_errors(self) -> bool:
        return self.facts.store_errors or not self.ignore_result

    @property
    def time_limits(self) -> Limits:
        """Hard and soft limit in seconds, as the message has them."""
        return self.head.timelimit

    @property
    def acknowledged(self) -> bool:
        """Whether a crash would not run it again: an early-ack task that has been handed to the pool."""
        return self.time_start is not None and not self.facts.acks_late

    @property
    def delivery_info(self) -> dict[str, Any]:
        return {
            "exchange": self.head.exchange,
            "routing_key": self.head.routing_key,
            "priority": self.head.priority,
            "redelivered": self.delivery.redelivered or self.head.redelivered,
        }

    def info(self, safe: bool = False) -> dict[str, Any]:
        """The request as remote control shows it. Arguments are text if *safe*, or if they are not plain JSON."""
        args, kwargs = self._arguments()
        if safe:
            args, kwargs = self.head.argsrepr or saferepr(args), self.head.kwargsrepr or saferepr(kwargs)
        return {
            "id": self.id,
            "name": self.name,
            "args": args,
            "kwargs": kwargs,
            "type": self.type,
            "hostname": self.hostname,
            "time_start": self.time_start,
            "acknowledged": self.acknowledged,
            "delivery_info": self.delivery_info,
            "worker_pid": self.worker_pid,
        }

    def _arguments(self) -> tuple[Any, Any]:
        try:
            args, kwargs, _ = split_body(decode_envelope(self.delivery.envelope), PLAIN)
        except DecodeError:
            return self.head.argsrepr, self.head.kwargsrepr
        return args, kwargs

    def humaninfo(self) -> str:
        """Name and id, as log lines have them."""
        return f"{self.name}[{self.id}]"

    __str__ = humaninfo

    def __repr__(self) -> str:
        args = self.head.argsrepr or saferepr(())
        kwargs = self.head.kwargsrepr or saferepr({})
        return f"<{type(self).__name__}: {self.humaninfo()} {args} {kwargs}>"
