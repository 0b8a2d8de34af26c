"""The HTTP server that says how a program is, and the client that asks it."""

from __future__ import annotations

import json
import os
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery.bin.health import ask
from celery.exceptions import ImproperlyConfigured
from celery.utils import healthnotes
from celery.utils.metrics import CONTENT_TYPE, Registry
from celery.worker.healthserver import Address, HealthServer, Verdict, parse_address


@pytest.mark.parametrize(
    ("text", "address", "url"),
    [
        (":8080", Address("", 8080), "http://127.0.0.1:8080"),
        ("8080", Address("", 8080), "http://127.0.0.1:8080"),
        ("0.0.0.0:80", Address("0.0.0.0", 80), "http://127.0.0.1:80"),
        ("example.org:80", Address("example.org", 80), "http://example.org:80"),
        ("[::1]:80", Address("::1", 80), "http://[::1]:80"),
        ("unix:/run/x.sock", Address(path="/run/x.sock"), "unix:/run/x.sock"),
        ("/run/x.sock", Address(path="/run/x.sock"), "unix:/run/x.sock"),
    ],
)
def test_addresses(text: str, address: Address, url: str) -> None:
    assert parse_address(text) == address
    assert address.url == url


@pytest.mark.parametrize("text", ["", "host", ":99999", ":port", "unix:"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="no address to listen on"):
        parse_address(text)


@pytest.fixture
def mood() -> list[str]:
    """Why the program is not well."""
    return []


@pytest.fixture(params=["tcp", "unix"])
def server(request: pytest.FixtureRequest, tmp_path: Path, mood: list[str]) -> Iterator[HealthServer]:
    registry = Registry()
    registry.counter("things_total", "Things.").add()
    where = "127.0.0.1:0" if request.param == "tcp" else f"unix:{tmp_path}/h.sock"
    checks = {"/readyz": lambda: Verdict(not mood, tuple(mood)), "/broken": lambda: 1 / 0}
    made = HealthServer(parse_address(where), checks, registry)  # type: ignore[arg-type]
    made.start()
    yield made
    made.stop()


def test_checks_and_figures(server: HealthServer, mood: list[str]) -> None:
    url = server.address.url
    for path in ("/readyz", "/readyz/", "/healthz", "/health?verbose"):
        assert ask(url, path, 20) == (200, '{"status": "ok", "reasons": []}\n')
    mood.append("sad")
    status, body = ask(url, "/readyz", 20)
    assert (status, json.loads(body)) == (503, {"status": "failing", "reasons": ["sad"]})
    assert ask(url, "/metrics", 20)[1].endswith("things_total 1\n")
    assert ask(url, "/", 20)[0] == 404
    assert ask(url, "/broken", 20) == (500, "ZeroDivisionError: division by zero\n")


def test_many_ask_at_once_while_one_says_nothing(server: HealthServer) -> None:
    address = server.address
    silent = socket.socket(socket.AF_UNIX) if address.path else socket.socket()
    with silent:
        silent.connect(address.path or ("127.0.0.1", address.port))
        answers: list[int] = []
        askers = [threading.Thread(target=lambda: answers.append(ask(address.url, "/readyz", 20)[0])) for _ in range(8)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
    assert answers == [200] * 8


def test_a_server_that_has_stopped(server: HealthServer) -> None:
    url = server.address.url
    server.stop()
    status, reason = ask(url, "/readyz", 20)
    assert status == 0
    assert "cannot be asked" in reason
    server.start()
    assert ask(server.address.url, "/readyz", 20)[0] == 200


def test_prometheus_and_others_ask_with_their_own_clients() -> None:
    made = HealthServer(Address("127.0.0.1", 0), {"/livez": lambda: Verdict(True)}, Registry())
    made.start()
    try:
        with urllib.request.urlopen(f"{made.address.url}/metrics") as answer:
            assert answer.headers["Content-Type"] == CONTENT_TYPE
        head = urllib.request.Request(f"{made.address.url}/livez", method="HEAD")
        with urllib.request.urlopen(head) as answer:
            assert answer.read() == b""
        with pytest.raises(urllib.error.HTTPError, match="501"):
            urllib.request.urlopen(f"{made.address.url}/livez", data=b"x")
    finally:
        made.stop()


def test_a_place_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ImproperlyConfigured, match=f"Cannot listen on 127.0.0.1:{port}: Address already in use"):
            HealthServer(Address("127.0.0.1", port), {}, Registry()).start()
    with pytest.raises(ImproperlyConfigured, match="No such file"):
        HealthServer(Address(path=str(tmp_path / "no" / "x.sock")), {}, Registry()).start()


def test_who_listens_everywhere_is_reached_by_both_protocols() -> None:
    made = HealthServer(parse_address(":0"), {"/livez": lambda: Verdict(True)}, Registry())
    made.start()
    try:
        hosts = ["127.0.0.1", "[::1]"] if socket.has_dualstack_ipv6() else ["127.0.0.1"]
        assert [ask(f"http://{host}:{made.address.port}", "/livez", 20)[0] for host in hosts] == [200] * len(hosts)
    finally:
        made.stop()


@pytest.mark.parametrize("said", [b"", b"SSH-2.0-x\r\n"])
def test_what_does_not_speak_http(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(100)
                connection.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        answered: Any = ask(f":{other.getsockname()[1]}", "/readyz", 20)
        thread.join()
    assert answered == (0, "what answers there does not speak HTTP")


def test_notes_of_those_that_have_ended_are_removed() -> None:
    healthnotes.write("http://here", "me@host")
    ended = healthnotes.folder() / f"{2**22 + 1}.json"
    ended.write_text("{}")
    (healthnotes.folder() / "rubbish.json").write_text("{}")
    assert list(healthnotes.find()) == [(os.getpid(), "me@host", "http://here")]
    assert not ended.exists()
    healthnotes.remove()
    assert list(healthnotes.find()) == []
