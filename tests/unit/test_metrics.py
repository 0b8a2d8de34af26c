"""The text in which Prometheus reads metrics."""

from __future__ import annotations

import pytest

from celery.utils.metrics import Registry


def test_counters() -> None:
    registry = Registry()
    done = registry.counter("jobs_done_total", "Jobs that\nended.", ("name", "queue"))
    done.add(("a", "q"))
    done.add(("a", "q"), 2.5)
    done.add(('say "hi"\\', "two\nlines"))
    assert registry.text().splitlines() == [
        "# HELP jobs_done_total Jobs that\\nended.",
        "# TYPE jobs_done_total counter",
        'jobs_done_total{name="a",queue="q"} 3.5',
        'jobs_done_total{name="say \\"hi\\"\\\\",queue="two\\nlines"} 1',
    ]


def test_gauges_are_set_or_read() -> None:
    registry = Registry()
    registry.gauge("level", "It.").set(0.25)
    waiting = [1, 2]
    registry.gauge("waiting", "Them.", ("kind",), read=lambda: [(("x",), len(waiting))])
    assert registry.text().splitlines()[2::3] == ["level 0.25", 'waiting{kind="x"} 2']
    waiting.pop()
    assert registry.text().endswith('waiting{kind="x"} 1\n')


def test_histograms_add_up() -> None:
    registry = Registry()
    took = registry.histogram("took", "Seconds.", ("name",), bounds=(0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 7):
        took.observe(seconds, ("a",))
    assert registry.text().splitlines()[1:] == [
        "# TYPE took histogram",
        'took_bucket{name="a",le="0.1"} 2',
        'took_bucket{name="a",le="1"} 3',
        'took_bucket{name="a",le="+Inf"} 4',
        'took_sum{name="a"} 7.65',
        'took_count{name="a"} 4',
    ]


def test_a_name_is_given_once() -> None:
    registry = Registry()
    registry.counter("x", "X.")
    with pytest.raises(ValueError, match="'x' already"):
        registry.gauge("x", "X.")
