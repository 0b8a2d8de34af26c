"""Counts, levels and durations, and the text in which Prometheus reads them.

    registry = Registry()
    done = registry.counter("jobs_done_total", "Jobs that ended.", ("name",))
    done.add(("tidy",))
    registry.gauge("jobs_waiting", "Jobs that wait.", read=lambda: [((), len(waiting))])
    registry.text()

Counting is a dictionary access: whoever counts needs no lock, as long as each series is counted by one thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
DURATIONS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Upper bounds in seconds, those that Prometheus' own client has by default."""

Labels = tuple[str, ...]
Read = Callable[[], Iterable[tuple[Labels, float]]]


class Metric(ABC):
    """A name, its help, and the names of the labels by which its series are told apart."""

    kind = ""

    def __init__(self, name: str, help: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.help = help
        self.labels = tuple(labels)

    @abstractmethod
    def samples(self) -> Iterable[tuple[str, str, float]]:
        """(name, labels as text, value) of every line."""

    def lines(self) -> Iterable[str]:
        yield f"# HELP {self.name} {_escape(self.help)}"
        yield f"# TYPE {self.name} {self.kind}"
        for name, labels, value in self.samples():
            yield f"{name}{labels} {_number(value)}"

    def _labelled(self, values: Labels, *more: tuple[str, str]) -> str:
        pairs = [*zip(self.labels, values, strict=True), *more]
        inside = ",".join(f'{name}="{_escape(value, quoted=True)}"' for name, value in pairs)
        return f"{{{inside}}}" if inside else ""


class Counter(Metric):
    """Only grows."""

    kind = "counter"

    def __init__(self, name: str, help: str, labels: Sequence[str] = (), read: Read | None = None) -> None:
        super().__init__(name, help, labels)
        self.values: defaultdict[Labels, float] = defaultdict(float)
        self.read = read
        """Asked for the values, where somebody else counts."""

    def add(self, labels: Labels = (), amount: float = 1) -> None:
        self.values[labels] += amount

    def samples(self) -> Iterable[tuple[str, str, float]]:
        values = self.values.copy().items() if self.read is None else self.read()
        for labels, value in values:
            yield self.name, self._labelled(labels), value


class Gauge(Counter):
    """Goes up and down."""

    kind = "gauge"

    def set(self, value: float, labels: Labels = ()) -> None:
        self.values[labels] = value


class Histogram(Metric):
    """How often values were at most so large; their sum and number."""

    kind = "histogram"

    def __init__(self, name: str, help: str, labels: Sequence[str] = (), bounds: Sequence[float] = DURATIONS) -> None:
        super().__init__(name, help, labels)
        self.bounds = tuple(bounds)
        self.values: dict[Labels, list[float]] = {}
        """Number of values up to each bound and above the last one (not added up), then their sum."""

    def observe(self, value: float, labels: Labels = ()) -> None:
        cells = self.values.get(labels)
        if cells is None:
            cells = self.values[labels] = [0.0] * (len(self.bounds) + 2)
        cells[bisect_left(self.bounds, value)] += 1
        cells[-1] += value

    def samples(self) -> Iterable[tuple[str, str, float]]:
        for labels, cells in self.values.copy().items():
            *counts, total = cells.copy()
            number = 0.0
            for bound, count in zip((*self.bounds, float("inf")), counts, strict=True):
                number += count
                yield f"{self.name}_bucket", self._labelled(labels, ("le", _number(bound))), number
            yield f"{self.name}_sum", self._labelled(labels), total
            yield f"{self.name}_count", self._labelled(labels), number


class Registry:
    """Metrics in the order in which they were made. Names are unique."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}

    def add(self, metric: Metric) -> None:
        """Raises ValueError for a name that is taken."""
        if metric.name in self._metrics:
            raise ValueError(f"There is a metric {metric.name!r} already.")
        self._metrics[metric.name] = metric

    def counter(self, name: str, help: str, labels: Sequence[str] = (), read: Read | None = None) -> Counter:
        counter = Counter(name, help, labels, read)
        self.add(counter)
        return counter

    def gauge(self, name: str, help: str, labels: Sequence[str] = (), read: Read | None = None) -> Gauge:
        gauge = Gauge(name, help, labels, read)
        self.add(gauge)
        return gauge

    def histogram(
        self, name: str, help: str, labels: Sequence[str] = (), bounds: Sequence[float] = DURATIONS
    ) -> Histogram:
        histogram = Histogram(name, help, labels, bounds)
        self.add(histogram)
        return histogram

    def text(self) -> str:
        """All of them, as Prometheus reads them."""
        return "".join(f"{line}\n" for metric in self._metrics.values() for line in metric.lines())


def _escape(text: str, quoted: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quoted else text


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if value == int(value) else repr(float(value))
