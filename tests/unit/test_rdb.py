"""The debugger that is reached over the network."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from celery.contrib import rdb

CODE = """
import os, sys
from celery.contrib.rdb import set_trace
def work(x):
    y = x + 1
    set_trace()
    return y
print("returned", work(41), flush=True)
"""


def talk(port: int, *lines: str) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall("".join(f"{line}\n" for line in lines).encode())
        said = b""
        while part := client.recv(4096):
            said += part
    return said.decode()


@pytest.mark.parametrize("end", ["c", "exit", "q"])
def test_a_session(end: str) -> None:
    env = {**os.environ, "CELERY_RDB_PORT": "7611"}
    with subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE, text=True, env=env) as program:
        assert program.stdout is not None
        port = int(re.findall(r"telnet 127.0.0.1 (\d+)", program.stdout.readline())[0])
        for _ in range(4):
            program.stdout.readline()
        said = talk(port, "p y", "p x * 2", end)
        rest = program.stdout.read()
    assert "42" in said
    assert "82" in said
    assert "Now in session with 127.0.0.1:" in rest
    assert "ended." in rest
    assert "returned 42" in rest
    assert program.returncode == 0


def test_the_next_free_port_is_taken() -> None:
    sessions: list[rdb.Rdb] = []
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        out = io.StringIO()
        thread = threading.Thread(target=lambda: sessions.append(rdb.Rdb("127.0.0.1", port, out=out)))
        thread.start()
        until = time.monotonic() + 20
        while not (found := re.findall(r"telnet 127.0.0.1 (\d+)", out.getvalue())):
            assert time.monotonic() < until
            time.sleep(0.01)
        assert int(found[0]) > port
        with socket.create_connection(("127.0.0.1", int(found[0])), timeout=20):
            thread.join()
        with sessions[0] as session:
            assert session.active
        assert not session.active


def test_no_port_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match="CELERY_RDB_PORT"):
            rdb.Rdb("127.0.0.1", port, port_search_limit=1, out=io.StringIO())


@pytest.mark.parametrize("wanted", [True, False])
def test_a_signal_opens_it_only_where_that_is_wanted(wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from celery.apps import worker

    seen: list[Any] = []
    monkeypatch.setattr(rdb, "set_trace", seen.append)
    if wanted:
        monkeypatch.setenv("CELERY_RDBSIG", "1")
    before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        worker.install_rdb_handler()
        os.kill(os.getpid(), signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert len(seen) == wanted
