"""`celery logtool`: what the logs of workers say of their tasks. Reads our lines, the original's, and JSON lines."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import click

from celery.bin.base import CeleryCommand

__all__ = ("logtool",)

RE_LOG_START = re.compile(r"^\[\d{4}-\d\d-\d\d ")
RE_TASK_RECEIVED = re.compile(r".*?\] (?:Task \S+\[\S+\] received|Received task)")
RE_TASK_READY = re.compile(r".*?\] Task \S+\[\S+\] (?!received)\w+")
RE_TASK_INFO = re.compile(r".*?([\w.]+)\[([^\]\s]+)\]")
RE_TASK_RESULT = re.compile(r".*?[\w.]+\[[^\]\s]+\] (.+)")
COMPLETED = ("succeeded", "raised", "ignored", "rejected", "retry")

REPORT_FORMAT = """
Report
======
Task total: {task[total]}
Task errors: {task[errors]}
Task success: {task[succeeded]}
Task completed: {task[completed]}
Tasks
=====
{task[types].format}
"""


class TaskCounts(list[tuple[str, int]]):
    """How often each task was received."""

    @property
    def format(self) -> str:
        return "\n".join(f"{count}: {name}" for name, count in self)


def task_info(line: str) -> tuple[str, str]:
    """Name and id of the task that a line is about; raises ValueError if it is about none."""
    _, bracket, rest = line.partition("] ")
    match = RE_TASK_INFO.match(rest if bracket else line)
    if match is None:
        raise ValueError(f"No task is named in {line!r}.")
    return match[1], match[2]


class Audit:
    """Reads lines and keeps the score; the callbacks hear of errors, of the lines of tracebacks and of all others."""

    def __init__(
        self,
        on_task_error: Callable[..., Any] | None = None,
        on_trace: Callable[..., Any] | None = None,
        on_debug: Callable[..., Any] | None = None,
    ) -> None:
        self.ids: set[str] = set()
        self.names: dict[str, str] = {}
        self.results: dict[str, str] = {}
        self.ready: set[str] = set()
        self.task_types: Counter[str] = Counter()
        self.task_errors = 0
        self.on_task_error, self.on_trace, self.on_debug = on_task_error, on_trace, on_debug
        self.prev_line = ""

    def run(self, files: Iterable[str]) -> Self:
        """Read these files; `-` or none is standard input."""
        for line in _lines(list(files) or ["-"]):
            self.feed(line)
        return self

    def feed(self, line: str) -> None:
        line = _plain(line)
        if not RE_LOG_START.match(line):
            if self.on_trace is not None and line.strip():
                self.on_trace(line)
        elif RE_TASK_RECEIVED.match(line):
            self.task_received(line, *task_info(line))
        elif RE_TASK_READY.match(line):
            name, task_id = task_info(line)
            match = RE_TASK_RESULT.match(line.partition("] ")[2])
            self.task_ready(line, name, task_id, match[1] if match else "")
        elif self.on_debug is not None:
            self.on_debug(line)
        self.prev_line = line

    def task_received(self, line: str, task_name: str, task_id: str) -> None:
        self.names[task_id] = task_name
        self.ids.add(task_id)
        self.task_types[task_name] += 1

    def task_ready(self, line: str, task_name: str, task_id: str, result: str) -> None:
        self.results[task_id] = result
        if "retry: Retry in" not in line:
            self.ready.add(task_id)
        if not ("succeeded" in result or "retry: Retry" in line or "ignored" in result):
            self.task_error(line, task_name, task_id, result)

    def task_error(self, line: str, task_name: str, task_id: str, result: str) -> None:
        self.task_errors += 1
        if self.on_task_error is not None:
            self.on_task_error(line, task_name, task_id, result)

    def incomplete_tasks(self) -> set[str]:
        """Ids of those that were received and have not ended."""
        return self.ids - self.ready

    def report(self) -> dict[str, Any]:
        """The score, as `REPORT_FORMAT` wants it."""
        return {
            "task": {
                "types": TaskCounts(self.task_types.most_common()),
                "total": len(self.ids),
                "errors": self.task_errors,
                "completed": len(self.ready),
                "succeeded": len(self.ready) - self.task_errors,
            }
        }


def _plain(line: str) -> str:
    """A line without colours; a JSON line of `worker_log_json` as the formatter would have written it."""
    line = re.sub(r"\x1b\[[\d;]*m", "", line.rstrip("\n"))
    if line.startswith("{"):
        try:
            said = json.loads(line)
            moment = said["time"].replace("T", " ")
            return f"[{moment}: {said['level']}/{said.get('process', '')}] {said['message']}"
        except (ValueError, KeyError, TypeError, AttributeError):
            return line
    return line


def _lines(files: Sequence[str]) -> Iterator[str]:
    for name in files:
        if name == "-":
            yield from sys.stdin
        else:
            with Path(name).open(encoding="utf-8", errors="replace") as file:
                yield from file


@click.group()
def logtool() -> None:
    """Read the logs of workers."""


files = click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, allow_dash=True))


@logtool.command(cls=CeleryCommand)
@files
@click.pass_context
def stats(ctx: click.Context, files: tuple[str, ...]) -> None:
    """Show how many tasks there were, and how they ended."""
    ctx.obj.echo(REPORT_FORMAT.format(**Audit().run(files).report()))


@logtool.command(cls=CeleryCommand)
@files
@click.pass_context
def traces(ctx: click.Context, files: tuple[str, ...]) -> None:
    """Show the tracebacks."""
    Audit(on_trace=ctx.obj.echo).run(files)


@logtool.command(cls=CeleryCommand)
@files
@click.pass_context
def errors(ctx: click.Context, files: tuple[str, ...]) -> None:
    """Show the lines that tell of a task's failure."""
    Audit(on_task_error=lambda line, *_: ctx.obj.echo(line)).run(files)


@logtool.command(cls=CeleryCommand)
@files
@click.pass_context
def incomplete(ctx: click.Context, files: tuple[str, ...]) -> None:
    """Show the tasks that were received and have not ended."""
    audit = Audit().run(files)
    for task_id in sorted(audit.incomplete_tasks()):
        ctx.obj.echo(f"Did not complete: {audit.names.get(task_id, '?')}[{task_id}]")


@logtool.command(cls=CeleryCommand)
@files
@click.pass_context
def debug(ctx: click.Context, files: tuple[str, ...]) -> None:
    """Show the lines that are about no task."""
    Audit(on_debug=ctx.obj.echo).run(files)
