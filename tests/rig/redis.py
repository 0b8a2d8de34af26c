"""Redis servers of a test: each with a port and a folder of its own, gone with the test."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hiredis

from rig.certificates import Certificates
from rig.ports import free_port as free_port

GRACE = 30.0
"""Seconds that a server may take to start, to end or to answer."""

Option = str | Path | Sequence[str]


class RedisServer:
    """Starts at once. *options* are lines of redis.conf, `_` for `-`: `appendonly="yes"`, `maxmemory="10mb"`.

    A string is what follows the name on that line, and may be several words (`save="900 1"`); a Path is one word,
    whatever is in it; a list is a line for each of its strings (`user=["alice on >pass ~* +@all", …]`).  With *tls*
    the port speaks TLS only.  The file is written once: what the server, or a sentinel, writes into it stays over a
    restart.
    """

    arguments: tuple[str, ...] = ()

    def __init__(
        self,
        program: Path,
        folder: Path,
        *,
        port: int | None = None,
        tls: Certificates | None = None,
        **options: Option,
    ) -> None:
        self.program = program
        self.folder = folder
        self.port = port or free_port()
        self.tls = tls
        self.options: dict[str, Option] = {**self.defaults(), **options}
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.configuration = folder / "redis.conf"
        self.configure()
        self.start()

    def defaults(self) -> dict[str, Option]:
        return {"save": "", "appendonly": "no", "repl-diskless-sync-delay": "0"}

    def configure(self, **options: Option) -> None:
        """Write the configuration anew, with these options; it holds from the next start on."""
        self.options.update(options)
        settings: dict[str, Option] = {"bind": "127.0.0.1", "dir": self.folder}
        if self.tls is None:
            settings["port"] = str(self.port)
        else:
            settings |= {"port": "0", "tls-port": str(self.port), "tls-replication": "yes"}
            settings |= {"tls-cert-file": self.tls.server, "tls-key-file": self.tls.server_key}
            settings |= {"tls-ca-cert-file": self.tls.authority, "tls-auth-clients": "optional"}
        settings |= {name.replace("_", "-"): value for name, value in self.options.items()}
        self.configuration.write_text("".join(f"{name} {line}\n" for name, v in settings.items() for line in lines(v)))

    def url(self, db: int = 0) -> str:
        return f"{'redis' if self.tls is None else 'rediss'}://127.0.0.1:{self.port}/{db}"

    @property
    def log(self) -> str:
        """What it has said so far."""
        return (self.folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Returns when it serves, its data loaded. Nothing to do if it runs."""
        if self.process is not None and self.process.poll() is None:
            return
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(self.program), str(self.configuration), *self.arguments], stdout=log, stderr=log
            )
        deadline = time.monotonic() + GRACE
        while self.command("PING")[:5] not in {b"+PONG", b"-NOAU"}:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"redis-server did not start: {self.log[-2000:]}")
            time.sleep(0.01)

    def command(self, *words: str | bytes | float) -> bytes:
        """The answer to a command on a connection of its own, as it came; empty where there is none."""
        try:
            with self._connect() as connection:
                connection.sendall(hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub wants one
                return self._whole_reply(connection)
        except OSError:
            return b""

    def ask(self, *words: str | bytes | float) -> Any:
        """What a command returns: bytes, a number, None or a list. Raises what the server says, or ConnectionError."""
        raw = self.command(*words)
        reader = hiredis.Reader()
        reader.feed(raw)
        reply = reader.gets()
        if not raw or reply is False:
            raise ConnectionError(f"the server at port {self.port} does not answer {words[0]!r}")
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    def keys(self, pattern: str = "*", db: int = 0) -> set[str]:
        """The names of the keys of one database."""
        script = "redis.call('SELECT', ARGV[2]) return redis.call('KEYS', ARGV[1])"
        return {key.decode() for key in self.ask("EVAL", script, 0, pattern, db)}

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=GRACE)
        if self.tls is not None:
            context = ssl.create_default_context(cafile=str(self.tls.authority))
            connection = context.wrap_socket(connection, server_hostname="127.0.0.1")
        password = self.options.get("requirepass")
        if password:
            connection.sendall(hiredis.pack_command(("AUTH", str(password))))  # type: ignore[arg-type]
            self._whole_reply(connection)
        return connection

    @staticmethod
    def _whole_reply(connection: socket.socket) -> bytes:
        reader, raw = hiredis.Reader(), b""
        while data := connection.recv(65536):
            raw += data
            reader.feed(data)
            if reader.gets() is not False:
                break
        return raw

    def pause(self) -> None:
        """Stand still: connections stay open, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL: what it has not handed to the operating system is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(GRACE)

    def stop(self) -> None:
        """As an operator would. Nothing to do if it does not run."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.resume()
            try:
                self.process.wait(GRACE)
            except subprocess.TimeoutExpired:
                self.kill()
        self.process = None

    def restart(self, *, kill: bool = False) -> None:
        """End it, by force if *kill*, and start it again on the same port and folder."""
        if kill:
            self.kill()
        else:
            self.stop()
        self.start()

    def _signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)


class RedisSentinel(RedisServer):
    """A sentinel that watches *primary* under *name*, and promotes a replica when *quorum* sentinels miss it.

    Redis gives a sentinel no faster timer than its own: a fail-over takes `down_after` and one to three seconds more.
    """

    arguments = ("--sentinel",)

    def __init__(
        self,
        program: Path,
        folder: Path,
        primary: RedisServer,
        *,
        name: str = "primary",
        quorum: int = 1,
        down_after: float = 0.5,
        **options: Option,
    ) -> None:
        self.name = name
        rules = [
            f"monitor {name} 127.0.0.1 {primary.port} {quorum}",
            f"down-after-milliseconds {name} {down_after * 1000:.0f}",
            f"failover-timeout {name} 3000",
        ]
        if password := primary.options.get("requirepass"):
            rules.append(f"auth-pass {name} {password}")
        super().__init__(program, folder, sentinel=rules, **options)

    def defaults(self) -> dict[str, Option]:
        return {}

    def primary(self) -> int:
        """The port of the server that it holds for the primary."""
        _, port = self.ask("SENTINEL", "get-master-addr-by-name", self.name)
        return int(port)


def lines(value: Option) -> list[str]:
    """What follows the option's name in redis.conf, for each line of it."""
    if isinstance(value, Path):
        return ['"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"']
    return [value or '""'] if isinstance(value, str) else list(value)


def replica(program: Path, folder: Path, primary: RedisServer, **options: Option) -> RedisServer:
    """A server that follows *primary*. Returns when it has all of its data."""
    follower = RedisServer(program, folder, replicaof=f"127.0.0.1 {primary.port}", **options)
    deadline = time.monotonic() + GRACE
    while b"master_link_status:up" not in follower.ask("INFO", "replication"):
        if time.monotonic() > deadline:
            raise RuntimeError(f"the replica does not follow: {follower.log[-2000:]}")
        time.sleep(0.01)
    return follower
