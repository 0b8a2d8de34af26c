"""A TCP proxy on the loopback that breaks what runs through it, when and where a test says so."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from typing import Literal, Self, TypeVar

GRACE = 30.0
"""Seconds that the proxy may take to do what it is told."""

Way = Literal["up", "down"]
"""`up`: from clients to the server; `down`: from the server to clients."""
Mode = Literal["pass", "swallow", "hold"]
T = TypeVar("T")


class Proxy:
    """Stands in front of a server on *port* of the loopback. Starts at once; `close` ends it and its connections.

    Each way is in one mode, for connections that stand and for new ones: *pass* on; *swallow*: accept everything and
    deliver nothing, without a word to the sender (a black hole); *hold*: the same, but deliver it all when the way
    passes again, as TCP does after a short partition.  Any thread may call the methods; they return when it is so.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._server = host, port
        self.count: dict[Way, int] = {"up": 0, "down": 0}
        """Bytes delivered each way, over all connections."""
        self.accepted = 0
        """Connections that clients have made."""
        self.cut = threading.Event()
        """Set when `cut_after` has struck."""
        self._modes: dict[Way, Mode] = {"up": "pass", "down": "pass"}
        self._delay = 0.0
        self._refusing = False
        self._cut: tuple[Way, int, Callable[[], None] | None] | None = None
        self._needle = b""
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"proxy-{self.port}")
        self._thread.start()

    def url(self, db: int = 0, scheme: str = "redis") -> str:
        return f"{scheme}://127.0.0.1:{self.port}/{db}"

    # -- what a test tells it --------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Pass everything on from now on; deliver what was held; accept connections."""
        self._do(self._heal)

    def swallow(self, *ways: Way) -> None:
        """A black hole, in these ways or in both. New connections are accepted, and lead nowhere."""
        self._do(lambda: self._switch("swallow", ways))

    def hold(self, *ways: Way) -> None:
        """Hold back what is sent, in these ways or in both, until `heal`."""
        self._do(lambda: self._switch("hold", ways))

    def delay(self, seconds: float) -> None:
        """Every chunk takes that much longer."""
        self._do(lambda: setattr(self, "_delay", seconds))

    def refuse(self) -> None:
        """Reset new connections as soon as they are made. Those that stand, stand."""
        self._do(lambda: setattr(self, "_refusing", True))

    def reset(self) -> int:
        """Reset every connection now, towards clients and server; how many there were."""
        return self._do(self._reset)

    def abandon(self) -> int:
        """A black hole for the connections that stand, whatever comes; new ones pass. How many were abandoned.

        What a fail-over or a router that forgot about them makes of connections.
        """
        return self._do(self._abandon)

    def strand(self) -> int:
        """Hold what is sent on the connections that stand until `heal`; new ones pass. How many were stranded.

        After `heal` the server is told things by connections that their clients have long given up.
        """
        return self._do(self._strand)

    def swallow_requests_with(self, needle: bytes) -> None:
        """Deliver no chunk of a client that has *needle* in it: one kind of request is lost, all others pass."""
        self._do(lambda: setattr(self, "_needle", needle))

    def cut_after(self, way: Way, bytes: int, then: Callable[[], None] | None = None) -> None:
        """Reset the connection on which the next *bytes* bytes that way have passed, exactly; once.

        The receiver gets those bytes.  *then* is called (from the proxy's thread, it must not block) when they have
        passed, before anything else is.  `cut` is set when that has happened.
        """
        self._do(lambda: self._arm(way, bytes, then))

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(GRACE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- in its own thread -----------------------------------------------------------------------------------------

    def _do(self, call: Callable[[], T]) -> T:
        if threading.current_thread() is self._thread:  # what `cut_after` was told to do then
            return call()

        async def perform() -> T:
            return call()

        return asyncio.run_coroutine_threadsafe(perform(), self._loop).result(GRACE)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._begin, sock=self._listener))
        try:
            self._loop.run_forever()
        finally:
            server.close()
            self._loop.run_until_complete(self._finish())
            self._loop.close()

    async def _finish(self) -> None:
        """Leave no socket open: what was just accepted begins, is reset, and its end is told to its transport."""
        for _ in range(3):
            await asyncio.sleep(0)
        self._reset()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        for _ in range(3):
            await asyncio.sleep(0)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: the server's would report its cancellation as an error.
        self.accepted += 1
        pair = _Pair(writer)
        self._pairs.add(pair)
        task = self._loop.create_task(self._serve(reader, pair))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, pair: _Pair) -> None:
        try:
            if self._refusing:
                return
            server_reader, pair.server = await asyncio.open_connection(*self._server)
            await asyncio.gather(
                self._pump("up", reader, pair.server, pair), self._pump("down", server_reader, pair.client, pair)
            )
        except OSError:
            return
        finally:
            self._pairs.discard(pair)
            pair.abort()

    async def _pump(self, way: Way, source: asyncio.StreamReader, target: asyncio.StreamWriter, pair: _Pair) -> None:
        try:
            while data := await source.read(65536):
                if self._delay:
                    await asyncio.sleep(self._delay)
                if not await self._may_pass(way, data, pair):
                    continue
                if self._cut is not None and self._cut[0] == way and self._cut[1] <= len(data):
                    await self._strike(data, target, pair)
                    return
                await self._deliver(way, data, target)
            target.write_eof()
        except OSError:
            pair.abort()  # one side was reset, so is the other

    async def _may_pass(self, way: Way, data: bytes, pair: _Pair) -> bool:
        """False if it is swallowed. Waits while it is held."""
        while (mode := pair.mode or self._modes[way]) == "hold":
            await pair.wait_for_change()
        return mode == "pass" and not (way == "up" and self._needle and self._needle in data)

    async def _deliver(self, way: Way, data: bytes, target: asyncio.StreamWriter) -> None:
        if self._cut is not None and self._cut[0] == way:
            self._cut = (way, self._cut[1] - len(data), self._cut[2])
        self.count[way] += len(data)
        target.write(data)
        await target.drain()

    async def _strike(self, data: bytes, target: asyncio.StreamWriter, pair: _Pair) -> None:
        assert self._cut is not None
        way, left, then = self._cut
        self._cut = None
        if left:
            self.count[way] += left
            target.write(data[:left])
            await target.drain()
        if then is not None:
            then()
        pair.abort(gently=target)
        self.cut.set()

    def _heal(self) -> None:
        self._refusing, self._delay, self._needle, self._cut = False, 0.0, b"", None
        for pair in self._pairs:
            pair.mode = None if pair.mode == "hold" else pair.mode
        self._switch("pass", ())

    def _switch(self, mode: Mode, ways: tuple[Way, ...]) -> None:
        for way in ways or ("up", "down"):
            self._modes[way] = mode
        for pair in self._pairs:
            pair.changed.set()

    def _reset(self) -> int:
        pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            pair.abort()
        return len(pairs)

    def _abandon(self) -> int:
        for pair in self._pairs:
            pair.mode = "swallow"
        self._heal()
        return len(self._pairs)

    def _strand(self) -> int:
        for pair in self._pairs:
            pair.mode = "hold"
        return len(self._pairs)

    def _arm(self, way: Way, count: int, then: Callable[[], None] | None) -> None:
        self.cut.clear()
        self._cut = (way, count, then)


class _Pair:
    """The two sides of one connection."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.client = client
        self.server: asyncio.StreamWriter | None = None
        self.changed = asyncio.Event()
        self.gone = False
        self.mode: Mode | None = None
        """Its own, whatever the proxy's is."""

    async def wait_for_change(self) -> None:
        if self.gone:
            raise ConnectionResetError
        self.changed.clear()
        await self.changed.wait()

    def abort(self, gently: asyncio.StreamWriter | None = None) -> None:
        """Reset both sides. The *gentle* one is closed after what was written: the reset would take that with it."""
        self.gone = True
        self.changed.set()
        for writer in (self.client, self.server):
            if writer is None:
                continue
            if writer is gently:
                writer.close()
            else:
                _abort(writer)


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close with a reset instead of an end of file."""
    made = writer.get_extra_info("socket")
    if made is not None and made.fileno() >= 0:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
