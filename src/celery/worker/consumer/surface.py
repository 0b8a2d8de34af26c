"""What strategies, steps and receivers of signals know the worker's consumer by: names of the original, on our loop.

Where the original has a thing that this worker does not need (a prefetch count at the broker, an event loop of
kombu's), the name is there and says so.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from celery.exceptions import BackendError, BrokerError
from celery.utils.log import get_logger
from celery.utils.time import rate
from celery.worker.line import Line
from celery.worker.looptimer import LoopTimer
from celery.worker.outage import Outage

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.brokers.base import Broker
    from celery.worker.aftermath import Aftermath
    from celery.worker.calls import Calls
    from celery.worker.claimed import Claimed
    from celery.worker.claims import Claims
    from celery.worker.facts import FactsTable
    from celery.worker.monitoring import Monitoring
    from celery.worker.reports import Reports
    from celery.worker.strategies import Strategies
    from celery.worker.tally import Tally

logger = get_logger("celery.worker.consumer")
T = TypeVar("T")
PATIENCE = 30.0
"""Seconds that the loop may be busy before who changes its queues from another thread is told that it is."""


class Surface:
    """Mixed into `Consumer`. Any thread may read; methods that change something do it on the loop's thread."""

    app: Celery
    broker: Broker
    facts: FactsTable
    strategies: Strategies
    calls: Calls
    inside: dict[int, Claimed]
    held: Line
    source: Claims
    aftermath: Aftermath
    _outage: Outage

    tally: Tally | None = None
    reports: Reports | Tally | None = None
    """Takes notes of what becomes of tasks; None while nobody is told."""
    monitoring: Monitoring | None = None
    event_dispatcher: Any = None
    """Sends monitoring events, where the worker does."""
    controller: Any = None
    """The worker."""
    timer: LoopTimer
    hub = None
    """No event loop of kombu's: calls at a later time go through `timer`."""
    connection: Any = None
    """The connection of kombu's that consumer steps share, while there are such steps."""
    gossip: Any = None
    heart: Any = None
    connection_errors: tuple[type[BaseException], ...] = (BrokerError, BackendError, ConnectionError)
    channel_errors: tuple[type[BaseException], ...] = ()
    disable_rate_limits = False
    max_prefetch_count = None
    """There is no count at the broker that could grow: what is not due yet stays there."""
    steps: list[Any]
    """The steps of users that were started."""
    blueprint: Any = None
    restart_count = 0
    """Losing the broker is no restart here: what runs runs on."""

    def call_soon(self, p: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Have the loop call *p* between two of its turns; *p*. Any thread, also a signal handler; does not block."""
        self.calls.soon(partial(p, *args, **kwargs) if args or kwargs else p)
        return p

    def ask(self, call: Callable[[], T], timeout: float = 1.0) -> T:
        """What *call* returns when the loop calls it; raises TimeoutError if the loop is busy for *timeout* seconds."""
        return self.calls.ask(call, timeout)

    def requests(self) -> list[Claimed]:
        """What is claimed and has not ended. Any thread."""
        return [*self.inside.values(), *self.held, *self.strategies.lent.values()]

    @property
    def connected(self) -> bool:
        """Whether the last thing asked of the broker and the result store was done. Any thread."""
        return not self._outage.lasts

    def renew(self) -> bool:
        """Keep the lease. Any thread."""
        return self.source.renew()

    def report_to(self, reports: Reports | None) -> None:
        """Tell *reports*, or nobody, what becomes of tasks from now on. Any thread."""
        if self.tally is not None:
            self.tally.then = reports
        else:
            self.reports = self.aftermath.reports = reports

    def connect(self) -> Any:
        """`connection_for_read`."""
        return self.connection_for_read()

    def connection_for_read(self, heartbeat: float | None = None) -> Any:
        """A connection of kombu's to the broker, for those who consume by themselves."""
        return self.app.connection_for_read(heartbeat=heartbeat)

    def connection_for_write(self, *args: Any, **kwargs: Any) -> Any:
        """A connection of kombu's to publish with."""
        return self.app.connection_for_write(*args, **kwargs)

    def add_task_queue(
        self,
        queue: Any,
        exchange: str | None = None,
        exchange_type: str | None = None,
        routing_key: str | None = None,
        **options: Any,
    ) -> None:
        """Also consume tasks from *queue*, which is made if it is not known."""
        queues = self.app.amqp.queues
        name = getattr(queue, "name", queue)
        given = {"exchange": exchange, "exchange_type": exchange_type, "routing_key": routing_key, **options}
        if name in queues or name is not queue:
            queues.select_add(queues.get(name, queue))
        else:
            wanted = {key: value for key, value in given.items() if value is not None}
            queues.select_add(name, **{"exchange": name, "routing_key": name, **wanted})
        self.broker.declare(queues.apart([name]))
        self.ask(lambda: self.add_queue(name), PATIENCE)  # type: ignore[attr-defined] # of the class it is mixed into

    def cancel_task_queue(self, queue: Any) -> None:
        """Consume tasks no longer from *queue*."""
        name = getattr(queue, "name", queue)
        self.app.amqp.queues.deselect([name])
        self.ask(lambda: self.cancel_queue(name), PATIENCE)  # type: ignore[attr-defined]

    def update_strategies(self) -> None:
        """Read tasks and their strategies anew: something about them has changed."""
        self.strategies.update()
        self.reset_rate_limits()

    def reset_rate_limits(self) -> None:
        """Read what is known of tasks anew, their rate limits among it."""
        for name in self.app.tasks:
            self.facts.forget(name)

    def bucket_for_task(self, type: Any) -> float:
        """Tasks of this type that may start in a second; 0 where there is no limit. Limits are held by the loop."""
        return float(rate(type.rate_limit))

    # -- for subclasses --------------------------------------------------------------------------------------------

    def on_unknown_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """A message came for a task that is not registered here. It goes to the dead set."""

    def on_invalid_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """A message came that is no task message. It goes to the dead set."""

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        """A message came that cannot be decoded. It goes to the dead set."""
