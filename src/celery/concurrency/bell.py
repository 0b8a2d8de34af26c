"""The bell of a pool whose jobs run in the worker's own process: it rings while there are outcomes."""

from __future__ import annotations

from celery.utils.bell import Chime


class Bell:
    """Many rings between two looks cost one write. `ring` may be called by any thread."""

    def __init__(self) -> None:
        self._chime: Chime | None = None
        self._rung = False

    def open(self) -> None:
        self._chime = Chime()

    def ring(self) -> None:
        if not self._rung:
            self._rung = True
            chime = self._chime
            if chime is not None:
                chime.ring()

    def hush(self) -> None:
        """Call before the outcomes are collected: one that comes later rings again."""
        if self._chime is not None:
            self._chime.clear()
            self._rung = False

    def filenos(self) -> list[int]:
        return [] if self._chime is None else [self._chime.fileno()]

    def close(self) -> None:
        """The descriptor goes with the last who rings it."""
        self._chime = None
