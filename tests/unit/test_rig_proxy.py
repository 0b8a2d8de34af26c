"""The proxy that the fault tests stand on does what it says: otherwise they prove nothing."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from rig.proxy import Proxy

PATIENCE = 0.2
"""Seconds in which something that must not come would have come."""


class Echo:
    """A server that answers what it is sent, and keeps it."""

    def __init__(self) -> None:
        self.got = b""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.connections: list[socket.socket] = []
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        try:
            while True:
                connection, _ = self.listener.accept()
                self.connections.append(connection)
                threading.Thread(target=self.serve, args=(connection,)).start()
        except OSError:
            return

    def serve(self, connection: socket.socket) -> None:
        try:
            while data := connection.recv(65536):
                self.got += data
                connection.sendall(data)
        except OSError:
            return

    def close(self) -> None:
        if self.thread.is_alive():
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.connections:
            connection.close()
        self.thread.join(20)


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.port) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with connected(proxy) as made:
        yield made


def connected(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=20)


def answer(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    return received(client, len(data))


def received(client: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count and (data := client.recv(65536)):
        got += data
    return got


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def silent(client: socket.socket) -> bool:
    client.settimeout(PATIENCE)
    try:
        return not client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(20)


def test_it_passes_and_counts(proxy: Proxy, client: socket.socket) -> None:
    assert answer(client, b"x" * 100_000) == b"x" * 100_000
    assert proxy.count == {"up": 100_000, "down": 100_000}
    assert proxy.accepted == 1


@pytest.mark.parametrize("ways", [(), ("up",), ("down",)])
def test_a_black_hole_takes_everything_without_a_word(proxy: Proxy, client: socket.socket, echo: Echo, ways) -> None:  # type: ignore[no-untyped-def]
    assert answer(client, b"before") == b"before"
    proxy.swallow(*ways)
    client.sendall(b"lost")
    assert silent(client)
    if ways == ("down",):
        until(lambda: b"lost" in echo.got)
    else:
        assert b"lost" not in echo.got
    with connected(proxy) as second:
        second.sendall(b"lost too")
        assert silent(second)
    proxy.heal()
    assert answer(client, b"after") == b"after"


def test_connections_are_abandoned_and_new_ones_pass(proxy: Proxy, client: socket.socket) -> None:
    answer(client, b"before")
    assert proxy.abandon() == 1
    client.sendall(b"lost")
    assert silent(client)
    with connected(proxy) as second:
        assert answer(second, b"x") == b"x"


def test_what_a_client_gave_up_comes_late(proxy: Proxy, client: socket.socket, echo: Echo) -> None:
    answer(client, b"before")
    assert proxy.strand() == 1
    client.sendall(b"late")
    client.close()
    with connected(proxy) as second:
        assert answer(second, b"soon") == b"soon"
    assert echo.got == b"beforesoon"
    proxy.heal()
    until(lambda: echo.got == b"beforesoonlate")


def test_what_is_held_comes_later(proxy: Proxy, client: socket.socket, echo: Echo) -> None:
    proxy.hold()
    client.sendall(b"late")
    assert silent(client)
    assert echo.got == b""
    proxy.heal()
    assert received(client, 4) == b"late"


def test_a_reset_is_no_end_of_file(proxy: Proxy, client: socket.socket) -> None:
    answer(client, b"x")
    assert proxy.reset() == 1
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with connected(proxy) as second:
        assert answer(second, b"y") == b"y"


def test_new_connections_are_refused_and_old_ones_stand(proxy: Proxy, client: socket.socket) -> None:
    answer(client, b"x")
    proxy.refuse()
    with pytest.raises(ConnectionResetError), connected(proxy) as second:
        second.recv(1)
    assert answer(client, b"y") == b"y"


@pytest.mark.parametrize("count", [0, 1, 4, 5])
def test_a_request_is_cut_between_two_bytes(proxy: Proxy, client: socket.socket, echo: Echo, count: int) -> None:
    seen: list[bytes] = []
    proxy.cut_after("up", count, then=lambda: seen.append(b"cut"))
    client.sendall(b"12345")
    assert proxy.cut.wait(20)
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    deadline = time.monotonic() + 5
    while len(echo.got) < count:
        assert time.monotonic() < deadline
    assert echo.got == b"12345"[:count]
    assert seen == [b"cut"]
    with connected(proxy) as second:
        assert answer(second, b"again") == b"again"


@pytest.mark.parametrize("count", [0, 1, 4, 5])
def test_an_answer_is_cut_between_two_bytes(proxy: Proxy, client: socket.socket, echo: Echo, count: int) -> None:
    answer(client, b"before")
    proxy.cut_after("down", count)
    client.sendall(b"12345")
    assert proxy.cut.wait(20)
    assert received(client, 6) == b"12345"[:count]
    assert echo.got == b"before12345"


def test_chunks_are_delayed(proxy: Proxy, client: socket.socket) -> None:
    proxy.delay(0.05)
    began = time.monotonic()
    assert answer(client, b"x") == b"x"
    assert time.monotonic() - began >= 0.1


def test_one_kind_of_request_is_lost(proxy: Proxy, client: socket.socket, echo: Echo) -> None:
    proxy.swallow_requests_with(b"renew")
    client.sendall(b"renew please")
    assert silent(client)
    assert answer(client, b"claim") == b"claim"
    assert echo.got == b"claim"


def test_without_a_server_connections_are_reset(proxy: Proxy, echo: Echo) -> None:
    echo.close()
    with pytest.raises(ConnectionResetError), connected(proxy) as client:
        client.recv(1)
