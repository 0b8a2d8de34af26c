"""`celery health`: ask workers on this machine how they are, without importing the application."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator

import click

from celery.bin.base import CeleryCommand, CeleryOption, CommandError
from celery.platforms import EX_FAILURE, EX_OK
from celery.utils import healthnotes

TARGET = "Who Is Asked"
URL = re.compile(r"(?:http://)?(?:\[(?P<six>[^]]+)\]|(?P<host>[^/:]*)):(?P<port>\d+)(?P<path>/.*)?")
PATHS = {"live": "/livez", "ready": "/readyz", "startup": "/startupz", "metrics": "/metrics"}
MOST = 4 * 1024 * 1024


@click.command(cls=CeleryCommand)
@click.option("--url", cls=CeleryOption, help_group=TARGET, help="Address of a worker: http://HOST:PORT, or :PORT.")
@click.option("--socket", "path", cls=CeleryOption, help_group=TARGET, help="Path of a worker's socket.")
@click.option("--pid", cls=CeleryOption, type=int, help_group=TARGET, help="A worker on this machine, by its process.")
@click.option("-n", "--hostname", cls=CeleryOption, help_group=TARGET, help="A worker on this machine, by its name.")
@click.option(
    "--check",
    cls=CeleryOption,
    type=click.Choice(tuple(PATHS)),
    default="ready",
    show_default=True,
    help="live: it works; ready: it runs tasks; startup: it has started; metrics: show its figures.",
)
@click.option("-t", "--timeout", cls=CeleryOption, type=float, default=2.0, show_default=True, help="Seconds to wait.")
@click.option("-j", "--json", "as_json", cls=CeleryOption, is_flag=True, help="One JSON object a worker.")
@click.pass_context
def health(
    ctx: click.Context,
    url: str | None,
    path: str | None,
    pid: int | None,
    hostname: str | None,
    check: str,
    timeout: float,
    as_json: bool,
) -> None:
    """Ask workers that were started with --health; exit code 0 if all is well, 1 if not.

    Without an address it asks all those on this machine that run with the same state folder (CELERY_HOME). It
    imports neither the application nor a broker's driver, so that it can be a probe:

    \b
    $ celery health --check live
    $ celery health --url :8080
    """
    asked = list(_targets(url, path, pid, hostname))
    if not asked:
        whom = f"process {pid}" if pid else hostname or "no worker on this machine"
        raise CommandError(
            f"Nobody to ask: {whom} says how it is. Start workers with --health, or name one by --url or --socket."
        )
    bad = False
    for name, address in asked:
        status, body = ask(address, _path_of(address) or PATHS[check], timeout)
        bad = bad or status != 200
        if check == "metrics" and status == 200:
            ctx.obj.echo(body.rstrip())
            continue
        reasons = _reasons(status, body)
        if as_json:
            ctx.obj.echo(json.dumps({"node": name, "check": check, "ok": status == 200, "reasons": reasons}))
        elif not ctx.obj.quiet:
            said = ctx.obj.OK if status == 200 else f"{ctx.obj.ERROR} {'; '.join(reasons)}"
            ctx.obj.echo(f"{name}: {said}")
    ctx.exit(EX_FAILURE if bad else EX_OK)


def _targets(url: str | None, path: str | None, pid: int | None, hostname: str | None) -> Iterator[tuple[str, str]]:
    """Name and address of everybody who is to be asked."""
    if url:
        yield url, url
    elif path:
        yield path, f"unix:{path}"
    else:
        for note in healthnotes.find():
            if (pid is None or note.pid == pid) and (hostname is None or note.name == hostname):
                yield note.name, note.url


def _reasons(status: int, body: str) -> list[str]:
    if status == 200:
        return []
    try:
        return [str(reason) for reason in json.loads(body)["reasons"]]
    except (ValueError, KeyError, TypeError):
        return [body.strip() or f"it answered with status {status}"]


def ask(address: str, path: str, timeout: float) -> tuple[int, str]:
    """Status and body of the answer; status 0 and the reason if there is none.

    By hand: importing a library for it would take longer than the whole command.
    """
    try:
        with _connect(address, timeout) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: celery\r\n\r\n".encode())
            answer = b""
            while len(answer) < MOST and (part := connection.recv(65536)):
                answer += part
    except TimeoutError:
        return 0, f"no answer within {timeout:g} s"
    except OSError as error:
        return 0, f"cannot be asked: {error.strerror or error}"
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.partition(b"\r\n")[0].split()
    if len(status) < 2 or not status[1].isdigit():
        return 0, "what answers there does not speak HTTP"
    return int(status[1]), body.decode(errors="replace")


def _path_of(address: str) -> str:
    """The path that an address names itself; empty if it names none."""
    match = URL.fullmatch(address)
    return "" if match is None else (match["path"] or "").rstrip("/")


def _connect(address: str, timeout: float) -> socket.socket:
    if address.startswith(("unix:", "/")):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        try:
            connection.connect(address.removeprefix("unix:"))
        except OSError:
            connection.close()
            raise
        return connection
    match = URL.fullmatch(address)
    if match is None:
        raise CommandError(f"{address!r} is no address: give http://HOST:PORT, HOST:PORT or :PORT.")
    host = match["six"] or match["host"] or "127.0.0.1"
    return socket.create_connection((host, int(match["port"])), timeout=timeout)
