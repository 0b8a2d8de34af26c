"""RabbitMQ nodes of a test: each with a folder, ports, a name and a cookie of its own, gone with the test."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from rig.certificates import Certificates
from rig.ports import free_port

GRACE = 180.0
"""Seconds that a node may take to start, to end or to carry out a command."""
COOKIE = "celeriac"
VHOSTS = 25
"""Made at a time: a command to a node takes a second."""
_LASTING: set[int] = set()


def lasting(pid: int) -> bool:
    """Whether a process belongs to a node that several tests share, which one of them may have started again."""
    with suppress(OSError):
        while pid > 1 and pid not in _LASTING:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        return pid in _LASTING
    return True


class RabbitMQ:
    """Starts at once. *settings* are lines of rabbitmq.conf, such as `consumer_timeout = 60000`.

    With *tls* it listens on `tls_port` too.

    *epmd*: the port of the name server of a cluster's nodes, which then share it; each node has its own otherwise.
    *lasting*: it is not one test's, but whoever stops it has to start it again.
    """

    def __init__(
        self,
        program: Path,
        folder: Path,
        *settings: str,
        name: str = "rabbit",
        port: int | None = None,
        epmd: int = 0,
        tls: Certificates | None = None,
        lasting: bool = False,
    ) -> None:
        self.folder = folder
        self.node = f"{name}@localhost"
        self.port = port or free_port()
        self._numbers = itertools.count(1)
        self._vhosts: list[str] = []
        """Those that nobody has been given yet."""
        self.tls_port = free_port() if tls is not None else 0
        if tls is not None:
            settings = (
                *settings,
                f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}",
                f"ssl_options.cacertfile = {tls.authority}",
                f"ssl_options.certfile = {tls.server}",
                f"ssl_options.keyfile = {tls.server_key}",
                "ssl_options.verify = verify_peer",
                "ssl_options.fail_if_no_peer_cert = false",
            )
        self.settings = settings
        self._programs = real_programs(program)
        self._mates = bool(epmd)
        self._lasting = lasting
        self._distribution, self._epmd = free_port(), epmd or free_port()
        self.process: subprocess.Popen[bytes] | None = None
        home = folder / "home"
        home.mkdir(parents=True, exist_ok=True)
        cookie = home / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(COOKIE)
            cookie.chmod(0o400)
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("RABBITMQ_", "ERL_"))},
            "HOME": str(home),
            "ERL_EPMD_PORT": str(self._epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_PORT": "",
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none",
        }
        (folder / "plugins").write_text("[].\n")
        self.start()

    def url(self, vhost: str = "", user: str = "guest", password: str = "guest") -> str:
        return f"amqp://{user}:{password}@127.0.0.1:{self.port}/{vhost}"

    @property
    def log(self) -> str:
        return "".join(path.read_text(errors="replace") for path in sorted((self.folder / "log").glob("*.log")))

    def start(self) -> None:
        """Returns when it takes connections. Nothing to do if it runs."""
        if self.process is not None and self.process.poll() is None:
            return
        lines = [f"listeners.tcp.1 = 127.0.0.1:{self.port}", "log.console = false", *self.settings]
        (self.folder / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        with (self.folder / "said").open("ab") as said:
            self.process = subprocess.Popen(
                [str(self._programs / "rabbitmq-server")],
                env=self.env,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        if self._lasting:
            _LASTING.add(self.process.pid)
        deadline = time.monotonic() + GRACE
        while not self.answers():
            if time.monotonic() > deadline or self.process.poll() is not None:
                said = (self.folder / "said").read_text(errors="replace")
                self.stop()
                raise RuntimeError(f"rabbitmq-server did not start: {said[-1000:]}{self.log[-2000:]}")
            time.sleep(0.05)

    def answers(self) -> bool:
        """Whether it greets whoever connects."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return connection.recv(7)[:1] == b"\x01"
        except OSError:
            return False

    def control(self, *words: str) -> str:
        """What rabbitmqctl says."""
        command = [str(self._programs / "rabbitmqctl"), "-q", "-n", self.node, *words]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, check=True, timeout=GRACE).stdout

    def queues(self, *columns: str, vhost: str = "/") -> list[list[str]]:
        """The rows of `list_queues`."""
        said = self.control("list_queues", "-p", vhost, "--no-table-headers", *columns)
        return [line.split("\t") for line in said.splitlines()]

    def new_vhost(self) -> str:
        """The name of one that is empty and nobody else's."""
        if not self._vhosts:
            names = [f"v{next(self._numbers)}" for _ in range(VHOSTS)]
            self.add_vhosts(names)
            self._vhosts += names
        return self._vhosts.pop()

    def add_vhosts(self, names: Sequence[str]) -> None:
        """Vhosts in which guest may do everything."""
        listed = ", ".join(f'<<"{name}">>' for name in names)
        self.control(
            "eval",
            'lists:foreach(fun(V) -> rabbit_vhost:add(V, <<"t">>), rabbit_auth_backend_internal:set_permissions('
            f'<<"guest">>, V, <<".*">>, <<".*">>, <<".*">>, <<"t">>) end, [{listed}]).',
        )

    def kill(self) -> None:
        """SIGKILL to the node and all below it."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(GRACE)
            for pid in self._others():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def end(self) -> None:
        """SIGTERM, and wait until it has gone."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(GRACE)
            self.kill()

    def restart(self, *, kill: bool = False) -> None:
        """By SIGTERM, or by SIGKILL. Returns when it takes connections again."""
        if kill:
            self.kill()
        else:
            self.end()
        self.start()

    def stop(self) -> None:
        """End it, by force, and the name server that it has started."""
        self.kill()
        self.process = None

    def _others(self) -> Sequence[int]:
        """Processes of this node's environment that have left its session: the name server."""
        wanted = f"ERL_EPMD_PORT={self._epmd}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                environment = (path / "environ").read_bytes().split(b"\0")
                own = f"RABBITMQ_NODENAME={self.node}".encode() in environment
                if wanted in environment and (own or not self._mates) and int(path.name) != os.getpid():
                    found.append(int(path.name))
        return found


class Cluster:
    """Three nodes that know each other, and the name server that they share. Starts at once; `stop` ends it all."""

    def __init__(self, program: Path, folder: Path, *settings: str) -> None:
        epmd = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        names = [f"node{number}" for number in range(1, 4)]
        listed = [
            f"cluster_formation.classic_config.nodes.{number} = {name}@localhost"
            for number, name in enumerate(names, 1)
        ]
        formation = (
            "cluster_formation.peer_discovery_backend = classic_config",
            "cluster_partition_handling = pause_minority",
            *listed,
            *settings,
        )
        with (folder / "names").open("ab") as said:
            command = ["epmd", "-port", str(epmd), "-address", "127.0.0.1"]
            self._names = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
        _LASTING.add(self._names.pid)
        self.nodes: list[RabbitMQ] = []

        def make(name: str) -> RabbitMQ:
            return RabbitMQ(program, folder / name, *formation, name=name, epmd=epmd, lasting=True)

        try:
            self.nodes.append(make(names[0]))  # the others join it
            with ThreadPoolExecutor(2) as threads:
                self.nodes += threads.map(make, names[1:])
        except BaseException:
            self.stop()
            raise

    def url(self, vhost: str = "") -> str:
        """The URLs of all nodes."""
        return ";".join(node.url(vhost) for node in self.nodes)

    def start(self) -> None:
        """Those that were stopped, at once."""
        with ThreadPoolExecutor(3) as threads:
            for _ in threads.map(RabbitMQ.start, self.nodes):
                pass

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()
        self._names.kill()
        self._names.wait(30)


def real_programs(program: Path) -> Path:
    """The folder of the node's own programs: those on PATH are wrappers of Debian's that change the user."""
    found = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin"))
    return found[-1] if found else Path(shutil.which(str(program)) or program).resolve().parent
