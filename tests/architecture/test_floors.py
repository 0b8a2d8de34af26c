"""The house: imports point down, nothing is too large, and no two drivers know each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "celery"
MAX_FILE, MAX_FUNCTION = 600, 60

# Floors from the ground up; within a floor, what is listed later may import what is listed earlier. First match wins.
FLOORS: list[tuple[str, list[str]]] = [
    ("0 words", ["", "patching", "states", "exceptions", "utils.*", "utils", "signals", "local", "platforms",
                 "schedules.wallclock", "schedules.base", "schedules.solar", "schedules.*", "schedules"]),
    ("1 wire", ["wire.message", "wire.serialization", "wire.*", "wire", "security*"]),
    ("2 ports", ["redis", "redis.address", "redis.scripts", "redis.link", "redis.channel", "redis.envelopes",
                 "brokers.book", "backends.store", "backends", "backends.polls", "brokers.answers",
                 "brokers.base", "brokers.revocations", "brokers.replies",
                 "redis.outbox", "redis.bus", "redis.relay",
                 "redis.*",
                 "amqp", "amqp.address", "amqp.tables", "amqp.frames", "amqp.connection", "amqp.publisher", "amqp.*",
                 "bridge", "bridge.sqs", "bridge.forks", "bridge.way", "bridge.messages", "bridge.spool",
                 "bridge.lane", "bridge.*",
                 "memory",
                 "memory.limits", "memory.space", "memory.*", "sqlite", "sqlite.moves", "sqlite.limits",
                 "sqlite.listeners", "sqlite.leases", "sqlite.*",
                 "brokers",
                 "concurrency.classic", "concurrency.base", "concurrency.window", "concurrency.outcomes",
                 "concurrency.bell", "concurrency.adapter", "concurrency.crowd", "concurrency.green",
                 "concurrency.inprocess", "concurrency.strike", "concurrency.frames",
                 "concurrency.child",
                 "concurrency.process", "concurrency.template", "concurrency.nursery", "concurrency.slot",
                 "concurrency", "drivers"]),
    ("4 app", ["_state", "app.einfo", "app.context", "app.followups", "app.resulttree",
               "app.callbacks", "app.gathering", "app.asyncresult", "app.resultset", "result",
               "backends.compression", "backends.backend", "backends.polling", "backends.asynchronous",
               "backends.keyvalue", "backends.waiting",
               "backends.disabled", "backends.arrivals", "backends.chords", "backends.results", "backends.base",
               "app.coerce", "app.defaults", "app.names", "app.source", "loaders*", "app.settings",
               "app.routes", "app.annotations", "app.registry", "app.queues", "app.utils", "app.backends",
               "backends.redisbackend", "backends.cachebackend", "backends.filesystembackend", "backends.rpc",
               "canvas.*", "canvas", "app.autoretry", "app.amqp", "app.typing", "app.retry",
               "app.task", "app.coroutines", "app.trace", "app.runner", "events*", "app.mailbox",
               "app.control", "app.builtins", "app.log", "app.*", "app", "execute", "log", "messaging", "registry"]),
    ("3 drivers", ["brokers.*", "backends.*", "concurrency.*"]),
    ("5 engine", ["bootsteps", "worker.statedb", "worker.state", "worker.claimed", "worker.decisions", "worker.ledger",
                  "worker.child", "worker.mailbox", "worker.healthserver", "beat.*", "beat",
                  "worker.*", "worker"]),
    ("6 doors", ["bin.base", "contrib*", "apps*", "bin.*", "bin", "web*", "fixups*", "__main__"]),
]  # fmt: skip
ORDER = {name: position for position, name in enumerate(sorted(name for name, _ in FLOORS))}


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        found[name.removesuffix("__init__").rstrip(".")] = path
    return found


MODULES = modules()


def place(module: str) -> tuple[int, int, str]:
    """Height of the floor, position on it, and the floor's name."""
    for floor, patterns in FLOORS:
        for position, pattern in enumerate(patterns):
            if fnmatchcase(module, pattern):
                return ORDER[floor], position, floor
    raise AssertionError(f"{module}: on no floor. Add it to FLOORS in this file, on the lowest floor it can live on.")


def imports(module: str) -> Iterator[tuple[str, int, bool]]:
    """(module of this package, line, deferred to a type checker) for every import, wherever it stands."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    tree = ast.parse(path.read_text())
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".") if package else []
                parts = parts[: len(parts) - node.level + 1]
                base = ".".join(["celery", *parts, *([base] if base else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        for name in names:
            if name != "celery" and not name.startswith("celery."):
                continue
            target = name.removeprefix("celery").lstrip(".")
            while target not in MODULES:
                target = target.rpartition(".")[0]
            yield target, node.lineno, id(node) in typing_only


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_down(module: str) -> None:
    height, position, floor = place(module)
    for target, line, typing_only in imports(module):
        if target == module or typing_only:
            continue
        other_height, other_position, other_floor = place(target)
        assert other_height <= height, (
            f"{module}:{line} (floor {floor}) imports {target} (floor {other_floor}). Imports point down: move the"
            f" shared part to a lower floor, or hand it in as an argument."
        )
        if floor == "3 drivers" and other_height == height:
            pytest.fail(f"{module}:{line} imports its sibling driver {target}. Move what both need to a port or utils.")
        if other_height == height and target.rpartition(".")[0] != module.rpartition(".")[0]:
            assert other_position <= position, (
                f"{module}:{line} imports {target}, which comes later on floor {floor}. Swap their order in FLOORS if"
                f" that is the truth, or turn the dependency around."
            )


def test_no_import_cycle() -> None:
    graph = {m: {t for t, _, typing_only in imports(m) if t != m and not typing_only} for m in MODULES}
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            cycle = " -> ".join([*path[path.index(module) :], module])
            pytest.fail(f"import cycle: {cycle}. Move what they share to a module below both.")
        if module not in done:
            for target in sorted(graph[module]):
                visit(target, [*path, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])


@pytest.mark.parametrize("module", sorted(MODULES))
def test_files_and_functions_can_be_read_in_one_go(module: str) -> None:
    text = MODULES[module].read_text()
    assert text.count("\n") <= MAX_FILE, f"{module} has more than {MAX_FILE} lines: it is two rooms."
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION, (
                f"{module}:{node.lineno} {node.name} has {length} lines (at most {MAX_FUNCTION}): name its steps."
            )


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_of_this_package_are_at_the_top(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text())
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in ast.walk(function):
            ours = (
                isinstance(node, ast.ImportFrom) and ((node.module or "").split(".")[0] == "celery" or node.level)
            ) or (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "celery" for alias in node.names))
            assert not ours, (
                f"{module}:{node.lineno} imports inside {function.name}: a hidden arrow. Import at the top, or, for a"
                f" driver or a door, go through celery.drivers."
            )
