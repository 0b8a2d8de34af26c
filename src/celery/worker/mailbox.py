"""Listens for remote control on the broker's bus, in a thread of its own, so that it answers whatever the loop does."""

from __future__ import annotations

import fnmatch
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from celery.brokers.base import Broker, Bus, Subscription
from celery.exceptions import BrokerError, DecodeError, EncodeError, WorkerTerminate
from celery.utils.deferred import deferred
from celery.utils.log import get_logger
from celery.wire import broadcast

if TYPE_CHECKING:
    import inspect

    from celery.worker.panel import ControlState, Panel
else:
    inspect = deferred("inspect")

logger = get_logger(__name__)

RETRY_EVERY = 1.0
PATIENCE = 30.0
"""Seconds that a worker which starts waits for a broker that does not say whether requests are heard."""
SHOWN = 200
"""Characters that a line of the log shows of what a request brought."""


class Mailbox:
    """Takes requests that are meant for this node, has the panel carry them out, and answers.

    Whatever a request brings, the next one is heard: one that cannot be read, is late or makes no sense is one line in
    the log.
    """

    def __init__(self, state: ControlState, panel: type[Panel], broker: Broker | None = None) -> None:
        self.state = state
        self.panel = panel
        self.hostname = state.hostname
        self._client = state.app.control.mailbox
        self._bus: Bus = (broker or state.controller.broker).bus()
        self._accept = self._client.accept
        self._ttl = float(state.app.conf.control_queue_ttl or 300.0)
        self._subscription: Subscription | None = None
        self._stopped = threading.Event()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="celery-control", daemon=True)

    def start(self) -> None:
        """Returns when requests are heard (or the broker could not be reached: it keeps trying)."""
        self._thread.start()
        self._listening.wait(PATIENCE)

    def stop(self) -> None:
        """Listen no more. A command that is being carried out is waited for, for a second."""
        self._stopped.set()
        if self._subscription is not None:
            self._subscription.close()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(1.0)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._listen()
            except BrokerError as error:
                if self._listening.is_set():
                    logger.warning("Remote control lost the broker, trying again every second: %s", error)
                self._listening.set()
                self._stopped.wait(RETRY_EVERY)
            except Exception:  # a defect must not make this worker deaf
                logger.exception("Remote control stumbled, listening again in a second")
                self._listening.set()
                self._stopped.wait(RETRY_EVERY)

    def _listen(self) -> None:
        topic = self._client.exchange
        with self._bus.subscribe([topic], self._client.slot(f"{self.hostname}.{topic}")) as subscription:
            self._subscription = subscription
            self._listening.set()
            while not self._stopped.is_set():
                received = subscription.get(timeout=1.0)
                if received is not None:
                    self.receive(received[1])

    def receive(self, payload: bytes) -> None:
        """Carry out one request. Whatever is in it, this returns."""
        try:
            notice = broadcast.decode(payload, self._accept)
            body = broadcast.mapping(notice)
        except DecodeError as error:
            logger.warning("A remote control request cannot be read: %s", error)
            return
        self.state.app.control.clock.adjust(broadcast.clock_of(notice))
        if not self._is_meant(body):
            return
        late = lateness(notice.headers.get("expires"), time.time())
        if late > 0:
            logger.warning(
                "The remote control request %s came %.1f s too late and is dropped (do the clocks differ?)",
                shown(body.get("method")),
                late,
            )
            return
        arguments = body.get("arguments") or {}
        if not isinstance(arguments, dict):
            logger.warning("The arguments of the remote control request %s are no map", shown(body.get("method")))
            return
        try:
            answer = self._carry_out(body.get("method"), arguments)
        except WorkerTerminate:
            self.state.controller.terminate()
            return
        except SystemExit:
            self.state.controller.stop()
            return
        if body.get("reply_to"):
            self._reply(answer, body["reply_to"], body.get("ticket"))

    def _is_meant(self, body: Mapping[str, Any]) -> bool:
        destination = body.get("destination")
        if destination:
            return isinstance(destination, str | list | tuple) and self.hostname in destination
        pattern, matcher = body.get("pattern"), body.get("matcher")
        if not pattern or not matcher:
            return True
        try:
            return matches(self.hostname, str(pattern), matcher)
        except ValueError as error:
            logger.warning("A remote control request names its workers in a way that makes no sense: %s", error)
            return False

    def _carry_out(self, method: Any, arguments: dict[str, Any]) -> Any:
        command = self.panel.data.get(method) if isinstance(method, str) else None
        if command is None:
            logger.warning("There is no remote control command %s", shown(method))
            return {"error": repr(KeyError(method))}
        try:
            return run(command, self.state, arguments)
        except BadArguments as error:
            logger.warning("The remote control command %s cannot be called so: %s", method, error)
            return {"error": repr(error.__cause__)}
        except Exception as error:  # a command, also one of a user, must not end the mailbox
            logger.exception("The remote control command %s failed", method)
            return {"error": repr(error)}

    def _reply(self, answer: Any, reply_to: Any, ticket: Any) -> None:
        exchange, key = self._client.reply_exchange, reply_to.get("routing_key") if isinstance(reply_to, dict) else None
        if not isinstance(key, str) or not key or reply_to.get("exchange") != exchange:
            logger.warning("An answer to remote control is wanted where none goes: %s", shown(reply_to))
            return
        headers = {"ticket": ticket, "clock": self.state.app.control.clock.forward()}
        try:
            payload = broadcast.encode(
                {self.hostname: answer},
                exchange=exchange,
                routing_key=key,
                headers=headers,
                serializer=self._client.serializer,
            )
            self._bus.post(exchange, key, payload, self._ttl)
        except (BrokerError, EncodeError) as error:
            logger.warning("A remote control request could not be answered: %s", error)


class BadArguments(Exception):
    """A command does not take what it was given."""


def run(command: Callable[..., Any], state: ControlState, arguments: Mapping[str, Any]) -> Any:
    """What *command* returns; raises BadArguments for what it does not take, and what it raises."""
    try:
        inspect.signature(command).bind(state, **arguments)
    except TypeError as error:
        raise BadArguments(shown(error)) from error
    return command(state, **arguments)


def matches(hostname: str, pattern: str, matcher: Any) -> bool:
    """Whether the node is meant; raises ValueError for a pattern or a matcher that does not exist."""
    if matcher == "glob":
        return fnmatch.fnmatch(hostname, pattern)
    if matcher != "pcre":
        raise ValueError(f"there is no matcher {shown(matcher)}; use glob or pcre")
    try:
        return re.match(pattern, hostname) is not None
    except re.error as error:
        raise ValueError(f"{shown(pattern)} is not a regular expression: {error}") from None


def lateness(expires: Any, now: float) -> float:
    """Seconds since a request was wanted until *expires* (Unix time; 0 and whatever is no number: for ever)."""
    if isinstance(expires, bool) or not isinstance(expires, int | float) or not expires > 0:
        return 0.0
    return now - expires


def shown(value: Any) -> str:
    """*value* as one short line."""
    return (text := repr(value) if not isinstance(value, Exception) else str(value))[:SHOWN] + "…" * (len(text) > SHOWN)
