"""`celery events`, as its users run it."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path
from struct import pack
from termios import TIOCSWINSZ

import pytest

from celery.events.members import Task, Worker
from celery.events.screen import details, fit, page, step, task_line, widths
from celery.events.state import State
from cli.conftest import PROJECT, Program

PATIENCE = 30.0


class Terminal:
    """A program in a terminal of its own: what it writes, and keys for it."""

    def __init__(self, *command: str) -> None:
        self.master, slave = pty.openpty()
        ioctl(slave, TIOCSWINSZ, pack("HHHH", 30, 140, 0, 0))
        env = {**os.environ, "TERM": "xterm"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "celery", *command],
            cwd=PROJECT, env=env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.written = b""

    def read(self, seconds: float = 0.05) -> None:
        while select.select([self.master], [], [], seconds)[0]:
            try:
                more = os.read(self.master, 65536)
            except OSError:  # it has ended
                return
            if not more:
                return
            self.written += more

    def wait(self, condition: Callable[[bytes], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition(self.written):
            self.read()
            if time.monotonic() > deadline or (self.process.poll() is not None and not condition(self.written)):
                pytest.fail(f"not on the screen: {self.written[-3000:]!r}")

    def press(self, keys: str) -> None:
        self.written = b""
        os.write(self.master, keys.encode())

    def end(self) -> int:
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None and time.monotonic() < deadline:
            self.read()
        code = self.process.wait(1)
        self.read()  # what it has written last
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
        os.close(self.master)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def run(*command: str) -> Terminal:
        made.append(Terminal(*command))
        return made[-1]

    yield run
    for each in made:
        each.close()


@contextmanager
def printed(folder: Path, *command: str) -> Iterator[Callable[[str], str]]:
    """A command that runs while the block lasts; gives what it has printed, once that has some text in it."""
    out = folder / "printed"
    with out.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", *command], cwd=PROJECT, env=os.environ, stdout=output, stderr=output
        )

    def wait(text: str) -> str:
        deadline = time.monotonic() + PATIENCE
        while text not in out.read_text():
            if time.monotonic() > deadline or process.poll() is not None:
                pytest.fail(f"{text!r} was not printed, but {out.read_text()}")
            time.sleep(0.05)
        return out.read_text()

    try:
        yield wait
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait(10)


def test_dump_and_camera(celery: Program, tmp_path: Path) -> None:
    camera = ["events", "--camera", "camera.Camera", "--freq", "0.2", "-l", "INFO"]
    (tmp_path / "a").mkdir()
    with (
        printed(tmp_path, "-A", "single", "events", "--dump") as dumped,
        printed(tmp_path / "a", "-A", "single", *camera) as pictures,
        celery.worker("-E", "-c", "1", "-P", "solo", "-n", "w@here"),
    ):
        dumped("w@here")
        pictures("w@here")  # both listen
        celery("-A", "single", "call", "single.add", "-a", "[1, 2]")
        said = dumped("task succeeded: single.add(")
        assert "result=3" in said
        assert "Taking snapshots with camera.Camera (every 0.2 secs.)" in pictures("single.add SUCCESS")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--camera", "nowhere.Camera"), "There is no camera 'nowhere.Camera'"),
        (("--camera", "single.Nothing"), "There is no camera 'single.Nothing'"),
        ((), "The live view needs a terminal"),
    ],
)
def test_mistakes_are_told_in_one_sentence(celery: Program, arguments: tuple[str, ...], sentence: str) -> None:
    said = celery("-A", "single", "events", *arguments)
    assert said.code == 1
    assert sentence in said.err
    assert "Traceback" not in said.text


def wait_until(condition: Callable[[], object], why: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, why
        time.sleep(0.05)


def test_a_camera_in_the_background(celery: Program, tmp_path: Path) -> None:
    pidfile, log = tmp_path / "camera.pid", tmp_path / "camera.log"
    said = celery(
        "-A", "single", "events", "--camera", "camera.Camera", "-l", "INFO", "--detach", f"--pidfile={pidfile}",
        f"--logfile={log}",
    )  # fmt: skip
    assert said.code == 0, said.text
    wait_until(lambda: log.exists() and "Taking snapshots" in log.read_text(), "it takes snapshots")
    os.kill(int(pidfile.read_text()), signal.SIGTERM)
    wait_until(lambda: not pidfile.exists(), f"it ends, and takes its file with it: {log.read_text()}")


def test_the_live_view(celery: Program, terminal: Callable[..., Terminal]) -> None:
    with celery.worker("-E", "-c", "1", "-P", "threads", "-n", "w@here"):
        view = terminal("-A", "single", "events")
        view.wait(lambda written: b"w@here" in written)
        celery("-A", "single", "call", "single.add", "-a", "[20, 22]")
        view.wait(lambda written: b"single.add" in written and b"CESS" in written)  # what changed is drawn
        view.press("i")
        view.wait(lambda written: b"Task details" in written and b"[20, 22]" in written)
        view.press(" ")
        view.wait(lambda written: b"WORKER" in written)
        view.press("r")
        view.wait(lambda written: b"Result for" in written and b"42" in written)
        view.press(" ")
        view.wait(lambda written: b"WORKER" in written)
        revoke(view)
        view.press(" ")
        view.press("q")
        assert view.end() == 0
        assert b"\x1b[?1049l" in view.written, "the terminal was given back"


def revoke(view: Terminal) -> None:
    """Revoke the task that is selected; the view waits a second for the worker's answer, which may take longer."""
    answers = b"flagged as", b"No replies"  # the first is folded there
    deadline = time.monotonic() + PATIENCE
    while answers[0] not in view.written:
        assert time.monotonic() < deadline, "no worker has answered"
        view.press(" ")
        view.press("c")
        view.wait(lambda written: b"Remote Control Command Replies" in written and any(a in written for a in answers))


class TestScreen:
    """The live view without a terminal."""

    @pytest.fixture
    def state(self) -> State:
        state = State()
        now = time.time()
        for number, type in enumerate(["received", "started", "succeeded"]):
            state.event({
                "type": f"task-{type}", "uuid": "a" * 36, "hostname": "w@h", "timestamp": now, "local_received": now,
                "clock": number, "name": "proj.add", "result": "3",
            })  # fmt: skip
        return state

    @pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60), (40, 10), (20, 6)])
    def test_it_fills_the_screen_and_no_more(self, state: State, width: int, height: int) -> None:
        lines = page(state, width, height, title="celery events", help="q:quit", now=0.0)
        assert len(lines) == height
        assert {len(line.text) for line in lines} == {width}

    def test_tasks_and_workers(self, state: State) -> None:
        lines = page(state, 120, 24, title="celery events", help="q:quit", now=0.0)
        assert "workers 1/1   tasks 1   events 3" in lines[0].text
        (task,) = [line for line in lines if line.uuid]
        assert ("proj.add" in task.text, "SUCCESS" in task.text, task.style) == (True, True, "good")
        assert any("w@h" in line.text and "online" in line.text for line in lines)

    def test_long_names_are_cut_where_it_hurts_least(self) -> None:
        task = Task("u" * 36, name="a.very.long.path.of.modules.that.goes.on.add", worker=Worker("w@h"))
        assert "add" in task_line(task, 100).text
        assert widths(60).task >= 15

    def test_all_that_is_known(self, state: State) -> None:
        shown = "\n".join(details(state.tasks["a" * 36]))
        assert "state: SUCCESS" in shown
        assert "result: 3" in shown
        assert "worker: w@h" in shown

    def test_selecting(self) -> None:
        assert step(["a", "b", "c"], None, 1) == "a"
        assert step(["a", "b", "c"], "a", 1) == "b"
        assert step(["a", "b", "c"], "c", 1) == "c"
        assert step(["a", "b"], "gone", -1) == "a"
        assert step([], "a", 1) is None

    def test_control_characters_do_not_reach_the_terminal(self) -> None:
        assert fit("a\x1b[31mb\n", 10) == "a·[31mb·  "
