"""Names of workers: `name@host`."""

from __future__ import annotations

import os
import socket
from functools import partial
from importlib import import_module
from typing import Any

from celery.utils.log import current_process_index
from celery.utils.text import simple_format

WORKER_DIRECT_QUEUE_FORMAT = "{hostname}.dq2"
NODENAME_DEFAULT = "celery"
NODENAME_SEP = "@"

_host: str | None = None


def gethostname() -> str:
    """The name of this machine, asked for once."""
    global _host
    if _host is None:
        _host = socket.gethostname()
    return _host


def worker_direct(hostname: Any) -> Any:
    """The `kombu.Queue` that leads to one worker; a queue is returned as it is."""
    kombu = import_module("kombu")
    if isinstance(hostname, kombu.Queue):
        return hostname
    return kombu.Queue(WORKER_DIRECT_QUEUE_FORMAT.format(hostname=hostname), kombu.Exchange("C.dq2"), hostname)


def nodename(name: str, hostname: str) -> str:
    """`name@hostname`."""
    return f"{name}{NODENAME_SEP}{hostname}"


def anon_nodename(hostname: str | None = None, prefix: str = "gen") -> str:
    """The node name of a process that is not a worker."""
    return nodename(f"{prefix}{os.getpid()}", hostname or gethostname())


def nodesplit(name: str) -> tuple[None, str] | list[str]:
    """Name and host; the name is None if there is none."""
    parts = name.split(NODENAME_SEP, 1)
    return (None, parts[0]) if len(parts) == 1 else parts


def default_nodename(hostname: str | None, default_name: str = NODENAME_DEFAULT) -> str:
    """A full node name, with what *hostname* leaves out filled in."""
    name, host = nodesplit(hostname or "")
    return nodename(name or default_name, host or gethostname())


def node_format(s: str, name: str, **extra: Any) -> str:
    """Expand `%h %n %d %i %I %p` in *s* for the node *name*."""
    short, host = nodesplit(name)
    return host_format(s, host, short or NODENAME_DEFAULT, p=name, **extra)


def _index(template: str = "%d", default: str = "") -> str:
    index = current_process_index()
    return template % index if index else default


def host_format(s: str, host: str | None = None, name: str | None = None, **extra: Any) -> str:
    """Expand `%h` host, `%n` name, `%d` domain, `%i` process index (0: main), `%I` the same with a dash."""
    host = host or gethostname()
    hostname, _, domain = host.partition(".")
    keys: dict[str, Any] = {
        "h": host,
        "n": name or hostname,
        "d": domain,
        "i": partial(_index, "%d", "0"),
        "I": partial(_index, "-%d", ""),
        **extra,
    }
    return simple_format(s, keys)


def __getattr__(name: str) -> Any:
    """The exchange of `worker_direct` needs kombu, which is loaded when first asked for."""
    if name == "WORKER_DIRECT_EXCHANGE":
        return import_module("kombu").Exchange("C.dq2")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "NODENAME_DEFAULT",
    "NODENAME_SEP",
    "WORKER_DIRECT_QUEUE_FORMAT",
    "anon_nodename",
    "default_nodename",
    "gethostname",
    "host_format",
    "node_format",
    "nodename",
    "nodesplit",
    "worker_direct",
]
