"""A small HTTP server that says how a program is: answered by threads of its own, whatever the program is busy with.

    /livez      it works; restarting it would not help           200, or 503 with the reasons
    /readyz     it does what it is there for                     (the same)
    /startupz   it has started                                   (the same)
    /metrics    what it has counted, for Prometheus

`/healthz` and `/health` are other names of `/readyz`.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from celery.exceptions import ImproperlyConfigured
from celery.utils.deferred import deferred
from celery.utils.metrics import CONTENT_TYPE, Registry

if TYPE_CHECKING:
    import socketserver
    from http import server as http_server
else:
    http_server = deferred("http.server")
    socketserver = deferred("socketserver")

CLIENT_PATIENCE = 5.0
"""Seconds a client may take to say what it wants."""
ALIASES = {"/healthz": "/readyz", "/health": "/readyz"}


class Verdict(NamedTuple):
    """Whether all is well, and what is or is not."""

    good: bool
    reasons: tuple[str, ...] = ()


Check = Callable[[], Verdict]


class Address(NamedTuple):
    """Where to listen: a host (empty: everywhere) and a port, or the path of a socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def url(self) -> str:
        """What a program on this machine would ask."""
        if self.path:
            return f"unix:{self.path}"
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def parse_address(text: str) -> Address:
    """`[HOST]:PORT`, a port alone, or `unix:PATH`; raises ImproperlyConfigured for anything else."""
    if text.startswith(("unix:", "/")):
        path = text.removeprefix("unix:").removeprefix("//")
        if path:
            return Address(path=os.path.abspath(path))  # noqa: PTH100 - the program may change its folder
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if port.isdecimal() and int(port) < 65536:
        return Address(host, int(port))
    raise ImproperlyConfigured(f"{text!r} is no address to listen on: give :PORT, HOST:PORT or unix:/PATH.")


class HealthServer:
    """Serves `checks` by their paths, and *registry* as `/metrics`, until it is stopped."""

    def __init__(self, address: Address, checks: Mapping[str, Check], registry: Registry) -> None:
        self.address = address
        self.checks = dict(checks)
        self.registry = registry
        self._server: Any = None

    def start(self) -> None:
        """Listen from now on; `address` then has the port. Raises ImproperlyConfigured where that is not possible."""
        address = self.address
        try:
            listener = _listen(address)
        except OSError as error:
            where = address.path or f"{address.host or '*'}:{address.port}"
            raise ImproperlyConfigured(f"Cannot listen on {where}: {error.strerror}.") from error
        if not address.path:
            self.address = address._replace(port=listener.getsockname()[1])
        self._server = _make_server(listener, self.answer)
        threading.Thread(target=self._server.serve_forever, name="celery-health", daemon=True).start()

    def stop(self) -> None:
        """Listen no longer."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
            if self.address.path:
                with suppress(FileNotFoundError):
                    Path(self.address.path).unlink()

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Status, content type and body for a path."""
        path = path.partition("?")[0].rstrip("/") or "/"
        path = ALIASES.get(path, path)
        if path == "/metrics":
            return 200, CONTENT_TYPE, self.registry.text().encode()
        check = self.checks.get(path)
        if check is None:
            known = ", ".join([*self.checks, "/metrics"])
            return 404, "text/plain; charset=utf-8", f"There is {known}.\n".encode()
        good, reasons = check()
        body = {"status": "ok" if good else "failing", "reasons": list(reasons)}
        return 200 if good else 503, "application/json", f"{json.dumps(body)}\n".encode()


def _listen(address: Address) -> socket.socket:
    if address.path:
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(address.path).st_mode):  # noqa: PTH116
                Path(address.path).unlink()
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(address.path)
            listener.listen()
        except BaseException:
            listener.close()
            raise
        return listener
    if not address.host and socket.has_dualstack_ipv6():
        with suppress(OSError):  # no IPv6 here after all
            return socket.create_server(("", address.port), family=socket.AF_INET6, dualstack_ipv6=True)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.create_server((address.host, address.port), family=family)


def _make_server(listener: socket.socket, answer: Callable[[str], tuple[int, str, bytes]]) -> Any:
    class Handler(http_server.BaseHTTPRequestHandler):
        timeout = CLIENT_PATIENCE
        server_version = "celery"
        sys_version = ""

        def do_GET(self) -> None:  # noqa: N802 - the names are http.server's
            try:
                status, kind, body = answer(self.path)
            except Exception as error:  # noqa: BLE001 - who asks has to hear of it
                status, kind, body = 500, "text/plain; charset=utf-8", f"{type(error).__name__}: {error}\n".encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            """Probes come every few seconds: they are not logged."""

        def address_string(self) -> str:
            return str(self.client_address)

    class Server(socketserver.ThreadingMixIn, socketserver.BaseServer):
        daemon_threads = True

        def fileno(self) -> int:
            return listener.fileno()

        def get_request(self) -> tuple[socket.socket, Any]:
            return listener.accept()

        def shutdown_request(self, request: Any) -> None:
            with suppress(OSError):
                request.shutdown(socket.SHUT_WR)
            request.close()

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that hangs up in the middle is nobody's trouble."""

        def server_close(self) -> None:
            listener.close()
            super().server_close()

    return Server(listener.getsockname(), Handler)
