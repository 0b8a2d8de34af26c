from __future__ import annotations

import pytest

from celery.utils.routing import matches, routes


@pytest.mark.parametrize(
    ("pattern", "key", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.b", "a.b.c", False),
        ("*", "a", True),
        ("*", "a.b", False),
        ("*.b", "a.b", True),
        ("a.*.c", "a.b.c", True),
        ("a.*.c", "a.c", False),
        ("#", "", True),
        ("#", "a.b.c", True),
        ("a.#", "a", True),
        ("a.#", "a.b.c", True),
        ("a.#", "ab", False),
        ("#.c", "c", True),
        ("#.c", "a.b.c", True),
        ("#.c", "a.b", False),
        ("a.#.d", "a.d", True),
        ("a.#.d", "a.b.c.d", True),
        ("a.#.*", "a", False),
        ("a.+", "a.b", False),
    ],
)
def test_topic(pattern: str, key: str, expected: bool) -> None:
    assert matches("topic", pattern, key) is expected


def test_routes() -> None:
    bindings = [
        ("d", "direct", "k", "q1"),
        ("d", "direct", "k", "q2"),
        ("d", "direct", "other", "q3"),
        ("t", "topic", "a.*", "q1"),
        ("t", "topic", "#", "q1"),
        ("f", "fanout", "", "q4"),
    ]
    assert routes(bindings, "", "any") == ("any",)
    assert routes(bindings, "d", "k") == ("q1", "q2")
    assert routes(bindings, "t", "a.b") == ("q1",), "once, although two bindings match"
    assert routes(bindings, "f", "whatever") == ("q4",)
    assert routes(bindings, "d", "nothing") == ()
    assert routes(bindings, "nowhere", "k") == ()
