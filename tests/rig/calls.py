"""Counts the Python calls of a step. Calls are counted, not timed: a slow machine fails no budget."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any


def count_calls(step: Callable[[], Any]) -> Counter[str]:
    """How often each `file:function` was entered while *step* ran, collections of garbage left aside.

    What an earlier test left for the collector may run finalizers in the middle of any step; they are not of this step.
    """
    calls: Counter[str] = Counter()

    def note(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call":
            calls[f"{frame.f_code.co_filename}:{frame.f_code.co_name}"] += 1

    collects, profile = gc.isenabled(), sys.getprofile()
    gc.disable()
    sys.setprofile(note)
    try:
        step()
    finally:
        sys.setprofile(profile)
        if collects:
            gc.enable()
    return calls


def fewest_calls(step: Callable[[], Any]) -> Counter[str]:
    """The least of three counts: a clock that strikes a second, or what another test left, is not of the step."""
    return min((count_calls(step) for _ in range(3)), key=Counter.total)
