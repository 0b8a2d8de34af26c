"""A memcached of a test, gone with it."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path
from urllib.parse import unquote

from rig.ports import free_port

GRACE = 30.0
HELD = 200_000_000
"""Seconds that are added to the life of what `pass_time` has touched."""


class Memcached:
    """Starts at once, on a free port of the loopback."""

    def __init__(self, program: Path, *options: str) -> None:
        self._program = program
        self._options = options
        self.port = free_port()
        self.start()

    def start(self) -> None:
        """Empty, on the same port as before."""
        command = [str(self._program), "-l", "127.0.0.1", "-p", str(self.port), "-U", "0"]
        # What is dumped would else be moved about meanwhile, and missed.
        command += ["-o", "no_lru_maintainer", *self._options]
        if os.geteuid() == 0:
            command += ["-u", "root"]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + GRACE
        while True:
            try:
                self.command("version")
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    self.stop()
                    raise
                time.sleep(0.02)
            else:
                return

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, kind: str = "memcached") -> str:
        return f"cache+{kind}://{self.address}/"

    def command(self, *lines: str | bytes) -> bytes:
        """What it answers to commands of the text protocol."""
        data = b"".join((line.encode() if isinstance(line, str) else line) + b"\r\n" for line in lines)
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            # A dump takes the connection with it: it ends with a word instead.
            dump = data.startswith(b"lru_crawler")
            connection.sendall(data if dump else data + b"quit\r\n")
            answer = b""
            while not (dump and answer.endswith(b"END\r\n")) and (piece := connection.recv(65_536)):
                answer += piece
        return answer

    def left(self) -> dict[str, int]:
        """All that is there, and the seconds that each has left; -1 for ever."""
        found: dict[str, int] = {}
        now = int(time.time())
        for line in self.command("lru_crawler metadump all").decode().splitlines():
            fields = dict(field.partition("=")[::2] for field in line.split())
            if "key" in fields:
                end = int(fields["exp"])
                left = end - now
                found[unquote(fields["key"])] = -1 if end < 0 else left - HELD if left > HELD // 2 else left
        return found

    def pass_time(self, seconds: float) -> None:
        """All that has an end is that much nearer to it; from now on it gets there by calls of this alone.

        The server's clock has whole seconds: what has few of them left would be gone before it is looked at.
        """
        commands = []
        now = int(time.time())
        for key, left in self.left().items():
            if left >= 0:
                after = int(left - seconds)
                commands.append(f"touch {key} {now + HELD + after}" if after > 0 else f"delete {key}")
        if commands:
            self.command(*commands)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(GRACE)
