"""Several workers on this machine: their names and options from one command line, started and stopped together.

    multi start 3 -c 4 -c:1,2 8 -Q:celery3 images      names: numbers 1 to 3 with a prefix, or the names themselves
    -c 4           an option of every node
    -c:1,2 8       of the first and the second
    -c:1-3 8       of a range
    -Q:images x    of the node called images

A node is known by its pid file; nothing else is kept about it, so stopping takes the same `--pidfile` as starting.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections import OrderedDict, UserList
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from celery.platforms import IS_WINDOWS, signal_name
from celery.utils.nodenames import gethostname, host_format, nodesplit
from celery.utils.pidfiles import Pidfile, is_running
from celery.utils.text import simple_format

__all__ = ("Cluster", "Node")

CELERY_EXE = "celery"
RUN_FOLDER, LOG_FOLDER = "/var/run/celery", "/var/log/celery"
GLOBAL_OPTIONS = (
    "--broker", "--result-backend", "--loader", "--config", "--workdir", "--no-color", "--quiet", "--skip-checks",
    "--app", "-b", "-C", "-q", "-A",
)  # fmt: skip
"""Options of `celery` itself: they stand before the command."""
GLOBAL_FLAGS = frozenset({"--no-color", "--quiet", "--skip-checks", "-C", "-q"})
SIGNAL_OPTIONS = frozenset({"-0", *(f"-{number.value}" for number in signal.Signals)}) | {
    f"-{prefix}{number.name.removeprefix('SIG')}" for number in signal.Signals for prefix in ("", "SIG")
}
LOOK_AGAIN = 0.1
"""Seconds between two looks at whether nodes have ended."""

Options = OrderedDict[str, Any]


def celery_exe(*args: str) -> str:
    """The command line of `celery` with *args*."""
    return " ".join((CELERY_EXE, *args))


def build_nodename(name: str, prefix: str, suffix: str) -> tuple[str, str, str]:
    """Short name, node name and host of the node called *name* on the command line."""
    if "@" in name:
        nodename = host_format(name)
        short, host = nodesplit(nodename)
        return str(short), nodename, host
    return name, f"{prefix}{name}@{suffix}", suffix


def build_expander(nodename: str, shortname: str, hostname: str) -> Callable[[str], str]:
    """A function that expands `%n`, `%h`, `%d` and `%p`; `%i` and `%I` are left to the worker's processes."""

    def expand(template: str) -> str:
        keys: dict[str, Any] = {
            "n": shortname,
            "h": nodename,
            "d": hostname,
            "p": nodename,
            "i": "%i",
            "I": "%I",
        }
        return simple_format(template, keys)

    return expand


def format_opt(opt: str, value: Any) -> str:
    """An option as it is written for a shell."""
    if not value:
        return opt
    quoted = shlex.quote(str(value))
    return f"{opt}={quoted}" if opt.startswith("--") else f"{opt} {quoted}"


def maybe_call(fun: Callable[..., Any] | None, *args: Any, **kwargs: Any) -> None:
    """Call *fun* if there is one."""
    if fun is not None:
        fun(*args, **kwargs)


class NamespacedOptionParser:
    """Takes a command line apart: values, options for all, options by namespace (`-c:NAMES 3`), the rest after `--`.

    *flags* are options that take no value, *valued* long ones whose value may be the next word.
    """

    def __init__(self, args: Sequence[str], *, flags: Iterable[str] = (), valued: Iterable[str] = ()) -> None:
        self.args = list(args)
        self.options: Options = OrderedDict()
        self.values: list[str] = []
        self.passthrough = ""
        self.namespaces: dict[str, Options] = {}
        self._flags = {*flags, *GLOBAL_FLAGS, *SIGNAL_OPTIONS}
        self._valued = {*valued, *(option for option in GLOBAL_OPTIONS if option not in GLOBAL_FLAGS)}

    def parse(self) -> None:
        words = list(self.args)
        while words:
            word = words.pop(0)
            if word == "--":
                self.passthrough = shlex.join([word, *words])
                return
            if not word.startswith("-") or word == "-":
                self.values.append(word)
            elif word.startswith("--"):
                takes_next = bool(words) and "=" not in word and word.partition(":")[0] in self._valued
                self.process_long_opt(word[2:], words.pop(0) if takes_next else None)
            else:
                may_take = bool(words) and not words[0].startswith("-")
                takes_next = may_take and word.partition(":")[0] not in self._flags
                self.process_short_opt(word[1:], words.pop(0) if takes_next else None)

    def process_long_opt(self, arg: str, value: str | None = None) -> None:
        if "=" in arg:
            arg, _, value = arg.partition("=")
        self._process(arg, value, short=False)

    def process_short_opt(self, arg: str, value: str | None = None) -> None:
        self._process(arg, value, short=True)

    def _process(self, arg: str, value: str | None, *, short: bool) -> None:
        name, _, ns = arg.partition(":")
        self.add_option(name, value, short=short, ns=ns or None)

    def optmerge(self, ns: str, defaults: Mapping[str, Any] | None = None) -> Options:
        """The options of a namespace, with *defaults* (by default the options for all) for those it does not have."""
        return OrderedDict({**(self.options if defaults is None else defaults), **self.namespaces.get(ns, {})})

    def add_option(self, name: str, value: Any, short: bool = False, ns: str | None = None) -> None:
        target = self.options if ns is None else self.namespaces.setdefault(ns, OrderedDict())
        target[f"{'-' if short else '--'}{name}"] = value


class Node:
    """One worker: its name, its options, and the process that its pid file names."""

    def __init__(
        self,
        name: str,
        cmd: str | None = None,
        append: str | None = None,
        options: Mapping[str, Any] | None = None,
        extra_args: str | None = None,
    ) -> None:
        self.name = name
        self.cmd = cmd or f"-m {celery_exe('worker', '--detach')}"
        self.append = append
        self.extra_args = extra_args or ""
        self.options = self._complete(OrderedDict(options or {}))
        short, host = nodesplit(name)
        self.expander = build_expander(name, short or name, host)
        self.argv = self._make_argv()
        self._pid: int | None = None

    def _complete(self, options: Options) -> Options:
        defaults = (
            (("-n", "--hostname"), self.name),
            (("--pidfile",), _default(RUN_FOLDER, "%n.pid")),
            (("--logfile", "-f"), _default(LOG_FOLDER, "%n%I.log")),
            (("--executable",), sys.executable),
        )
        for names, value in defaults:
            if not any(name in options for name in names):
                options[names[0]] = value
        return options

    def _make_argv(self) -> tuple[str, ...]:
        own = OrderedDict(self.options)
        front = [
            format_opt(option, self.expander(str(own.pop(option) or ""))) for option in GLOBAL_OPTIONS if option in own
        ]
        before, _, command = self.cmd.rpartition(CELERY_EXE)
        command = command.strip()
        head = f"{before}{CELERY_EXE}" if CELERY_EXE in self.cmd else ""
        cmd = " ".join(part for part in (head, *front, command) if part)
        options = [format_opt(option, self.expander(str(value or ""))) for option, value in own.items()]
        return (cmd, *options, self.extra_args, *([self.append] if self.append else []))

    @classmethod
    def from_kwargs(cls, name: str, **kwargs: Any) -> Node:
        """A node whose options are given as Python writes them: `max_tasks_per_child=3`, `Q="x"`."""
        options = {
            f"-{key}" if len(key) == 1 else f"--{key.replace('_', '-')}": str(value) for key, value in kwargs.items()
        }
        return cls(name, options=options)

    def getopt(self, *alt: str) -> Any:
        """The value of the first of these options that the node has; raises KeyError if it has none."""
        for option in alt:
            if option in self.options:
                return self.options[option]
        raise KeyError(alt[0])

    @cached_property
    def argv_with_executable(self) -> tuple[str, ...]:
        return (self.executable, *self.argv)

    @cached_property
    def pidfile(self) -> str:
        return self.expander(self.getopt("--pidfile"))

    @cached_property
    def logfile(self) -> str:
        return self.expander(self.getopt("--logfile", "-f"))

    @cached_property
    def executable(self) -> str:
        return str(self.getopt("--executable"))

    @property
    def pid(self) -> int | None:
        """The process of the node; None if there is none."""
        if self._pid is not None:
            return self._pid
        try:
            return Pidfile(self.pidfile).read_pid()
        except ValueError:
            return None

    @pid.setter
    def pid(self, value: int | None) -> None:
        self._pid = value

    def alive(self) -> bool:
        """Whether its process runs."""
        if self._pid is not None:
            return is_running(self._pid)
        return Pidfile(self.pidfile).is_live()

    def send(self, sig: int, on_error: Callable[[Node], Any] | None = None) -> bool:
        """Signal its process; False, after *on_error*, if there is none. Raises PermissionError if it is not ours."""
        pid = self.pid
        if pid is None:
            return False
        try:
            os.kill(pid, sig)
        except ProcessLookupError:
            maybe_call(on_error, self)
            return False
        return True

    def start(self, env: Mapping[str, str] | None = None, **kwargs: Any) -> int:
        """Start it and wait until it is ready, or has said why it is not; its exit code. Makes its folders."""
        for path in (self.pidfile, self.logfile):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        return self._wait(self.argv, path=self.executable, env=env, **kwargs)

    def _wait(
        self,
        argv: Sequence[str],
        path: str = sys.executable,
        env: Mapping[str, str] | None = None,
        on_spawn: Callable[..., Any] | None = None,
        on_signalled: Callable[..., Any] | None = None,
        on_failure: Callable[..., Any] | None = None,
    ) -> int:
        command = self.prepare_argv(argv, path)
        maybe_call(on_spawn, self, argstr=shlex.join(command), env=env)
        process = subprocess.run(  # noqa: S603 - what the user asked for
            command, env=None if env is None else {**os.environ, **env}, check=False
        )
        return self.handle_process_exit(process.returncode, on_signalled=on_signalled, on_failure=on_failure)

    def handle_process_exit(
        self,
        retcode: int,
        on_signalled: Callable[..., Any] | None = None,
        on_failure: Callable[..., Any] | None = None,
    ) -> int:
        if retcode < 0:
            maybe_call(on_signalled, self, -retcode)
            return -retcode
        if retcode:
            maybe_call(on_failure, self, retcode)
        return retcode

    def prepare_argv(self, argv: Sequence[str], path: str) -> list[str]:
        """The words of the command line."""
        return shlex.split(" ".join([shlex.quote(path), *argv]), posix=not IS_WINDOWS)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name}>"


def _default(folder: str, file: str) -> str:
    """*file* in the folder the system has for such files, where this user may write there; else in the current one."""
    existing = Path(folder)
    while not existing.exists():
        existing = existing.parent
    return f"{folder}/{file}" if os.access(existing, os.W_OK) else file


class MultiParser:
    """Makes nodes of a parsed command line."""

    Node: type[Any] = Node

    def __init__(
        self,
        cmd: str = "celery worker",
        append: str = "",
        prefix: str = "",
        suffix: str = "",
        range_prefix: str = "celery",
    ) -> None:
        self.cmd, self.append, self.prefix, self.suffix, self.range_prefix = cmd, append, prefix, suffix, range_prefix

    def parse(self, p: NamespacedOptionParser) -> Iterator[Any]:
        """The nodes in their order. Raises KeyError for an option of a node that there is not."""
        options = OrderedDict(p.options)
        names, prefix = list(p.values), options.pop("--prefix", self.prefix) or ""
        range_prefix = options.pop("--range-prefix", None) or self.range_prefix
        hostname = options.pop("--hostname", options.pop("-n", None)) or gethostname()
        suffix = options.pop("--suffix", self.suffix) or hostname
        suffix = "" if suffix in {'""', "''"} else host_format(suffix)
        cmd, append = options.pop("--cmd", self.cmd), options.pop("--append", self.append)
        if len(names) == 1 and names[0].isdecimal():
            names, prefix = [str(number) for number in range(1, int(names[0]) + 1)], range_prefix
        own = self._own_options(p, names, prefix)
        for name in names:
            short, nodename, _ = build_nodename(name, prefix, suffix)
            yield self.Node(nodename, cmd, append, OrderedDict({**options, **own.get(short, {})}), p.passthrough)

    def _own_options(self, p: NamespacedOptionParser, names: Sequence[str], prefix: str) -> dict[str, Options]:
        """What single nodes have of their own, by their short names."""
        short = [build_nodename(name, prefix, "")[0] for name in names]
        own: dict[str, Options] = {}
        for ns, options in p.namespaces.items():
            for word in ns.split(","):
                for name in self._named(word.strip(), short, prefix):
                    own.setdefault(name, OrderedDict()).update(options)
        return own

    @staticmethod
    def _named(word: str, names: Sequence[str], prefix: str) -> list[str]:
        """The nodes that one word of a namespace means: a name, a place, or a range of places."""
        if word in names:
            return [word]
        if prefix and word.removeprefix(prefix) in names:
            return [word.removeprefix(prefix)]
        first, dash, last = word.partition("-")
        if not (first.isdecimal() and (not dash or last.isdecimal())):
            raise KeyError(f"No node is called {word!r}: there are {', '.join(names)}.")
        places = range(int(first), int(last or first) + 1)
        missing = [place for place in places if not 1 <= place <= len(names)]
        if missing:
            raise KeyError(f"No node at index {missing[0]}: there are {len(names)}, counted from 1.")
        return [names[place - 1] for place in places]


class Cluster(UserList[Node]):
    """Nodes that are started and stopped together. The callbacks are told of each step."""

    def __init__(
        self,
        nodes: Iterable[Node],
        cmd: str | None = None,
        env: Mapping[str, str] | None = None,
        **callbacks: Callable[..., Any] | None,
    ) -> None:
        super().__init__(nodes)
        self.nodes = self.data
        self.cmd = cmd or celery_exe("worker")
        self.env = env
        unknown = callbacks.keys() - CALLBACKS
        if unknown:
            raise TypeError(f"Cluster() has no callback {', '.join(sorted(unknown))}.")
        self._callbacks = callbacks

    def _tell(self, what: str, *args: Any) -> None:
        maybe_call(self._callbacks.get(what), *args)

    def start(self) -> list[int]:
        """Start all of them, one after the other; their exit codes."""
        return [self.start_node(node) for node in self]

    def start_node(self, node: Node) -> int:
        self._tell("on_node_start", node)
        code = self._start_node(node)
        self._tell("on_node_status", node, code)
        return code

    def _start_node(self, node: Node) -> int:
        return node.start(
            self.env,
            on_spawn=self._callbacks.get("on_child_spawn"),
            on_signalled=self._callbacks.get("on_child_signalled"),
            on_failure=self._callbacks.get("on_child_failure"),
        )

    def send_all(self, sig: int) -> None:
        """Signal those that run."""
        for node in self.getpids(on_down=self._callbacks.get("on_node_down")):
            self._tell("on_node_signal", node, signal_name(sig))
            node.send(sig, self._callbacks.get("on_node_signal_dead"))

    def kill(self) -> None:
        """End them at once; what they ran comes back when their leases have run out."""
        self.send_all(signal.SIGKILL)

    def restart(self, sig: int = signal.SIGTERM) -> list[int]:
        """Stop each and start it again when it is down; exit codes."""
        codes: list[int] = []

        def start_again(node: Node) -> None:
            self._tell("on_node_restart", node)
            code = self._start_node(node)
            self._tell("on_node_status", node, code)
            codes.append(code)

        self._stop_nodes(retry=2, on_down=start_again, sig=sig)
        return codes

    def stop(
        self, retry: float | None = None, callback: Callable[..., Any] | None = None, sig: int = signal.SIGTERM
    ) -> None:
        """Signal them. With *retry* wait until they are down, telling so every *retry* seconds."""
        self._stop_nodes(retry=retry, on_down=callback, sig=sig)

    def stopwait(self, retry: float = 2, callback: Callable[..., Any] | None = None, sig: int = signal.SIGTERM) -> None:
        """Signal them and wait until they are down."""
        self._stop_nodes(retry=retry, on_down=callback, sig=sig)

    def _stop_nodes(self, retry: float | None, on_down: Callable[..., Any] | None, sig: int) -> None:
        down = on_down or self._callbacks.get("on_node_down")
        running = list(self.getpids(on_down=down))
        if running:
            for node in self.shutdown_nodes(running, sig=sig, retry=retry):
                maybe_call(down, node)

    def shutdown_nodes(
        self, nodes: Sequence[Node], sig: int = signal.SIGTERM, retry: float | None = None
    ) -> Iterator[Node]:
        """Signal *nodes*; those that are down, as they go down, if they are waited for."""
        self._tell("on_stopping_preamble", nodes)
        waiting = []
        for node in nodes:
            node.pid = node.pid  # it is this process that is waited for, whoever comes after it
            self._tell("on_send_signal", node, signal_name(sig))
            if node.send(sig, self._callbacks.get("on_node_signal_dead")):
                waiting.append(node)
            else:
                node.pid = None
                yield node
        if not retry:
            for node in waiting:
                node.pid = None
            return
        self._tell("on_still_waiting_for", waiting)
        told = time.monotonic()
        while waiting:
            for node in [node for node in waiting if not node.alive()]:
                waiting.remove(node)
                node.pid = None
                self._tell("on_node_shutdown_ok", node)
                yield node
                if waiting:
                    self._tell("on_still_waiting_for", waiting)
            if waiting:
                if time.monotonic() - told >= retry:
                    self._tell("on_still_waiting_progress", waiting)
                    told = time.monotonic()
                time.sleep(LOOK_AGAIN)
        self._tell("on_still_waiting_end")

    def find(self, name: str) -> Node:
        """The node of this name; raises KeyError."""
        for node in self:
            if node.name == name:
                return node
        raise KeyError(name)

    def getpids(self, on_down: Callable[..., Any] | None = None) -> Iterator[Node]:
        """Those that run; *on_down* is called for the others."""
        for node in self:
            if node.alive():
                yield node
            else:
                maybe_call(on_down, node)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}({len(self)}): {[node.name for node in self]}>"


CALLBACKS = frozenset({
    "on_stopping_preamble", "on_send_signal", "on_still_waiting_for", "on_still_waiting_progress",
    "on_still_waiting_end", "on_node_start", "on_node_restart", "on_node_shutdown_ok", "on_node_status",
    "on_node_signal", "on_node_signal_dead", "on_node_down", "on_child_spawn", "on_child_signalled",
    "on_child_failure",
})  # fmt: skip
