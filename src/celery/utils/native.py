"""Threads of the operating system, also in a process that gevent or eventlet has taken over."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from celery.utils.descriptors import is_green


def start_apart(run: Callable[[], None]) -> None:
    """Call *run* in a thread that no greenlet can hold up.

    It may share nothing with others that is locked, logs among it: locks are those of the greenlets, and wait for
    nobody in another thread.
    """
    original("_thread").start_new_thread(run, ())


def original(module: str) -> Any:
    """A module of the standard library as it was before gevent or eventlet replaced parts of it."""
    if is_green() and "gevent.monkey" in sys.modules:
        return _Originals(module, sys.modules["gevent.monkey"])
    if is_green() and "eventlet.patcher" in sys.modules:
        return sys.modules["eventlet.patcher"].original(module)
    return __import__(module)


class _Originals:
    def __init__(self, module: str, monkey: ModuleType) -> None:
        self._module = module
        self._monkey = monkey

    def __getattr__(self, name: str) -> Any:
        return self._monkey.get_original(self._module, name)
