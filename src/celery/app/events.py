"""`app.events`: sending and receiving monitoring events, and a picture of the cluster drawn from them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery.exceptions import BrokerError, DecodeError
from celery.utils.log import get_logger
from celery.utils.routing import matches
from celery.wire.message import Outgoing
from celery.wire.protocol import peek

if TYPE_CHECKING:
    from celery.app.base import Celery

logger = get_logger(__name__)


class Events:
    """The classes of `celery.events`, made for one app. Subclasses may name others."""

    receiver_cls: Any = "celery.events.receiver:EventReceiver"
    dispatcher_cls: Any = "celery.events.dispatcher:EventDispatcher"
    state_cls: Any = "celery.events.state:State"

    def __init__(self, app: Celery | None = None) -> None:
        self.app = app
        self._sender: tuple[int, Any] | None = None
        """The dispatcher that tells of what this process sends, and its process id."""

    @cached_property
    def Receiver(self) -> Any:  # noqa: N802 - the public name
        """`EventReceiver`: `app.events.Receiver(connection, handlers={"*": print}).capture()`."""
        return self._made(self.receiver_cls)

    @cached_property
    def Dispatcher(self) -> Any:  # noqa: N802 - the public name
        """`EventDispatcher`: `app.events.Dispatcher(hostname="me").send("custom-event", field=1)`."""
        return self._made(self.dispatcher_cls)

    @cached_property
    def State(self) -> Any:  # noqa: N802 - the public name
        """`State`: its `event` is a handler for a receiver."""
        return self._made(self.state_cls, reverse="events.State")

    def _made(self, cls: Any, **options: Any) -> Any:
        assert self.app is not None
        return self.app.subclass_with_self(cls, **options)

    @contextmanager
    def default_dispatcher(
        self, hostname: str | None = None, enabled: bool = True, buffer_while_offline: bool = False
    ) -> Iterator[Any]:
        """A dispatcher for a while: in a `with` block."""
        with self.Dispatcher(hostname=hostname, enabled=enabled, buffer_while_offline=buffer_while_offline) as made:
            yield made

    def announce(
        self, messages: Sequence[Outgoing], at: float | None = None, *, eventer: Any = None, producer: Any = None
    ) -> None:
        """Tell of tasks that were sent, *at* that time (now): `task-sent`, several of them as one list.

        *eventer*: the dispatcher to use.  *producer*: kombu's, if they were sent with it to another broker.  Should
        the broker not take the events, that is logged: the tasks have been sent.
        """
        told = [fields for message in messages if (fields := self._sent(message, at)) is not None]
        if not told:
            return
        dispatcher = eventer if eventer is not None else self._own_sender()
        try:
            if len(told) == 1 or not hasattr(dispatcher, "publish_all"):
                for fields in told:
                    dispatcher.publish("task-sent", fields, producer)
            else:
                dispatcher.publish_all("task-sent", told, producer)
        except Exception as error:
            # kombu's OperationalError; anything else is a defect.
            if not isinstance(error.__cause__, BrokerError):
                raise
            logger.warning("Nobody was told that %s tasks were sent: %s", len(told), error)

    def _own_sender(self) -> Any:
        pid = os.getpid()
        if self._sender is None or self._sender[0] != pid:
            self._sender = pid, self.Dispatcher(buffer_while_offline=False)
        return self._sender[1]

    def _sent(self, message: Outgoing, at: float | None) -> dict[str, Any] | None:
        """What is told of a message; None for what is no task, or none of the user's."""
        if message.inner or message.reply:
            return None
        try:
            head = peek(message.envelope)
        except DecodeError:
            return None
        fields = {
            "uuid": head.id, "root_id": head.root_id or head.id, "parent_id": head.parent_id, "name": head.task,
            "args": head.argsrepr, "kwargs": head.kwargsrepr, "retries": head.retries, "eta": head.eta,
            "expires": head.expires, "queue": self._queue(message.exchange, message.routing_key),
            "exchange": message.exchange, "routing_key": message.routing_key,
        }  # fmt: skip
        return fields if at is None else {**fields, "timestamp": at}

    def _queue(self, exchange: str, routing_key: str) -> str | None:
        """The queue that a message with this address goes to; the first of several."""
        if not exchange:
            return routing_key
        assert self.app is not None
        for queue in self.app.amqp.queues.values():
            own = queue.exchange
            if own.name == exchange and matches(own.type, queue.routing_key or "", routing_key):
                return str(queue.name)
        return None


__all__ = ["Events"]
