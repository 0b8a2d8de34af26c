"""A redis-server of a test: its own port, its own folder, gone with the test."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

GRACE = 10.0
"""Seconds that a server may take to start or to end."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """Starts at once. *options* are lines of redis.conf: `appendonly="yes"`, `maxmemory="10mb"`."""

    def __init__(self, program: Path, folder: Path, *, port: int | None = None, **options: str) -> None:
        self.program = program
        self.folder = folder
        self.port = port or free_port()
        self.options = {"save": "", "appendonly": "no", **options}
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.start()

    def url(self, db: int = 0) -> str:
        return f"redis://127.0.0.1:{self.port}/{db}"

    def start(self) -> None:
        settings = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self.folder), **self.options}
        command = [str(self.program)]
        for name, value in settings.items():
            command += [f"--{name.replace('_', '-')}", *(value.split() or [""])]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + GRACE
        while self.command("PING")[:5] not in {b"+PONG", b"-NOAU"}:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"redis-server did not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.01)

    def command(self, *words: str) -> bytes:
        """The raw answer to a command on a connection of its own; empty where there is none."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=GRACE) as connection:
                connection.sendall(" ".join(words).encode() + b"\r\n")
                return connection.recv(65536)
        except OSError:
            return b""

    def kill(self) -> None:
        """As a power cut of the process: what it has not written is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(GRACE)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(GRACE)
            except subprocess.TimeoutExpired:
                self.kill()
        self.process = None
