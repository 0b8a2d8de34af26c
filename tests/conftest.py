"""What holds for every test: its own state folder and application, nothing left running, no silent skip under CI."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import hypothesis
import pytest

from rig import sqs as sqs_rig
from rig.certificates import Certificates
from rig.original import original_python
from rig.places import kind as kind
from rig.places import place as place
from rig.proxy import Proxy
from rig.rabbitmq import Cluster, RabbitMQ, lasting
from rig.redis import RedisServer

CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}
GRACE = 30.0
"""Seconds that a process or thread which a test has asked to end may still take."""
KEPT = (
    *("multiprocessing.forkserver", "multiprocessing.resource_tracker", "multiprocessing.spawn import"),
    "/bin/inet_gethost",
)
"""Helpers of Python, and of the shared node of RabbitMQ, which live as long as the process that first needed them."""

hypothesis.settings.register_profile(
    "busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)  # time is never asserted
hypothesis.settings.load_profile("busy")


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Embedded brokers of this test meet in a folder of its own, and its current application is its own."""
    folder = tmp_path_factory.getbasetemp() / "home" / str(time.monotonic_ns())
    monkeypatch.setenv("CELERY_HOME", str(folder))
    for name in [name for name in os.environ if name.startswith("CELERY_") and name != "CELERY_HOME"]:
        monkeypatch.delenv(name)
    state = sys.modules.get("celery._state")
    finalizers = dict(state._finalizers) if state is not None else {}
    yield
    state = sys.modules.get("celery._state")
    if state is not None:
        state._finalizers.clear()  # shared tasks of this test are no tasks of the next one's application
        state._finalizers.update(finalizers)
        state.set_default_app(None)
        state._set_current_app(None)
        state._offers.clear()  # tasks of this test's apps, which others would get until those are collected


@contextmanager
def _keep_logging() -> Iterator[None]:
    ours = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "celery"]
    loggers = [logging.root, *map(logging.getLogger, ours)]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    streams = sys.stdout, sys.stderr
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
    sys.stdout, sys.stderr = streams
    log = sys.modules.get("celery.app.log")
    if log is not None:
        log.Logging._setup = False


@pytest.fixture(autouse=True, scope="module")
def _logging_as_it_was_before_the_module() -> Iterator[None]:
    """A worker that several tests share sets it up too."""
    with _keep_logging():
        yield


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A worker in a test sets up logging for its process: that ends with the test."""
    with _keep_logging():
        yield


@pytest.fixture(autouse=True)
def _nothing_left_running(_own_state: None) -> Iterator[None]:
    """A test ends what it starts. What fixtures of wider scope started stands before and is not counted."""
    processes, threads = set(_descendants()), set(threading.enumerate())
    yield
    deadline = time.monotonic() + GRACE
    left = _leaks(processes, threads)
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = _leaks(processes, threads)
    if left:
        pytest.fail("left running: " + "; ".join(left), pytrace=False)


def _leaks(processes: set[int], threads: set[threading.Thread]) -> list[str]:
    found = []
    for pid in set(_descendants()) - processes:
        command = _command(pid)
        if command and not any(kept in command for kept in KEPT) and not lasting(pid):
            found.append(f"process {pid} ({command[:120]})")
    found += [
        f"thread {thread.name!r}"
        for thread in set(threading.enumerate()) - threads
        if thread.is_alive() and not thread.daemon
    ]
    return sorted(found)


def _descendants() -> Iterator[int]:
    """The pids of the children of this process and of theirs, where the system lists processes in /proc."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # no child at all: the common case, and a cheap question
        return
    children: dict[int, list[int]] = {}
    for process in Path("/proc").glob("[0-9]*"):  # not "[0-9]*/stat": it fails where one ends while it looks
        try:
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended while it was looked at
            continue
        children.setdefault(parent, []).append(int(process.name))
    waiting = [os.getpid()]
    while waiting:
        found = children.get(waiting.pop(), [])
        waiting += found
        yield from found


def _command(pid: int) -> str:
    """The command line of a process; empty when it has ended (a zombie has none either)."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


@pytest.fixture(scope="session")
def server() -> Callable[[str], Path]:
    """`server("redis")` is the program of that server; the test is skipped, with how to get it, where there is none."""

    def program(name: str) -> Path:
        try:
            path: Path = _servers().ensure(name)
        except LookupError as error:
            pytest.skip(str(error))
        return path

    return program


@pytest.fixture(scope="session")
def redis_server(server: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One redis-server for all tests that leave it as it was. Its databases are theirs by `redis_url`."""
    running = RedisServer(server("redis"), tmp_path_factory.mktemp("redis"), databases="16")
    yield running
    running.stop()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty database of the shared server."""
    redis_server.ask("FLUSHALL")
    return redis_server.url()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def rabbitmq_server(
    server: Callable[[str], Path], certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RabbitMQ]:
    """One node for all tests that leave it as it was. Its vhosts are theirs by `rabbitmq_vhost`."""
    running = RabbitMQ(server("rabbitmq"), tmp_path_factory.mktemp("rabbitmq"), tls=certificates, lasting=True)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def mortal_rabbitmq(server: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """A node that a module's tests may end: a node takes 0.1 s for every vhost to come back, and the shared one has
    hundreds."""
    running = RabbitMQ(server("rabbitmq"), tmp_path_factory.mktemp("rabbitmq"), lasting=True)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def rabbitmq_vhosts(rabbitmq_server: RabbitMQ) -> Iterator[str]:
    """Without an end, also where the node once was too slow."""
    return iter(rabbitmq_server.new_vhost, "")


@pytest.fixture
def rabbitmq_vhost(rabbitmq_vhosts: Iterator[str]) -> str:
    """An empty vhost of the shared node."""
    return next(rabbitmq_vhosts)


@pytest.fixture
def rabbitmq_url(rabbitmq_server: RabbitMQ, rabbitmq_vhost: str) -> str:
    return rabbitmq_server.url(rabbitmq_vhost)


@pytest.fixture
def allow(rabbitmq_server: RabbitMQ, rabbitmq_vhost: str) -> Callable[..., str]:
    """`allow(configure, write, read)`: the URL of this vhost for a user who may do that from now on."""
    made: list[str] = []

    def allow(*patterns: str) -> str:
        if not made:
            made.append(f"narrow-{rabbitmq_vhost}")
            rabbitmq_server.control("add_user", made[0], "secret")
        rabbitmq_server.control("set_permissions", "-p", rabbitmq_vhost, made[0], *patterns)
        return rabbitmq_server.url(rabbitmq_vhost, made[0], "secret")

    return allow


@pytest.fixture(scope="session")
def sqs() -> Iterator[sqs_rig.SQS]:
    """One server of SQS for all tests; the test is skipped where it cannot be installed."""
    try:
        with sqs_rig.running() as found:
            yield found
    except LookupError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def rabbitmq_cluster(server: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes for all tests that leave them running."""
    running = Cluster(server("rabbitmq"), tmp_path_factory.mktemp("cluster"))
    yield running
    running.stop()


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    """A proxy before the shared server, which passes everything until it is told to do otherwise."""
    with Proxy(redis_server.port) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def original() -> Path:
    """The Python of an environment with the original Celery; the test is skipped where that cannot be made."""
    try:
        return original_python()
    except LookupError as error:
        pytest.skip(str(error))


@cache
def _servers():  # type: ignore[no-untyped-def]
    path = Path(__file__).parents[1] / "tools" / "servers.py"
    spec = importlib.util.spec_from_file_location("servers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Under CI a skip is a failure: a gate that does not run is not a gate. The contract suites skip what a driver does not
# claim to be able to do; their reasons begin with "capability:".


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.CallInfo[None], None]:
    outcome = yield
    _refuse_skip(outcome.get_result())  # type: ignore[attr-defined]


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CallInfo[None], None]:
    outcome = yield
    _refuse_skip(outcome.get_result())  # type: ignore[attr-defined]


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not CI or report.outcome != "skipped" or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if not reason.startswith("capability:"):
        report.outcome = "failed"
        report.longrepr = f"skipped under CI: {reason}"
