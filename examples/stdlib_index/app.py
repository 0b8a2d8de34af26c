"""The application: one task, which indexes one source file."""

from __future__ import annotations

import ast
import hashlib
import time
import warnings
from pathlib import Path
from typing import TypedDict

from celery import Celery, Task

app = Celery("stdlib_index")  # no broker is named: the embedded one, in the folder CELERY_HOME


class Index(TypedDict):
    """What is to know of a source file."""

    digest: str
    lines: int
    functions: int


class Report(Index):
    """An index, and how it came about."""

    retries: int
    started: float
    seconds: float


class Hiccup(Exception):
    """A failure on purpose, as a busy disk or a flaky network would cause it."""


@app.task(bind=True, autoretry_for=(Hiccup,), retry_backoff=1, retry_jitter=False)
def index(self: Task, path: str, hiccups: int = 0) -> Report:
    """Index *path*, after failing *hiccups* times; each retry waits twice as long as the one before."""
    if self.request.retries < hiccups:
        raise Hiccup(f"{path}: hiccup {self.request.retries + 1} of {hiccups}")
    started, clock = time.time(), time.perf_counter()
    found = read(Path(path))
    return Report(**found, retries=self.request.retries, started=started, seconds=time.perf_counter() - clock)


def read(path: Path) -> Index:
    """Hash and parse a source file; SyntaxError and ValueError are for what is no valid source."""
    source = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's tests are full of things that Python warns of
        tree = ast.parse(source)
    return Index(
        digest=hashlib.sha256(source).hexdigest(),
        lines=source.count(b"\n"),
        functions=sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in ast.walk(tree)),
    )
