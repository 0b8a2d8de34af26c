"""Coloured text for terminals."""

from __future__ import annotations

import base64
import os
import platform
from typing import TYPE_CHECKING, Any

from celery.utils.deferred import deferred

if TYPE_CHECKING:
    import pathlib
else:
    pathlib = deferred("pathlib")

BLACK, RED, GREEN, YELLOW, BLUE, MAGENTA, CYAN, WHITE = range(8)
OP_SEQ = "\033[%dm"
RESET_SEQ = "\033[0m"
COLOR_SEQ = "\033[1;%dm"
IS_WINDOWS = platform.system() == "Windows"
ITERM_PROFILE = os.environ.get("ITERM_PROFILE")
TERM = os.environ.get("TERM", "")
TERM_IS_SCREEN = TERM.startswith("screen")


def fg(s: int) -> str:
    """The sequence that switches to a foreground colour."""
    return COLOR_SEQ % s


def _style(sequence: str) -> Any:
    def paint(self: colored, *s: object) -> colored:
        return self.node(s, sequence)

    return paint


class colored:  # noqa: N801 - the public name
    """Text with colours: `colored().red("no ", colored().bold("way"))`. `str()` gives the sequences."""

    def __init__(self, *s: object, **kwargs: Any) -> None:
        self.s: tuple[object, ...] = s
        self.enabled: bool = not IS_WINDOWS and kwargs.get("enabled", True)
        self.op: str = kwargs.get("op", "")
        self.names = {name: getattr(self, name) for name in _COLORS}

    def node(self, s: tuple[object, ...], op: str) -> colored:
        """A piece of text under the sequence *op*."""
        return type(self)(*s, enabled=self.enabled, op=op)

    black, red, green, yellow = _style(fg(30)), _style(fg(31)), _style(fg(32)), _style(fg(33))
    blue, magenta, cyan, white = _style(fg(34)), _style(fg(35)), _style(fg(36)), _style(fg(37))
    bold, underline, blink, reverse = _style(OP_SEQ % 1), _style(OP_SEQ % 4), _style(OP_SEQ % 5), _style(OP_SEQ % 7)
    bright = _style(OP_SEQ % 8)
    iblack, ired, igreen, iyellow = _style(fg(40)), _style(fg(41)), _style(fg(42)), _style(fg(43))
    iblue, imagenta, icyan, iwhite = _style(fg(44)), _style(fg(45)), _style(fg(46)), _style(fg(47))

    def reset(self, *s: object) -> colored:
        return self.node(s or ("",), RESET_SEQ)

    def no_color(self) -> str:
        """The text alone."""
        return "".join(part.no_color() if isinstance(part, colored) else str(part) for part in self.s)

    def embed(self) -> str:
        """The text with its sequences, without a reset at the end."""
        if not self.enabled:
            return self.no_color()
        # A coloured part inside ends with a reset: our own colour starts again after it.
        parts = (f"{part}{self.op}" if isinstance(part, colored) else str(part) for part in self.s)
        return self.op + "".join(parts)

    def __str__(self) -> str:
        return f"{self.embed()}{RESET_SEQ}" if self.enabled and self.s else self.embed()

    def __repr__(self) -> str:
        return repr(self.no_color())

    def __add__(self, other: object) -> str:
        return f"{self}{other}"


_COLORS = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")


def supports_images() -> bool:
    """Whether the terminal shows pictures (iTerm 2)."""
    return bool(ITERM_PROFILE)


def imgcat(path: str, inline: int = 1, preserve_aspect_ratio: int = 0, **kwargs: Any) -> str:
    """The sequence that shows the picture at *path* in iTerm 2; nested in tmux or screen too."""
    options = {"inline": inline, "preserveAspectRatio": preserve_aspect_ratio, **kwargs}
    settings = ";".join(f"{name}={value}" for name, value in options.items())
    before, after = ("\033Ptmux;\033\033]", "\a\033\\") if TERM_IS_SCREEN else ("\033]", "\a")
    return f"\n{before}1337;File={settings}:{base64.b64encode(pathlib.Path(path).read_bytes()).decode()}{after}"


__all__ = ["colored", "fg", "imgcat", "supports_images"]
