"""Listens for remote control on the broker's bus, in a thread of its own, so that it answers whatever the loop does."""

from __future__ import annotations

import fnmatch
import re
import threading
import time
from typing import TYPE_CHECKING, Any

from celery.app.control import mailbox_topic, reply_topic
from celery.brokers.base import Bus, Subscription
from celery.exceptions import BrokerError, DecodeError, EncodeError
from celery.utils.log import get_logger
from celery.wire import broadcast
from celery.wire.serialization import accept_types

if TYPE_CHECKING:
    from celery.worker.control import ControlState, Panel

logger = get_logger(__name__)

RETRY_EVERY = 1.0


class Mailbox:
    """Takes requests that are meant for this node, has the panel carry them out, and answers."""

    def __init__(self, state: ControlState, panel: type[Panel]) -> None:
        self.state = state
        self.panel = panel
        self.hostname = state.hostname
        self._bus: Bus = state.controller.broker.bus()
        self._topic = mailbox_topic(state.app)
        self._accept = accept_types(state.app.conf.accept_content)
        self._subscription: Subscription | None = None
        self._stopped = threading.Event()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="celery-control", daemon=True)

    def start(self) -> None:
        """Returns when requests are heard (or the broker could not be reached: it keeps trying)."""
        self._thread.start()
        self._listening.wait(5.0)

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

    def _listen(self) -> None:
        with self._bus.subscribe([self._topic]) as subscription:
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
            logger.warning("A remote control message cannot be read: %s", error)
            return
        self.state.app.control.clock.adjust(broadcast.clock_of(notice))
        expires = notice.headers.get("expires")
        if (isinstance(expires, int | float) and 0 < expires < time.time()) or not self._is_meant(body):
            return
        method = str(body.get("method"))
        arguments = body.get("arguments") or {}
        answer = self._carry_out(method, arguments if isinstance(arguments, dict) else {})
        reply_to = body.get("reply_to")
        if reply_to:
            self._reply(answer, reply_to, body.get("ticket"))

    def _is_meant(self, body: dict[str, Any]) -> bool:
        destination = body.get("destination")
        if destination and self.hostname not in destination:
            return False
        pattern, matcher = body.get("pattern"), body.get("matcher")
        if not pattern or not matcher:
            return True
        if matcher == "glob":
            return fnmatch.fnmatchcase(self.hostname, pattern)
        try:
            return re.search(pattern, self.hostname) is not None
        except re.error as error:
            logger.warning("Remote control: %r is not a regular expression: %s", pattern, error)
            return False

    def _carry_out(self, method: str, arguments: dict[str, Any]) -> Any:
        command = self.panel.data.get(method)
        if command is None:
            error = KeyError(method)
            logger.warning("There is no remote control command %r", method)
            return {"error": repr(error)}
        try:
            return command(self.state, **arguments)
        except SystemExit:
            raise
        except Exception as error:  # a command, also one of a user, must not end the mailbox
            logger.exception("Remote control command %s failed", method)
            return {"error": repr(error)}

    def _reply(self, answer: Any, reply_to: dict[str, Any], ticket: Any) -> None:
        headers = {"ticket": ticket, "clock": self.state.app.control.clock.forward()}
        exchange, key = str(reply_to.get("exchange")), str(reply_to.get("routing_key"))
        serializer = self.state.app.conf.task_serializer
        try:
            payload = broadcast.encode(
                {self.hostname: answer}, exchange=exchange, routing_key=key, headers=headers, serializer=serializer
            )
            self._bus.publish(reply_topic(key, exchange), payload)
        except (BrokerError, EncodeError) as error:
            logger.warning("Could not answer a remote control request: %s", error)
