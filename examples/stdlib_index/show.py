"""A progress bar and a table, in plain characters."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

WIDTH = 40


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Call what this gives once for every step. A terminal sees one line grow, a file a line for every tenth."""
    live = sys.stdout.isatty()
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        filled = done * WIDTH // total
        if live or (filled != (done - 1) * WIDTH // total and filled % (WIDTH // 10) == 0):
            bar = "#" * filled + "." * (WIDTH - filled)
            print(f"{title} [{bar}] {done:,}/{total:,}", end="\r" if live else "\n", flush=True)

    yield advance
    if live:
        print()


def table(title: str, rows: Mapping[str, str]) -> str:
    """Two columns under a title."""
    names, values = max(map(len, rows)), max(map(len, rows.values()))
    rule = "+" + "-" * (names + 2) + "+" + "-" * (values + 2) + "+"
    lines = [f"| {name:<{names}} | {value:<{values}} |" for name, value in rows.items()]
    return "\n".join(["", title, rule, *lines, rule, ""])
