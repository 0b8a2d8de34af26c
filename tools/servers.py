"""Find the servers that some tests talk to, and install them where that is possible.

A test asks for a server through the fixture `server`; nothing is installed that no test asks for.
`python tools/servers.py redis` says where one is, or how to get it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

# name -> (program, Debian's package, folders beside PATH in which Debian keeps the program)
SERVERS = {
    "redis": ("redis-server", "redis-server", []),
    "memcached": ("memcached", "memcached", []),
    "rabbitmq": ("rabbitmq-server", "rabbitmq-server", ["/usr/lib/rabbitmq/bin"]),
    "postgres": ("postgres", "postgresql", ["/usr/lib/postgresql/*/bin"]),
}


def find(name: str) -> Path | None:
    """The program of server *name*, the newest where there are several; None where it is not installed."""
    program, _, folders = SERVERS[name]
    if on_path := shutil.which(program):
        return Path(on_path)
    places = [path / program for folder in folders for path in Path("/").glob(folder.lstrip("/"))]
    return max((path for path in places if path.exists()), default=None)


@cache
def ensure(name: str) -> Path:
    """The program of server *name*, installed if need be; raises LookupError with one line saying how to get it."""
    _, package, _ = SERVERS[name]
    return find(name) or _install(name, package)


def _install(name: str, package: str) -> Path:
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", package]):
        if shutil.which(prefix[0] if prefix else command[0]) and shutil.which("apt-get"):
            subprocess.run([*prefix, *command], env=environment, capture_output=True, check=False)  # noqa: S603
    found = find(name)
    if found is None:
        raise LookupError(f"{name} is not installed: apt-get install {package}")
    return found


def main(names: list[str]) -> int:
    missing = 0
    for name in names or SERVERS:
        try:
            line = f"{name}: {ensure(name)}"
        except LookupError as error:
            line, missing = str(error), 1
        sys.stdout.write(f"{line}\n")
    return missing


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
