"""`make demo`: index Python's standard library with two worker processes, and check every figure.

Nothing needs to be installed or running: the broker is the embedded one, in a folder that is removed at the end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from celery import uuid
from celery.result import AsyncResult, ResultSet

from .app import Index, Report, app, index, read
from .show import progress, table

PROCESSES = 2
HICCUP_EVERY = 200  # every so many files, a task fails twice on purpose
DELAY = 3.0  # seconds by which one task is scheduled ahead
PATIENCE = 100.0  # seconds within which all of it must be done

Plan = dict[str, AsyncResult[Report]]


class Wrong(Exception):
    """A figure or an outcome is not what it must be."""


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: the worker goes when the demo goes
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="celery-demo-") as home:
        os.environ["CELERY_HOME"] = home
        log = Path(home) / "worker.log"
        try:
            with worker(log):
                files = [broken_file(home), *source_files()]
                began = time.time()
                plan, revoked = send(files)
                wait(plan)
            summarise(plan, revoked, began)
        except (Wrong, TimeoutError) as error:
            print(f"\nThe demo failed: {error}\n\nThe worker's last words:\n{tail(log)}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            sys.stdout.flush()
            print("\nInterrupted: the worker is stopped, and its folder removed.", file=sys.stderr)
            return 130
    return 0


@contextmanager
def worker(log: Path) -> Iterator[None]:
    """A worker in the background; at the end it is asked to finish what it does, and must leave with 0."""
    command = [sys.executable, "-m", "celery", "-A", f"{__package__}.app", "worker", "-c", str(PROCESSES), "-l", "INFO"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        while not app.control.ping(timeout=1.0):
            if process.poll() is not None:
                raise Wrong(f"the worker ended with exit code {process.returncode} before it was ready")
        print(f"A worker with {PROCESSES} processes is ready. Broker and results: {app.broker.url}")
        yield
        process.send_signal(signal.SIGTERM)
        if process.wait(timeout=30):
            raise Wrong(f"the worker was stopped warmly, and left with exit code {process.returncode}")
        print("The worker was stopped warmly, and left with exit code 0.")
    finally:
        if process.poll() is None:  # interrupted, or something is wrong: a cold shutdown
            process.send_signal(signal.SIGQUIT)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def broken_file(folder: str) -> str:
    """A file that is no valid Python: its task must fail, as the plain loop does."""
    path = Path(folder, "broken.py")
    path.write_text("def broken(:\n")
    return str(path)


def source_files() -> list[str]:
    """Every source file of this Python's standard library, or of the folder that the command line names."""
    library = Path(sys.argv[1] if len(sys.argv) > 1 else sysconfig.get_path("stdlib"))
    paths = library.rglob("*.py")
    return sorted(str(path) for path in paths if not {"site-packages", "dist-packages"} & set(path.parts))


def send(files: list[str]) -> tuple[Plan, str]:
    """Send one task a file, in bulk; the plan, and the file whose task is revoked."""
    *most, ahead, revoked = files
    forbidden = uuid()
    app.control.revoke(forbidden)  # a durable record: it holds for what is still to come, too
    with app.bulk():
        plan: Plan = {
            path: index.delay(path, hiccups=2 if number % HICCUP_EVERY == 1 else 0) for number, path in enumerate(most)
        }
        plan[ahead] = index.apply_async((ahead,), countdown=DELAY)
        plan[revoked] = index.apply_async((revoked,), task_id=forbidden)
    print(f"Sent {len(plan):,} tasks: one revoked, one scheduled {DELAY:g} s ahead, some that will fail and retry.")
    return plan, revoked


def wait(plan: Plan) -> None:
    """Watch the results come in."""
    results = ResultSet(list(plan.values()))
    with progress("indexing", len(plan)) as advance:
        results.get(timeout=PATIENCE, propagate=False, callback=lambda _id, _value: advance())


def summarise(plan: Plan, revoked: str, began: float) -> None:
    """Compare every outcome with a plain loop over the same files, then print the table."""
    print("Checking every result against a plain loop over the same files ...")
    reports: dict[str, Report] = {}
    failures = 0
    for path, result in plan.items():
        if path == revoked:
            expect(result.state, "REVOKED", f"the state of the revoked task for {path}")
            continue
        plain = outcome(path)
        if isinstance(plain, str):  # the library holds files that are wrong on purpose: their tasks must fail alike
            expect((result.state, type(result.result).__name__), ("FAILURE", plain), path)
            failures += 1
            continue
        expect(result.state, "SUCCESS", path)
        reports[path] = report = result.result
        expect({name: report[name] for name in plain}, plain, path)  # type: ignore[literal-required]
    early = began + DELAY - reports[list(plan)[-2]]["started"]
    if early > 0:
        raise Wrong(f"the task scheduled {DELAY:g} s ahead started {early:.3f} s too early")
    slowest = max(reports, key=lambda path: reports[path]["seconds"])
    straight = [report for path, report in reports.items() if not report["retries"] and path != list(plan)[-2]]
    busy = max(report["started"] + report["seconds"] for report in straight) - began
    print(
        table(
            "Python's standard library",
            {
                "files": f"{len(plan):,}",
                "lines": f"{sum(report['lines'] for report in reports.values()):,}",
                "functions": f"{sum(report['functions'] for report in reports.values()):,}",
                "failures": f"{failures:,} (not valid Python; one of them made so)",
                "retries": f"{sum(report['retries'] for report in reports.values()):,}",
                "revoked": "1",
                "tasks/s": f"{len(straight) / busy:,.0f} (those that waited for no retry or time)",
                "slowest task": f"{Path(slowest).name} ({reports[slowest]['seconds'] * 1000:,.0f} ms)",
            },
        )
    )


def outcome(path: str) -> Index | str:
    """The index of *path* as a plain call makes it, or the name of the error it raises."""
    try:
        return read(Path(path))
    except (SyntaxError, ValueError) as error:
        return type(error).__name__


def expect(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise Wrong(f"{what}: expected {expected}, found {found}")


def tail(log: Path, lines: int = 25) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


if __name__ == "__main__":
    sys.exit(main())
