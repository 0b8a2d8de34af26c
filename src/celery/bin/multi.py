"""`celery multi`: start, stop and restart several workers on this machine.

\b
celery multi start 3 -A proj -l INFO -c 4 -c:1 8     three nodes, celery1 to celery3; the first with 8 slots
celery multi start images video -A proj -Q:images i  nodes by name; options of one of them after a colon
celery multi restart 3 -A proj -l INFO               the same arguments again: nothing is kept but the pid files
celery multi stopwait 3                              stop, and wait until they are down
celery multi kill 3                                  at once; what they ran comes back when the leases have run out
celery multi show 3 -A proj                          the command lines it would run
celery multi get celery1@host 3 -A proj              the one of a node
celery multi names 3                                 the names
celery multi expand '%n at %h' 3                     a text for each node; also %d, %i, %I and %p
"""

from __future__ import annotations

import inspect
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, wraps
from typing import IO, Any

import click

from celery import VERSION_BANNER
from celery.apps.multi import GLOBAL_FLAGS, Cluster, MultiParser, NamespacedOptionParser, Node, format_opt
from celery.bin.base import CeleryCommand, CLIContext
from celery.bin.worker import worker as worker_command
from celery.platforms import EX_FAILURE, EX_OK, EX_USAGE, isatty, signals
from celery.utils.term import colored
from celery.utils.text import pluralize

__all__ = ("MultiTool",)

SHARED = (
    ("app", "-A"),
    ("broker", "-b"),
    ("result_backend", "--result-backend"),
    ("loader", "--loader"),
    ("config", "--config"),
)
"""Options that may stand before `multi`, and how the nodes get them."""
USAGE = """usage: {prog_name} start <node1 node2 nodeN|range> [worker options]
       {prog_name} stop <n1 n2 nN|range> [-SIG (default: -TERM)]
       {prog_name} stopwait <n1 n2 nN|range> [-SIG]
       {prog_name} restart <n1 n2 nN|range> [-SIG] [worker options]
       {prog_name} kill <n1 n2 nN|range>

       {prog_name} show <n1 n2 nN|range> [worker options]
       {prog_name} get hostname <n1 n2 nN|range> [worker options]
       {prog_name} names <n1 n2 nN|range>
       {prog_name} expand template <n1 n2 nN|range>
       {prog_name} help

additional options (must appear after command name):

    * --nosplash:   Don't display program info.
    * --quiet:      Don't show as much output.
    * --verbose:    Show more output.
    * --no-color:   Don't display colors.
"""


class TermLogger:
    """What the tool writes, and how much of it."""

    splash_text = "celery multi v{version}"
    splash_context = {"version": VERSION_BANNER}
    retcode = EX_OK
    quiet = verbose = nosplash = no_color = False

    def setup_terminal(
        self,
        stdout: IO[str] | None,
        stderr: IO[str] | None,
        nosplash: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        no_color: bool = False,
        **kwargs: Any,
    ) -> None:
        self.stdout = stdout or sys.stdout
        self.stderr = stderr or sys.stderr
        self.nosplash, self.quiet, self.verbose, self.no_color = nosplash, quiet, verbose, no_color

    def ok(self, m: object, newline: bool = True, file: IO[str] | None = None) -> int:
        self.say(m, newline=newline, file=file)
        return EX_OK

    def say(self, m: object, newline: bool = True, file: IO[str] | None = None) -> None:
        stream = file or self.stdout
        stream.write(f"{m}\n" if newline else str(m))
        stream.flush()

    def carp(self, m: object, newline: bool = True, file: IO[str] | None = None) -> None:
        """Say what is wrong."""
        self.say(m, newline=newline, file=file or self.stderr)

    def error(self, msg: str | None = None) -> int:
        """Say what is wrong, and how the tool is used; an exit code."""
        if msg:
            self.carp(msg)
        self.usage()
        return EX_FAILURE

    def info(self, msg: object, newline: bool = True) -> None:
        """Only with --verbose."""
        if self.verbose:
            self.note(msg, newline=newline)

    def note(self, msg: object, newline: bool = True) -> None:
        """Not with --quiet."""
        if not self.quiet:
            self.say(str(msg), newline=newline)

    def usage(self) -> None:
        self.splash()
        self.say(USAGE.format(prog_name=f"celery {self.prog_name}"))

    def splash(self) -> None:
        if not self.nosplash:
            self.note(self.colored.cyan(self.splash_text.format(**self.splash_context)))

    prog_name = "multi"

    @cached_property
    def colored(self) -> colored:
        return colored(enabled=not self.no_color and bool(isatty(self.stdout)))


def splash(fun: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator for commands that say who they are first."""

    @wraps(fun)
    def command(self: MultiTool, *args: Any, **kwargs: Any) -> Any:
        self.splash()
        return fun(self, *args, **kwargs)

    return command


def using_cluster(fun: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator for commands that are given the cluster their arguments describe."""

    @wraps(fun)
    def command(self: MultiTool, *argv: str, **kwargs: Any) -> Any:
        return fun(self, self.cluster_from_argv(argv), **kwargs)

    return command


def using_cluster_and_sig(fun: Callable[..., Any]) -> Callable[..., Any]:
    """The same for those that are given a signal too."""

    @wraps(fun)
    def command(self: MultiTool, *argv: str, **kwargs: Any) -> Any:
        parser, cluster = self._cluster_from_argv(argv)
        return fun(self, cluster, self._find_sig_argument(parser), **kwargs)

    return command


class MultiTool(TermLogger):
    """The program: `MultiTool().execute_from_commandline(["celery", "multi", "start", "3"])` gives its exit code."""

    MultiParser = MultiParser
    OptionParser = NamespacedOptionParser
    reserved_options = [
        ("--nosplash", "nosplash"),
        ("--quiet", "quiet"),
        ("-q", "quiet"),
        ("--verbose", "verbose"),
        ("--no-color", "no_color"),
    ]
    commands = (
        "start", "stop", "stopwait", "stop_verify", "restart", "kill", "show", "get", "names", "expand", "help",
    )  # fmt: skip

    def __init__(
        self,
        env: dict[str, str] | None = None,
        cmd: str | None = None,
        fh: IO[str] | None = None,
        stdout: IO[str] | None = None,
        stderr: IO[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.env = env
        self.cmd = cmd
        self.setup_terminal(stdout or fh, stderr, **kwargs)

    def execute_from_commandline(self, argv: Sequence[str], cmd: str | None = None) -> int:
        """Run a command: *argv* is the program's name, then the command and its arguments."""
        self.cmd = cmd or self.cmd
        words = self._handle_reserved_options(list(argv))
        if len(words) < 2 or words[1].startswith("-"):
            return self.error("Which command? See the usage below." if len(words) > 1 else None)
        return self.call_command(words[1], words[2:])

    def validate_arguments(self, argv: Sequence[str]) -> bool:
        return len(argv) > 1 and not argv[1].startswith("-")

    def call_command(self, command: str, argv: Sequence[str]) -> int:
        name = command.replace("-", "_")
        if name not in self.commands:
            return self.error(f"Invalid command: {command}")
        handler = getattr(self, name)
        try:
            return handler(*argv) or EX_OK
        except TypeError as error:
            try:
                inspect.signature(handler).bind(*argv)
            except TypeError:
                return self.error(f"Too few arguments for {command!r}.")
            raise error from None
        except KeyError as error:
            self.carp(str(error.args[0]) if error.args else repr(error))
            return EX_USAGE

    def _handle_reserved_options(self, argv: list[str]) -> list[str]:
        end = argv.index("--") if "--" in argv else len(argv)
        ours, theirs = argv[:end], argv[end:]
        for option, attribute in self.reserved_options:
            if option in ours:
                ours = [word for word in ours if word != option]
                setattr(self, attribute, True)
        return ours + theirs

    # -- commands --------------------------------------------------------------------------------------------------

    @splash
    @using_cluster
    def start(self, cluster: Cluster) -> int:
        self.note("> Starting nodes...")
        return int(any(cluster.start()))

    @splash
    @using_cluster_and_sig
    def stop(self, cluster: Cluster, sig: int, **kwargs: Any) -> None:
        cluster.stop(sig=sig, **kwargs)

    @splash
    @using_cluster_and_sig
    def stopwait(self, cluster: Cluster, sig: int, **kwargs: Any) -> None:
        cluster.stopwait(sig=sig, **kwargs)

    stop_verify = stopwait

    @splash
    @using_cluster_and_sig
    def restart(self, cluster: Cluster, sig: int, **kwargs: Any) -> int:
        return int(any(cluster.restart(sig=sig, **kwargs)))

    @splash
    @using_cluster
    def kill(self, cluster: Cluster) -> None:
        cluster.kill()

    @using_cluster
    def names(self, cluster: Cluster) -> None:
        self.say("\n".join(node.name for node in cluster))

    @using_cluster
    def show(self, cluster: Cluster) -> None:
        self.say("\n".join(" ".join(filter(None, node.argv_with_executable)) for node in cluster))

    def get(self, wanted: str, *argv: str) -> int:
        try:
            node = self.cluster_from_argv(argv).find(wanted)
        except KeyError:
            self.carp(f"There is no node called {wanted!r}.")
            return EX_FAILURE
        return self.ok(" ".join(filter(None, node.argv)))

    def expand(self, template: str, *argv: str) -> None:
        for node in self.cluster_from_argv(argv):
            self.say(node.expander(template))

    def help(self, *argv: str) -> None:
        self.say((__doc__ or "").replace("\b\n", "").strip())

    # -- from words to nodes ---------------------------------------------------------------------------------------

    def cluster_from_argv(self, argv: Sequence[str], cmd: str | None = None) -> Cluster:
        return self._cluster_from_argv(argv, cmd=cmd)[1]

    def _cluster_from_argv(self, argv: Sequence[str], cmd: str | None = None) -> tuple[NamespacedOptionParser, Cluster]:
        flags, valued = worker_options()
        parser = self.OptionParser(argv, flags=flags, valued=valued)
        parser.parse()
        kept = {name: value for name, value in parser.options.items() if _signal(name) is None}
        chosen = next((name for name in parser.options if _signal(name) is not None), None)
        parser.options.clear()
        parser.options.update(kept)
        self._chosen = chosen
        nodes = self.MultiParser(cmd=cmd or self.cmd or "-m celery worker --detach").parse(parser)
        return parser, self.Cluster(list(nodes), cmd=cmd)

    def Cluster(self, nodes: Iterable[Node], cmd: str | None = None) -> Cluster:  # noqa: N802 - the public name
        """A cluster whose steps are told here."""
        names = [name for name in dir(self) if name.startswith("on_")]
        return Cluster(nodes, cmd=cmd, env=self.env, **{name: getattr(self, name) for name in names})

    def _find_sig_argument(self, p: NamespacedOptionParser, default: int = signal.SIGTERM) -> int:
        found = _signal(self._chosen) if self._chosen else None
        return default if found is None else found

    _chosen: str | None = None

    # -- what happens to nodes -------------------------------------------------------------------------------------

    def on_stopping_preamble(self, nodes: Sequence[Node]) -> None:
        self.note(self.colored.blue("> Stopping nodes..."))

    def on_send_signal(self, node: Node, sig: str) -> None:
        self.note(f"\t> {node.name}: {sig} -> {node.pid}")

    def on_still_waiting_for(self, nodes: Sequence[Node]) -> None:
        if nodes:
            pids = ", ".join(str(node.pid) for node in nodes)
            many = f"{len(nodes)} {pluralize(len(nodes), 'node')}"
            self.note(self.colored.blue(f"> Waiting for {many} -> {pids}..."), newline=False)

    def on_still_waiting_progress(self, nodes: Sequence[Node]) -> None:
        self.note(".", newline=False)

    def on_still_waiting_end(self) -> None:
        self.note("")

    def on_node_signal_dead(self, node: Node) -> None:
        self.note(f"Could not signal {node.name} ({node.pid}): No such process")

    def on_node_start(self, node: Node) -> None:
        self.note(f"\t> {node.name}: ", newline=False)

    def on_node_restart(self, node: Node) -> None:
        self.note(self.colored.blue(f"> Restarting node {node.name}: "), newline=False)

    def on_node_down(self, node: Node) -> None:
        self.note(f"> {node.name}: {self.DOWN}")

    def on_node_shutdown_ok(self, node: Node) -> None:
        self.note(f"\n\t> {node.name}: {self.OK}")

    def on_node_status(self, node: Node, retval: int) -> None:
        self.note(self.FAILED if retval else self.OK)

    def on_node_signal(self, node: Node, sig: str) -> None:
        self.note(f"Sending {sig} to node {node.name} ({node.pid})")

    def on_child_spawn(self, node: Node, argstr: str, env: Any) -> None:
        self.info(f"  {argstr}")

    def on_child_signalled(self, node: Node, signum: int) -> None:
        self.note(f"* Child was terminated by signal {signum}")

    def on_child_failure(self, node: Node, retcode: int) -> None:
        self.note(f"* Child terminated with exit code {retcode}")

    @cached_property
    def OK(self) -> str:  # noqa: N802
        return str(self.colored.green("OK"))

    @cached_property
    def FAILED(self) -> str:  # noqa: N802
        return str(self.colored.red("FAILED"))

    @cached_property
    def DOWN(self) -> str:  # noqa: N802
        return str(self.colored.magenta("DOWN"))


def _signal(option: str | None) -> int | None:
    """The number of a signal given as an option: -9, -KILL or -SIGKILL."""
    name = (option or "").removeprefix("-")
    if name.isdecimal():
        return int(name)
    return signals.signum(name) if name.isupper() and len(name) > 1 and signals.supported(name) else None


def worker_options() -> tuple[frozenset[str], frozenset[str]]:
    """The options of `celery worker` that take no value, and those that take one."""
    flags: set[str] = set(GLOBAL_FLAGS)
    valued: set[str] = set()
    for parameter in worker_command.params:
        if isinstance(parameter, click.Option):
            (flags if parameter.is_flag else valued).update(parameter.opts)
    return frozenset(flags), frozenset(valued)


def main() -> None:
    """The tool alone: `python -m celery.bin.multi`."""
    sys.exit(MultiTool().execute_from_commandline(sys.argv))


@click.command(
    cls=CeleryCommand,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.pass_context
def multi(ctx: click.Context) -> None:
    """Start multiple worker instances.

    Give it a command: start, stop, stopwait, restart, kill, show, get, names, expand or help.
    """
    shared: CLIContext = ctx.obj
    tool = MultiTool(quiet=shared.quiet, no_color=shared.no_color)
    given = ctx.parent.params if ctx.parent is not None else {}
    front = [
        word for name, option in SHARED if given.get(name) for word in shlex.split(format_opt(option, given[name]))
    ]  # not the folder: we are there already
    words = list(ctx.args)
    at = 2 if words[:1] in (["get"], ["expand"]) else 1
    ctx.exit(tool.execute_from_commandline(["multi", *words[:at], *front, *words[at:]]))


if __name__ == "__main__":
    main()
