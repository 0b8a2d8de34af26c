"""A debugger that is reached over the network: for code whose terminal is somewhere else.

    from celery.contrib import rdb
    rdb.set_trace()          # waits here until somebody connects, with `telnet HOST PORT` or `nc`

It listens on `CELERY_RDB_HOST` (127.0.0.1) and the first free port from `CELERY_RDB_PORT` (6899) up, or, in a process
of a pool, from that plus its place.  Whoever connects may run any code here: leave it on the loopback.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from pdb import Pdb
from types import FrameType
from typing import IO, Any, Self

from celery.utils.log import current_process_index

__all__ = ("CELERY_RDB_HOST", "CELERY_RDB_PORT", "DEFAULT_PORT", "Rdb", "debugger", "set_trace")

DEFAULT_PORT = 6899
CELERY_RDB_HOST = os.environ.get("CELERY_RDB_HOST") or "127.0.0.1"
CELERY_RDB_PORT = int(os.environ.get("CELERY_RDB_PORT") or DEFAULT_PORT)

NO_AVAILABLE_PORT = "{self.ident}: No port is free from {port} on: name another one in CELERY_RDB_PORT.\n"
BANNER = (
    "{self.ident}: Ready to connect: telnet {self.host} {self.port}\n\n"
    "Type `exit` in session to continue.\n\n{self.ident}: Waiting for client...\n"
)
SESSION_STARTED = "{self.ident}: Now in session with {self.remote_addr}."
SESSION_ENDED = "{self.ident}: Session with {self.remote_addr} ended."

_current: list[Rdb | None] = [None]


class Rdb(Pdb):
    """One session. Making it waits for a client."""

    me = "Remote Debugger"

    def __init__(
        self,
        host: str = CELERY_RDB_HOST,
        port: int = CELERY_RDB_PORT,
        port_search_limit: int = 100,
        port_skew: int = 0,
        out: IO[str] | None = None,
    ) -> None:
        self.active = True
        self.out = out or sys.stdout
        self.host = host
        self._listener, self.port = self.get_avail_port(host, port, port_search_limit, port_skew)
        self.ident = f"{self.me}:{self.port}"
        self.say(BANNER.format(self=self))
        self._client, address = self._listener.accept()
        self._client.setblocking(True)
        self.remote_addr = ":".join(map(str, address[:2]))
        self.say(SESSION_STARTED.format(self=self))
        # Two: a file that is both forgets the lines that have come when something is written.
        self._said = self._client.makefile("r", encoding="utf-8", errors="replace")
        self._shown = self._client.makefile("w", encoding="utf-8", errors="replace")
        super().__init__(completekey="tab", stdin=self._said, stdout=self._shown)
        self.prompt = "(Rdb) "

    def get_avail_port(self, host: str, port: int, search_limit: int = 100, skew: int = 0) -> tuple[socket.socket, int]:
        """A socket that listens on the first free port; raises OSError if there is none."""
        first = port + skew + (current_process_index() or 0)
        for number in range(first, first + search_limit):
            try:
                return socket.create_server((host, number), backlog=1), number
            except OSError as error:
                if error.errno not in {errno.EADDRINUSE, errno.EINVAL, errno.EACCES}:
                    raise
        self.ident = self.me
        raise OSError(errno.EADDRINUSE, NO_AVAILABLE_PORT.format(self=self, port=first))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._close_session()

    def _close_session(self) -> None:
        if self.active:
            self.active = False
            _current[0] = None
            for end in (self._shown, self._said, self._client):
                with contextlib.suppress(OSError):  # it has hung up
                    end.close()
            self._listener.close()
            self.say(SESSION_ENDED.format(self=self))

    def do_continue(self, arg: str) -> Any:
        """Run on, and end the session."""
        self._close_session()
        self.set_continue()
        return 1

    do_c = do_cont = do_continue

    def do_quit(self, arg: str) -> Any:
        """The same: the program is not ended."""
        self._close_session()
        self.set_continue()
        return 1

    do_q = do_exit = do_quit

    def do_EOF(self, arg: str) -> Any:  # noqa: N802 - the name is cmd's
        """The client has hung up."""
        return self.do_quit(arg)

    def set_quit(self) -> None:
        """The debugger's own way to end a program is no way to end a worker."""
        sys.settrace(None)

    def say(self, m: str) -> None:
        self.out.write(f"{m}\n")
        self.out.flush()


def debugger() -> Rdb:
    """The session of this process, made if there is none."""
    current = _current[0]
    if current is None or not current.active:
        current = _current[0] = Rdb()
    return current


def set_trace(frame: FrameType | None = None) -> None:
    """Wait for a client, and let it look at the caller, or at *frame*."""
    debugger().set_trace(frame or sys._getframe().f_back)
