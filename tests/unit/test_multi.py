"""Names and options of several workers, from one command line."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery.apps import multi
from celery.apps.multi import Cluster, MultiParser, NamespacedOptionParser, Node
from celery.bin.multi import MultiTool
from celery.utils.nodenames import gethostname

HOST = gethostname()


def nodes(line: str, **parser: Any) -> dict[str, list[str]]:
    """The nodes of a command line, each with its options but for those that all have."""
    options = NamespacedOptionParser(shlex.split(line), flags=["-E"], valued=["--time-limit"])
    options.parse()
    own = ("-n", "--pidfile=", "--logfile=", "--executable=")
    return {
        node.name: [word for word in node.argv[1:] if word and not word.startswith(own)]
        for node in MultiParser(**parser).parse(options)
    }


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("3", [f"celery{number}@{HOST}" for number in (1, 2, 3)]),
        ("2 --range-prefix=w", [f"w1@{HOST}", f"w2@{HOST}"]),
        ("a b", [f"a@{HOST}", f"b@{HOST}"]),
        ("a@x b", ["a@x", f"b@{HOST}"]),
        ("a@%h", [f"a@{HOST}"]),
        ("a b --prefix=p --suffix=s", ["pa@s", "pb@s"]),
        ("2 --hostname=foo.com", ["celery1@foo.com", "celery2@foo.com"]),
        ("2 5", [f"2@{HOST}", f"5@{HOST}"]),
        ("0", []),
        ("", []),
    ],
)
def test_names(line: str, names: list[str]) -> None:
    assert list(nodes(line)) == names


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("3 -c 3 -c:1 10", ["-c 10", "-c 3", "-c 3"]),
        ("3 -c:1,3 10", ["-c 10", "", "-c 10"]),
        ("3 -c 1 -c:2-3 10", ["-c 1", "-c 10", "-c 10"]),
        ("3 -c:2,3 5 -c:1-2 7", ["-c 7", "-c 7", "-c 5"]),
        ("a b -Q:b images", ["", "-Q images"]),
        ("2 -Q:celery2 images", ["", "-Q images"]),
        ("a b --bar=1 --loglevel:b=DEBUG", ["--bar=1", "--bar=1 --loglevel=DEBUG"]),
        ("-E a --time-limit 5", ["-E --time-limit=5"]),
        ("a --foo -- -x 'y z'", ["--foo -- -x 'y z'"]),
    ],
)
def test_options_of_some_nodes(line: str, options: list[str]) -> None:
    assert [" ".join(words) for words in nodes(line).values()] == options


@pytest.mark.parametrize(
    ("line", "problem"), [("2 -c:3 1", "No node at index 3: there are 2"), ("a b -Q:c x", "No node is called 'c'")]
)
def test_options_of_nodes_that_are_not_there(line: str, problem: str) -> None:
    with pytest.raises(KeyError, match=problem):
        nodes(line)


def test_global_options_stand_before_the_command() -> None:
    node = Node("a@h", options={"-c": "3", "-A": "my proj", "--broker": "redis://x"})
    assert node.argv[0] == "-m celery --broker=redis://x -A 'my proj' worker --detach"
    assert node.prepare_argv(node.argv, "/py")[:6] == ["/py", "-m", "celery", "--broker=redis://x", "-A", "my proj"]


def test_files_are_named_after_their_node() -> None:
    node = Node("foo@h.d", options={"--pidfile": "/x/%n.pid", "--logfile": "/x/%d-%n%I.log", "--executable": "/py"})
    assert (node.pidfile, node.logfile, node.executable) == ("/x/foo.pid", "/x/h.d-foo%I.log", "/py")
    assert node.argv_with_executable[0] == "/py"
    assert node.getopt("-f", "--logfile") == "/x/%d-%n%I.log"
    with pytest.raises(KeyError):
        node.getopt("-z")


def test_files_are_here_where_the_folders_of_the_system_are_closed(tmp_path: Path) -> None:
    assert multi._default(str(tmp_path / "run" / "celery"), "%n.pid") == f"{tmp_path}/run/celery/%n.pid"
    if os.getuid():
        tmp_path.chmod(0o500)
        assert multi._default(str(tmp_path / "run" / "celery"), "%n.pid") == "%n.pid"


def test_nodes_of_keyword_arguments() -> None:
    argv = Node.from_kwargs("foo@bar", loglevel="INFO", Q="x", max_tasks_per_child=3).argv
    assert {"--loglevel=INFO", "-Q x", "--max-tasks-per-child=3", "-n foo@bar"} <= set(argv)


def test_small_words() -> None:
    assert multi.build_nodename("a", "p", "s") == ("a", "pa@s", "s")
    assert multi.build_nodename("a@b", "p", "s") == ("a", "a@b", "b")
    assert multi.build_expander("n@h.d", "n", "h.d")("%n %h %d %i %I %p %%") == "n n@h.d h.d %i %I n@h.d %"
    assert multi.format_opt("--foo", "b r") == "--foo='b r'"
    assert (multi.format_opt("-f", "bar"), multi.format_opt("-f", None)) == ("-f bar", "-f")
    assert multi.celery_exe("a", "b") == "celery a b"
    with pytest.raises(TypeError, match="on_nothing"):
        Cluster([], on_nothing=print)


# --- processes --------------------------------------------------------------------------------------------------------

SLEEPER = """
import pathlib, signal, sys
# in place of celery
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # until it is waited for
pathlib.Path(sys.argv[1]).write_text(f"{__import__('os').getpid()}\\n")
print(1, flush=True)
signal.sigwait({signal.SIGTERM})
"""


class Sleeper(Node):
    """A node whose program writes its pid file and sleeps until it is told to end."""

    children: list[subprocess.Popen[str]] = []

    def start(self, env: Any = None, **kwargs: Any) -> int:
        child = subprocess.Popen([sys.executable, "-c", SLEEPER, self.pidfile], stdout=subprocess.PIPE, text=True)
        self.children.append(child)
        threading.Thread(target=child.wait, daemon=True).start()  # somebody collects it when it ends, as init would
        assert child.stdout is not None
        child.stdout.readline()
        return 0


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr(Sleeper, "children", [])
    heard: list[str] = []

    def hear(what: str) -> Any:
        return lambda *args, **kwargs: heard.append(what)

    options = {"--pidfile": str(tmp_path / "%n.pid")}
    made = Cluster(
        [Sleeper("a@h", options=options), Sleeper("b@h", options=options)],
        **{name: hear(name) for name in multi.CALLBACKS},
    )
    made.heard = heard  # type: ignore[attr-defined]
    yield made
    for child in Sleeper.children:
        child.kill()
        child.wait()
        child.stdout.close()  # type: ignore[union-attr]


def test_a_cluster_starts_restarts_and_stops(cluster: Any) -> None:
    assert cluster.start() == [0, 0]
    assert [node.alive() for node in cluster] == [True, True]
    before = [node.pid for node in cluster]
    assert cluster.restart() == [0, 0]
    assert not set(before) & {node.pid for node in cluster}
    assert cluster.find("b@h").alive()
    cluster.stopwait(retry=5)
    assert [node.alive() for node in cluster] == [False, False]
    assert cluster.heard.count("on_node_down") == 2
    cluster.stop()
    assert cluster.heard.count("on_node_down") == 4
    with pytest.raises(KeyError):
        cluster.find("c@h")


def test_a_cluster_is_killed(cluster: Any) -> None:
    cluster.start()
    cluster.kill()
    for child in Sleeper.children:
        assert child.wait(10) == -9
    assert cluster.heard.count("on_node_signal") == 2
    assert not any(node.send(0) for node in cluster)


def test_a_node_of_which_there_is_no_pid_file_is_down(cluster: Any) -> None:
    node = cluster[0]
    assert (node.pid, node.alive(), node.send(15)) == (None, False, False)
    Path(node.pidfile).write_text("garbage")
    assert (node.pid, node.alive()) == (None, False)


# --- the program ------------------------------------------------------------------------------------------------------


def tool(*words: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    code = MultiTool(stdout=out, stderr=err).execute_from_commandline(["multi", *words])
    return code, out.getvalue(), err.getvalue()


def test_names_and_texts() -> None:
    assert tool("names", "2") == (0, f"celery1@{HOST}\ncelery2@{HOST}\n", "")
    assert tool("expand", "%n-%i", "2") == (0, "celery1-%i\ncelery2-%i\n", "")


def test_what_would_be_run() -> None:
    code, out, _ = tool("show", "2", "-A", "proj", "-c", "3", "--pidfile=/x/%n.pid")
    assert code == 0
    assert [line.split()[1:6] for line in out.splitlines()] == [["-m", "celery", "-A", "proj", "worker"]] * 2
    assert "--pidfile=/x/celery2.pid" in out
    assert tool("get", f"celery2@{HOST}", "2", "-c", "3")[1].startswith("-m celery worker --detach -c 3")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("frob", "x"), "Invalid command: frob"),
        (("get",), "Too few arguments for 'get'."),
        (("get", "x", "2"), "There is no node called 'x'."),
        (("names", "2", "-c:3", "1"), "No node at index 3"),
    ],
)
def test_mistakes(words: tuple[str, ...], problem: str) -> None:
    code, _, err = tool(*words)
    assert code != 0
    assert problem in err


@pytest.mark.parametrize("word", ["-9", "-KILL", "-SIGKILL"])
def test_signals_are_options(word: str) -> None:
    it = MultiTool(stdout=io.StringIO())
    parser, cluster = it._cluster_from_argv(["a", word, "b", "-A", "proj"])
    assert it._find_sig_argument(parser) == 9
    assert [node.name for node in cluster] == [f"a@{HOST}", f"b@{HOST}"]
    assert word not in cluster[0].options


def test_quiet_nosplash_and_help() -> None:
    assert "celery multi v" in tool("stop", "a", "--pidfile=/nowhere/%n.pid")[1]
    assert "celery multi v" not in tool("stop", "a", "--nosplash", "--pidfile=/nowhere/%n.pid")[1]
    assert tool("stop", "a", "--quiet", "--pidfile=/nowhere/%n.pid") == (0, "", "")
    assert "multi start 3 -A proj" in tool("help")[1]
    assert "usage: celery multi start" in tool()[1]
