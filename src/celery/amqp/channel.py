"""A channel: what requests are made on, and what is delivered on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from struct import error as StructError  # noqa: N812 - it is a class, whatever its name
from typing import TYPE_CHECKING, Any

from celery.amqp import frames
from celery.amqp.address import trouble
from celery.amqp.forms import Forms
from celery.amqp.frames import Args, Delivered, Properties
from celery.amqp.rights import advice
from celery.exceptions import BrokerError

if TYPE_CHECKING:
    from celery.amqp.connection import Connection

_CONTENT_METHODS = frozenset({frames.BASIC_DELIVER, frames.BASIC_RETURN, frames.BASIC_GET_OK})


class Refused(BrokerError):
    """The server closed a channel or the connection. `code` is AMQP's, such as 404 for what is not there."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class Channel:
    """Requests, one at a time, and what the server sends by itself. Thread-safe.

    The callbacks are called by whoever reads the connection, and must not block. `on_end` is called once, with why.
    """

    def __init__(self, connection: Connection, number: int) -> None:
        self.connection = connection
        self.number = number
        self.ended: BrokerError | None = None
        self.on_message: Callable[[Delivered], None] | None = None
        self.on_return: Callable[[str, str, bytes, str], None] | None = None
        """With exchange, routing key, properties as they were sent, and the server's reason."""
        self.on_confirm: Callable[[int, bool, bool], None] | None = None
        """With tag, whether all before it are meant too, and whether the server has it."""
        self.on_cancel: Callable[[str], None] | None = None
        self.on_messages: Callable[[], None] | None = None
        """Called once for all messages that came in one piece, after `on_message` was for each."""
        self.on_end: Callable[[BrokerError], None] | None = None
        self._request = threading.Lock()
        self._sending = threading.Lock()
        """Whoever holds it knows whether anything may be sent: what comes after the end of a channel ends the
        connection, and all its channels."""
        self._shut: BrokerError | None = None
        """Why nothing may be sent."""
        self._replies: SimpleQueue[Any] = SimpleQueue()
        self._news = False
        self._content: Any = None
        self._size = 0
        self._body: list[bytes] = []
        self._properties: Any = None
        self._forms = Forms()

    @property
    def usable(self) -> bool:
        return self.ended is None and self.connection.usable

    def send(self, data: bytes, *, last: bool = False) -> None:
        """Nothing is sent after the *last* one."""
        with self._sending:
            if self._shut is not None:
                raise self._shut
            if last:
                self._shut = closed()
            self.connection.send(data)

    def call(self, data: bytes, *expected: int, timeout: float | None = None, last: bool = False) -> Any:
        """Send a method and wait for its answer: an `Args`, or a `Delivered` for basic.get-ok.

        Raises `Refused` if the server closes the channel, `BrokerError` if the connection ends or does not answer.
        """
        with self._request:
            self.send(data, last=last)
            patience = self.connection.timeout if timeout is None else timeout
            try:
                with self.connection.relying():
                    number, answer = self._replies.get(timeout=patience)
            except Empty:
                error = trouble(f"RabbitMQ at {self.connection.where} has not answered for {patience:g} s.")
                self.connection.fail(error)
                raise error from None
        if number not in expected:
            if isinstance(answer, BrokerError):
                raise answer
            raise trouble(f"RabbitMQ at {self.connection.where} answered with method {number:#x}.")
        return answer

    def close(self) -> None:
        """Idempotent. What was delivered on it and not acknowledged goes back to its queue."""
        if self.usable:
            with suppress(BrokerError):
                reason = b"\0\xc8" + frames.short("bye") + b"\0\0\0\0"
                self.call(frames.method(self.number, frames.CHANNEL_CLOSE, reason), frames.CHANNEL_CLOSE_OK, last=True)
        self.end(closed())

    def end(self, error: BrokerError) -> None:
        if self.ended is None:
            self.ended = error
            with self._sending:
                self._shut = error
            self.connection.forget(self.number)
            self._replies.put((0, error))
            if self.on_end is not None:
                self.on_end(error)

    # -- by whoever reads the connection ---------------------------------------------------------------------------

    def take(self, kind: int, payload: bytes) -> None:
        """One frame."""
        if kind == frames.METHOD:
            number = int.from_bytes(payload[:4], "big")
            if number in _CONTENT_METHODS:
                self._content = number, payload
            else:
                self._command(number, payload)
        elif kind == frames.HEADER:
            self._size = frames.content_size(payload)
            self._properties = payload
            if not self._size:
                self._complete(b"")
        elif kind == frames.BODY:
            self._size -= len(payload)
            if self._size > 0:
                self._body.append(payload)
            elif self._body:
                whole, self._body = b"".join((*self._body, payload)), []
                self._complete(whole)
            else:
                self._complete(payload)

    def tell(self) -> None:
        """After a piece was read."""
        if self._news:
            self._news = False
            if self.on_messages is not None:
                self.on_messages()

    def _complete(self, body: bytes) -> None:
        number, payload = self._content
        if number == frames.BASIC_DELIVER:
            if self.on_message is not None:
                self._news = True
                self.on_message(frames.delivered(payload, self._read(self._properties), body))
            return
        args = Args(payload)
        if number == frames.BASIC_RETURN:
            args.number(2)
            reason, exchange, key = args.short(), args.short(), args.short()
            if self.on_return is not None:
                self.on_return(exchange, key, self._properties[12:], reason)
        else:
            tag, again, exchange, key = args.number(8), bool(args.number(1)), args.short(), args.short()
            properties = self._read(self._properties)
            self._replies.put((number, Delivered("", tag, again, exchange, key, properties, body, args.number(4))))

    def _read(self, payload: bytes) -> Properties:
        """A content header; nothing where it cannot be read: whoever gets the message says what is wrong."""
        try:
            return self._forms.read(payload)
        except (ValueError, IndexError, StructError):
            return Properties()

    def _command(self, number: int, payload: bytes) -> None:
        args = Args(payload)
        match number:
            case frames.BASIC_ACK | frames.BASIC_NACK:
                if self.on_confirm is not None:
                    self.on_confirm(args.number(8), bool(args.number(1) & 1), number == frames.BASIC_ACK)
            case frames.CHANNEL_CLOSE:
                code, text = args.number(2), args.short()
                what = f"{text} ({code}).{advice(text, code)}"
                error = Refused(f"RabbitMQ at {self.connection.where} refuses: {what}", code)
                with self._sending:
                    self._shut = error
                    with suppress(BrokerError):
                        self.connection.send(frames.method(self.number, frames.CHANNEL_CLOSE_OK))
                self.end(error)
            case frames.CHANNEL_FLOW:
                with suppress(BrokerError):
                    self.connection.send(frames.method(self.number, frames.CHANNEL_FLOW_OK, payload[4:5]))
            case frames.BASIC_CANCEL:
                if self.on_cancel is not None:
                    self.on_cancel(args.short())
            case _:
                self._replies.put((number, args))


def closed() -> BrokerError:
    return trouble("The connection to RabbitMQ is closed.")
