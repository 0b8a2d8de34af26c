"""The live view of a cluster in a terminal: `celery events`."""

from __future__ import annotations

import curses
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from celery import VERSION_BANNER, states
from celery._state import app_or_default
from celery.events.screen import Line, details, fit, page, step
from celery.exceptions import BrokerError

if TYPE_CHECKING:
    from celery.app.base import Celery

__all__ = ("CursesMonitor", "evtop")

BORDER_SPACING = 4
LEFT_BORDER_OFFSET = 3
UUID_WIDTH = 36
STATE_WIDTH = 8
TIMESTAMP_WIDTH = 8
MIN_WORKER_WIDTH = 15
MIN_TASK_WIDTH = 16
STATUS_SCREEN = "events: {s.event_count} tasks:{s.task_count} workers:{w_alive}/{w_all}\n"
RETRY_EVERY = 2.0
ESCAPE = 27


class CursesMonitor:
    """Draws *state* and does what keys ask for. One thread draws; `keymap` (key -> function) adds keys."""

    keymap: dict[str, Callable[[], Any]] = {}
    keyalias = {curses.KEY_DOWN: "J", curses.KEY_UP: "K", curses.KEY_ENTER: "I", 10: "I", 13: "I"}
    help_title = "Keys: "
    help = "j:down k:up i:info t:traceback r:result c:revoke x:terminate l:rate limit q:quit"
    greet = f"celery events {VERSION_BANNER}"
    info_str = "Info: "
    online_str = "Workers online: "
    selected_str = "Selected: "
    screen_delay = 10
    """Hundredths of a second for which a key is waited for; the screen is drawn anew after each wait."""
    selected_task: str | None = None
    selected_position = 0
    win: Any = None

    def __init__(self, state: Any, app: Celery, keymap: dict[str, Callable[[], Any]] | None = None) -> None:
        self.app = app
        self.state = state
        self.done = threading.Event()
        """Set when the user has had enough."""
        self._lock = threading.RLock()
        self._lines: list[Line] = []
        self._colors: dict[str, int] = {}
        keys: dict[str, Callable[[], Any]] = {
            "J": self.move_selection_down,
            "K": self.move_selection_up,
            "C": self.revoke_selection,
            "X": self.terminate_selection,
            "T": self.selection_traceback,
            "R": self.selection_result,
            "I": self.selection_info,
            "L": self.selection_rate_limit,
            "Q": self.done.set,
        }
        self.keymap = {**keys, **self.keymap, **(keymap or {})}

    # -- the terminal ----------------------------------------------------------------------------------------------

    def init_screen(self) -> None:
        """Take over the terminal."""
        with self._lock:
            os.environ.setdefault("ESCDELAY", "25")
            self.win = curses.initscr()
            curses.noecho()
            curses.cbreak()
            self.win.keypad(True)
            self.win.timeout(self.screen_delay * 10)
            with suppress(curses.error):
                curses.curs_set(0)
            self._colors = self._find_colors()

    def resetscreen(self) -> None:
        """Give the terminal back."""
        with self._lock:
            if self.win is not None:
                self.win.keypad(False)
                curses.nocbreak()
                curses.echo()
                curses.endwin()
                self.win = None

    @staticmethod
    def _find_colors() -> dict[str, int]:
        styles = {"bar": curses.A_REVERSE, "heading": curses.A_BOLD, "faint": curses.A_DIM}
        with suppress(curses.error):
            curses.start_color()
            curses.use_default_colors()
            hues = {"good": curses.COLOR_GREEN, "bad": curses.COLOR_RED, "odd": curses.COLOR_YELLOW}
            hues["busy"] = curses.COLOR_CYAN
            for number, (style, color) in enumerate(hues.items(), 1):
                curses.init_pair(number, color, -1)
                styles[style] = curses.color_pair(number)
        return styles

    @property
    def screen_width(self) -> int:
        return int(self.win.getmaxyx()[1])

    @property
    def screen_height(self) -> int:
        return int(self.win.getmaxyx()[0])

    @property
    def display_width(self) -> int:
        return self.screen_width - 1

    @property
    def display_height(self) -> int:
        return self.screen_height

    @property
    def limit(self) -> int:
        """Tasks that there is room for."""
        return self.display_height - 5

    @property
    def tasks(self) -> list[tuple[str, Any]]:
        """(id, task) of those on the screen, the newest first."""
        return list(self.state.tasks_by_time(limit=self.limit))

    @property
    def workers(self) -> list[str]:
        """The names of the workers that are online."""
        return [worker.hostname for worker in self.state.alive_workers()]

    # -- drawing ---------------------------------------------------------------------------------------------------

    def draw(self) -> None:
        """Draw the whole screen."""
        with self._lock:
            if self.win is None:
                return
            width, height = self.display_width, self.display_height
            self._lines = page(
                self.state, width, height, title=f"celery events: {self.app.main}", help=self.help, now=time.time()
            )
            shown = [line.uuid for line in self._lines if line.uuid is not None]
            if self.selected_task not in shown:
                self.selected_task = step(shown, None, 0)
            self.win.erase()
            for y, line in enumerate(self._lines):
                style = self._colors.get(line.style, 0)
                if line.uuid is not None and line.uuid == self.selected_task:
                    self.selected_position, style = y, style | curses.A_REVERSE
                self.safe_add_str(y, 0, line.text, style)
            self.win.refresh()

    def safe_add_str(self, y: int, x: int, string: str, *args: Any, **kwargs: Any) -> None:
        """Write on the screen, as much as there is room for."""
        if 0 <= y < self.screen_height and x < self.screen_width:
            with suppress(curses.error):
                self.win.addstr(y, x, string[: self.screen_width - 1 - x], *args, **kwargs)

    def nap(self) -> None:
        """Wait for a key, for a moment, and do what it asks for."""
        self.handle_keypress()

    def handle_keypress(self) -> None:
        key = self.win.getch()
        name = self.keyalias.get(key) or (chr(key).upper() if 0 < key < 256 else "")
        handler = self.keymap.get(name)
        if handler is not None:
            handler()

    def alert(self, callback: Callable[[int, int, int], Any], title: str | None = None) -> None:
        """Clear the screen for *callback*, which is given the width and the first free position, until a key is hit."""
        with self._lock:
            self.win.erase()
            y = 0
            if title is not None:
                self.safe_add_str(0, 0, fit(f" {title}", self.display_width), self._colors.get("bar", 0))
                y = 2
            callback(self.display_width, 1, y)
            self.safe_add_str(self.screen_height - 1, 0, fit(" Press any key to continue", self.display_width))
            self.win.refresh()
        self.win.timeout(-1)
        try:
            self.win.getch()
        finally:
            self.win.timeout(self.screen_delay * 10)

    def _show(self, lines: list[str], title: str) -> None:
        def write(width: int, x: int, y: int) -> None:
            rows = count(y)
            for line in lines:
                for part in wrap(line, width - 2, drop_whitespace=False) or [""]:
                    self.safe_add_str(next(rows), x, fit(part, width - x))

        self.alert(write, title)

    def readline(self, x: int, y: int) -> str:
        """What the user writes there, up to the end of the line; empty if they escape."""
        written: list[str] = []
        self.win.timeout(-1)
        try:
            while True:
                key = self.win.getch()
                if key in {10, 13, curses.KEY_ENTER}:
                    return "".join(written)
                if key == ESCAPE:
                    return ""
                if key in {8, 127, curses.KEY_BACKSPACE}:
                    del written[-1:]
                elif 31 < key < 256:
                    written.append(chr(key))
                self.safe_add_str(y, x, f"{''.join(written)} ")
                self.win.refresh()
        finally:
            self.win.timeout(self.screen_delay * 10)

    # -- keys ------------------------------------------------------------------------------------------------------

    def find_position(self) -> int:
        """The line of the selected task among the tasks."""
        shown = [line.uuid for line in self._lines if line.uuid is not None]
        return shown.index(self.selected_task) if self.selected_task in shown else 0

    def move_selection(self, direction: int = 1) -> None:
        self.selected_task = step([line.uuid for line in self._lines if line.uuid], self.selected_task, direction)

    def move_selection_up(self) -> None:
        self.move_selection(-1)

    def move_selection_down(self) -> None:
        self.move_selection(1)

    def _selected(self) -> Any:
        return None if self.selected_task is None else self.state.tasks.get(self.selected_task)

    def selection_info(self) -> None:
        """Show all that is known of the task."""
        task = self._selected()
        if task is not None:
            self._show(list(details(task)), "Task details")

    def selection_traceback(self) -> None:
        """Show the traceback of a task that has failed."""
        task = self._selected()
        if task is not None and task.state in states.EXCEPTION_STATES:
            self._show((task.traceback or "").splitlines(), f"Task exception traceback for {task.uuid}")
        elif task is not None:
            curses.beep()

    def selection_result(self) -> None:
        """Show the result of the task."""
        task = self._selected()
        if task is not None:
            result = task.exception if task.exception is not None and task.result is None else task.result
            self._show(str(result).splitlines(), f"Result for {task.uuid}")

    def revoke_selection(self) -> None:
        """Keep the task from running."""
        self._tell(lambda uuid: self.app.control.revoke(uuid, reply=True), "revoke")

    def terminate_selection(self) -> None:
        """End the task, also if it runs."""
        self._tell(lambda uuid: self.app.control.revoke(uuid, terminate=True, reply=True), "terminate")

    def selection_rate_limit(self) -> None:
        """Ask for a rate, and limit tasks of this name to it."""
        task = self._selected()
        if task is None or not task.name:
            return
        line = self.screen_height - 1
        question = f" New rate limit of {task.name} (such as 10/m): "
        self.safe_add_str(line, 0, fit(question, self.display_width), self._colors.get("bar", 0))
        rate = self.readline(len(question), line)
        if rate:
            self._tell(lambda uuid: self.app.control.rate_limit(task.name, rate, reply=True), "rate limit")

    def _tell(self, command: Callable[[str], Any], what: str) -> None:
        if self.selected_task is None:
            return
        try:
            reply = command(self.selected_task)
        except BrokerError as error:
            self._show([str(error)], what)
            return
        self.alert_remote_control_reply(reply)

    def alert_remote_control_reply(self, reply: Any) -> None:
        """Show what the workers answer."""
        answers = [f"{node}: {answer}" for replies in reply or () for node, answer in replies.items()]
        self._show(answers or ["No replies received in 1s deadline."], "Remote Control Command Replies")


class DisplayThread(threading.Thread):
    """Draws *display* until it is done, or `shutdown` is set."""

    def __init__(self, display: CursesMonitor) -> None:
        super().__init__(name="celery-evtop", daemon=True)
        self.display = display
        self.shutdown = False

    def run(self) -> None:
        while not self.shutdown and not self.display.done.is_set():
            self.display.draw()
            self.display.nap()


def capture_events(app: Celery, state: Any, display: CursesMonitor) -> None:
    """Take events into *state* until *display* is done, whatever becomes of the broker."""
    receiver = app.events.Receiver(None, handlers={"*": state.event})
    threading.Thread(target=_stop_when, args=(display.done, receiver), daemon=True).start()
    while not display.done.is_set():
        try:
            receiver.capture(limit=None)
        except BrokerError:  # the screen stays, and its workers turn offline
            display.done.wait(RETRY_EVERY)


def _stop_when(done: threading.Event, receiver: Any) -> None:
    done.wait()
    receiver.stop()


def evtop(app: Celery | None = None) -> None:
    """The live view, until the user has had enough."""
    app = app_or_default(app)
    state = app.events.State()
    display = CursesMonitor(state, app)
    display.init_screen()
    thread = DisplayThread(display)
    thread.start()
    try:
        capture_events(app, state, display)
    except (KeyboardInterrupt, SystemExit):
        pass
    finally:
        thread.shutdown = True
        display.done.set()
        thread.join(1.0)
        display.resetscreen()
