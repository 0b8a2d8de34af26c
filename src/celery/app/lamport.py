"""A logical clock: messages between nodes can be put in order without a common time."""

from __future__ import annotations

import threading


class LamportClock:
    """Counts events; a message that comes from a later event moves it forward. Thread-safe."""

    def __init__(self, initial_value: int = 0) -> None:
        self.value = initial_value
        self._lock = threading.Lock()

    def adjust(self, other: int) -> int:
        """A message with clock *other* has come; the value now."""
        with self._lock:
            self.value = max(self.value, other) + 1
            return self.value

    def forward(self) -> int:
        """Something happens here; the value now."""
        with self._lock:
            self.value += 1
            return self.value

    def forward_by(self, count: int) -> int:
        """*count* things happen here, one after the other; the value of the first."""
        with self._lock:
            first = self.value + 1
            self.value += count
            return first

    def __str__(self) -> str:
        return str(self.value)

    def __repr__(self) -> str:
        return f"<LamportClock: {self.value}>"
