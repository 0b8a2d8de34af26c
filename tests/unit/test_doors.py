"""Public paths of Celery whose home is elsewhere here: each is there, small, and leads to where it says."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import celery
from celery import Celery, bootsteps, local
from celery.concurrency.thread import ApplyResult
from celery.contrib.testing import mocks
from celery.worker import state
from celery.worker.consumer import consumer

SOURCE = Path(celery.__file__).parent
DOORS = {
    **{
        f"worker.consumer.{module}": ("celery.worker.consumer.marks", name)
        for module, name in {
            "agent": "Agent", "connection": "Connection", "control": "Control", "delayed_delivery": "DelayedDelivery",
            "events": "Events", "gossip": "Gossip", "heart": "Heart", "mingle": "Mingle", "tasks": "Tasks",
        }.items()
    },
    "worker.pidbox": ("celery.worker.mailbox", "Pidbox"),
}  # fmt: skip
"""Alias doors: module -> (the home of what it names, that name)."""
LISTING = {
    module: rest.replace("|", " ").split()
    for module, _, rest in (
        line.partition(":")
        for line in (Path(__file__).parent / "doors.txt").read_text().splitlines()
        if not line.startswith("#")
    )
}
"""Module -> its public names, as the original has them."""
MODULES_LEFT_OUT = {
    **dict.fromkeys(
        (
            "celery.fixups", "celery.fixups.django", "celery.contrib.django", "celery.contrib.django.task",
        ),
        "comes with Django",
    ),
    **{
        f"celery.backends.{name}": "this result backend is not there yet: its URL says so"
        for name in (
            "arangodb", "azureblockblob", "cassandra", "consul", "cosmosdbsql", "couchbase", "couchdb",
            "database", "database.models", "database.session", "dynamodb", "elasticsearch", "gcs",
            "mongodb", "s3",
        )
    },
}  # fmt: skip
SENTENCE = "a sentence of the original's: what is said here has words of its own, where there is something to say"
UNSET = "the original has it only where an environment variable or a platform makes it so"
NAMES_LEFT_OUT: dict[tuple[str, str], tuple[str, ...]] = {
    ("celery", UNSET): ("debug_import",),
    ("celery.beat", UNSET): ("run", "stop"),
    ("celery.worker.state", UNSET): ("C_BENCH", "C_BENCH_EVERY", "on_shutdown"),
    ("celery.backends.base", SENTENCE): ("W_COMPRESSION_UNSUPPORTED", "W_FAILURE_EXPIRES_UNSUPPORTED"),
    ("celery.backends.redis", SENTENCE): (
        "E_REDIS_MISSING", "E_REDIS_SENTINEL_MISSING", "W_REDIS_COMPRESSION_DISABLED", "W_REDIS_SSL_CERT_OPTIONAL",
        "W_REDIS_SSL_CERT_NONE", "E_REDIS_SSL_PARAMS_AND_SCHEME_MISMATCH", "E_REDIS_SSL_CERT_REQS_MISSING_INVALID",
        "E_LOST",
    ),
    ("celery.backends.redis", "scripts of its chords: ours are in `celery.redis`, with other arguments"): (
        "CHORD_PART_RETURN_LUA", "CHORD_CLEANUP_LUA", "CHORD_CLAIM_EXTEND_LUA",
    ),
    ("celery.backends.redis", "classes around redis-py, which is not used here"): (
        "ResultConsumer", "SentinelManagedSSLConnection",
    ),
    ("celery.backends.rpc", SENTENCE): ("E_NO_CHORD_SUPPORT",),
    ("celery.backends.rpc", "the inside of its waiting: here the broker's thread takes results in"): (
        "ResultConsumer",
    ),
    ("celery.backends.cache", SENTENCE): ("W_CHORD_EXPIRES_TOO_LONG", "REQUIRES_BACKEND", "UNKNOWN_BACKEND"),
    ("celery.backends.cache", "the inside of its choice among clients: here there is one"): (
        "MAX_RELATIVE_EXPIRES", "PYLIBMC_ONLY_OPTIONS", "DEFAULT_CLIENT_OPTIONS", "get_memcache_client",
        "import_best_memcache", "get_best_memcache", "DummyClient", "backends", "logger",
    ),
    ("celery.backends.filesystem", SENTENCE): ("E_NO_PATH_SET", "E_PATH_NON_CONFORMING_SCHEME", "E_PATH_INVALID"),
    ("celery.backends.filesystem", "names are UTF-8"): ("default_encoding",),
    ("celery.backends.asynchronous", SENTENCE): ("E_RETRY_LIMIT_EXCEEDED",),
    ("celery.bin.celery", SENTENCE): (
        "UNABLE_TO_LOAD_APP_MODULE_NOT_FOUND", "UNABLE_TO_LOAD_APP_ERROR_OCCURRED", "UNABLE_TO_LOAD_APP_APP_MISSING",
        "WRONG_APP_OPTION_USAGE_MESSAGE",
    ),
    ("celery.bin.celery", "what it has replaced in click; nothing is replaced here"): ("previous_show_implementation",),
    ("celery.concurrency.asynpool", "the inside of a pool on billiard's pipes, which is not the one here"): (
        "unpack_from", "WORKER_UP", "Ack", "gen_not_started", "iterate_file_descriptors_safely", "Worker",
        "ResultHandler",
    ),
    ("celery.concurrency.eventlet", "modules imported too early: `celery.patching` comes before all"): (
        "W_RACE", "RACE_MODS",
    ),
    ("celery.utils.functional", "nothing is logged there"): ("logger",),
    ("celery.utils.time", "nothing is logged there"): ("logger",),
    ("celery.utils.saferepr", "tokens of a stream that is not made here: `saferepr` writes the text at once"): (
        "LIT_DICT_START", "LIT_DICT_KVSEP", "LIT_DICT_END", "LIT_LIST_START", "LIT_LIST_END", "LIT_LIST_SEP",
        "LIT_SET_START", "LIT_SET_END", "LIT_TUPLE_START", "LIT_TUPLE_END", "LIT_TUPLE_END_SV",
    ),
    ("celery.worker.components", SENTENCE): ("ERR_B_GREEN", "W_POOL_SETTING"),
    ("celery.worker.worker", "no socket of a consumer is waited for at the end"): ("SHUTDOWN_SOCKET_TIMEOUT",),
    ("celery.worker.consumer.consumer", SENTENCE): (
        "CONNECTION_RETRY", "CONNECTION_RETRY_STEP", "CONNECTION_FAILOVER", "UNKNOWN_FORMAT", "UNKNOWN_TASK_ERROR",
        "INVALID_TASK_ERROR", "MESSAGE_DECODE_ERROR", "MESSAGE_REPORT", "CANCEL_TASKS_BY_DEFAULT",
        "TERMINATING_TASK_ON_RESTART_AFTER_A_CONNECTION_LOSS",
    ),
    ("celery.worker.consumer.consumer", "no socket of a consumer is waited for"): ("COLLECT_SOCKET_TIMEOUT",),
    ("celery.worker.consumer.delayed_delivery", "delays are the broker's own here, and nothing is set up for them"): (
        "RETRY_INTERVAL", "MAX_RETRIES", "RETRIED_EXCEPTIONS", "VALID_QUEUE_TYPES",
    ),
}  # fmt: skip
"""(Module, why) -> names that it does not have here."""
LEFT_OUT = {(module, name): why for (module, why), names in NAMES_LEFT_OUT.items() for name in names}
MODULES = [
    "bootsteps", "security", "security.certificate", "security.key", "security.serialization",
    "security.utils", "contrib.pytest", "contrib.testing.app", "contrib.testing.worker",
    "contrib.testing.tasks", "contrib.testing.mocks", "utils.quorum_queues", "utils.static",
    "worker.components", "worker.loops", "worker.request", "worker.strategy", "worker.state",
    "worker.consumer", "worker.consumer.consumer", "worker.heartbeat", "worker.control", "worker.worker",
    "app.trace", "concurrency.base", "concurrency.prefork",
]  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
def test_an_alias_is_five_lines_and_leads_home(door: str) -> None:
    home, name = DOORS[door]
    module = importlib.import_module(f"celery.{door}")
    found = getattr(importlib.import_module(home), name, None)
    assert found is None or getattr(module, name) is found
    code = [line for line in (SOURCE / f"{door.replace('.', '/')}.py").read_text().splitlines() if line.strip()]
    assert len(code) <= 5


@pytest.mark.parametrize("name", MODULES)
def test_every_name_of_a_public_module_is_there(name: str) -> None:
    module = importlib.import_module(f"celery.{name}")
    for public in getattr(module, "__all__", ()):
        assert hasattr(module, public), (name, public)


def names_of(module: str) -> set[str]:
    """What can be imported from *module*; of one that wants a package which is not here, what its source defines."""
    needs = {"celery.contrib.sphinx": "sphinx", "celery.concurrency.gevent": "gevent"}
    package = needs.get(module, "eventlet" if module == "celery.concurrency.eventlet" else None)
    names = LISTING[module]
    if package is None or importlib.util.find_spec(package) is not None:
        found = importlib.import_module(module)
        return {name for name in names if hasattr(found, name)}
    tree = ast.parse((SOURCE / f"{module.removeprefix('celery.').replace('.', '/')}.py").read_text())
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    imported = {
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assigned = {
        name.id for node in tree.body if isinstance(node, ast.Assign) for name in node.targets
        if isinstance(name, ast.Name)
    }  # fmt: skip
    return defined | imported | assigned


@pytest.mark.parametrize("module", sorted(set(LISTING) - set(MODULES_LEFT_OUT)))
def test_every_public_path_of_the_original_is_there(module: str) -> None:
    here = names_of(module)
    missing = [name for name in LISTING[module] if name not in here and (module, name) not in LEFT_OUT]
    assert not missing, f"{module} lacks {missing}: add them, or say in NAMES_LEFT_OUT why they have no meaning here"


def test_what_is_left_out_is_public_and_not_there() -> None:
    for module in MODULES_LEFT_OUT:
        assert module in LISTING
        assert not (SOURCE / f"{module.removeprefix('celery.').replace('.', '/')}.py").exists(), f"{module} is there"
    for module, name in LEFT_OUT:
        assert name in LISTING[module], (module, name)
        assert name not in names_of(module), f"{module}.{name} is there: strike it from NAMES_LEFT_OUT"


def test_modules_can_be_made_that_load_when_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("doors_old", "doors_old.registry"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    old = sys.modules["doors_old"]
    before, new = local.recreate_module(
        "doors_old", by_module={"celery.states": ["PENDING"]}, direct={"signals": "celery.signals"}, answer=42
    )
    assert before is old
    assert sys.modules["doors_old"] is new
    assert (new.PENDING, new.answer, new.signals) == ("PENDING", 42, importlib.import_module("celery.signals"))
    assert new.__all__ == ("PENDING", "answer", "signals")
    monkeypatch.setitem(local.COMPAT_MODULES, "doors_old", {"registry": {"tasks": "tasks"}})
    with Celery("doors", broker="memory://doors", set_as_current=True) as app:
        registry = local.get_compat_module(new, "registry")
        assert registry.tasks == app.tasks
        assert sys.modules["doors_old.registry"] is registry


def test_words_of_the_consumer_and_of_requests() -> None:
    message = mocks.TaskMessage("t", id="i", args=(1,))
    text = consumer.dump_body(message, message.body)
    assert text.endswith(f"({len(message.body)}b)")
    assert "callbacks" in text
    assert len(consumer.dump_body(None, "x" * 100_000)) < 2_000
    assert set(state.requests) == set()
    assert "nobody" not in state.requests


def test_the_result_of_an_executor_is_waited_for() -> None:
    with ThreadPoolExecutor(1) as executor:
        result = ApplyResult(executor.submit(int, "7"))
        result.wait(10)
        assert result.get() == 7


def test_messages_for_tests() -> None:
    message = mocks.TaskMessage("t", id="i", args=(1,), kwargs={"a": 2}, eta=None)
    assert (message.headers["task"], message.headers["id"], message.payload[0]) == ("t", "i", (1,))
    assert message.body == '[[1],{"a":2},{"callbacks":null,"errbacks":null,"chain":null}]'
    assert mocks.TaskMessage1("t", id="i").payload["task"] == "t"
    with mocks.ContextMock() as mock:
        assert mock.anything() is not None


def test_a_greenlet_that_takes_too_long_is_ended_and_told_of() -> None:
    if importlib.util.find_spec("gevent") is None:
        pytest.skip("capability: gevent is not installed")
    pool = importlib.import_module("celery.concurrency.gevent")
    sleep = importlib.import_module("gevent").sleep
    told: list[Any] = []
    pool.apply_timeout(sleep, (30,), timeout=0.01, timeout_callback=lambda *said: told.append(said))
    assert told == [(False, 0.01)]
    pool.apply_timeout(int, ("7",), callback=told.append, timeout=5)
    assert told[1:] == [7]


def test_steps_can_require_the_autoscaler() -> None:
    class Mine(bootsteps.StartStopStep):
        requires = ("celery.worker.autoscale:WorkerComponent", "celery.worker.components:Timer")

    blueprint = bootsteps.Blueprint([Mine], name="Worker")
    order = [type(step) for step in blueprint.apply(types.SimpleNamespace(steps=[])).order]
    assert order[-1] is Mine
