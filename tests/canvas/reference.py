"""What canvases mean, said without Celery: specifications as plain data, and their outcome worked out by hand.

A specification is a tuple: ("task", n, kind, immutable), ("chain", steps), ("group", parts), ("chord", header, body).
A task returns a text that shows its number and what it was given, so that an outcome shows the whole workflow.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Spec = tuple[Any, ...]
FAILURES = {"fail": "ValueError", "revoked": "TaskRevokedError", "expired": "TaskRevokedError"}


@dataclass(frozen=True)
class Failed:
    """The outcome of what does not succeed; `error` is the type of the exception."""

    error: str


class Silent(Failed):
    """The outcome of a task that raises Ignore: what follows has failed, and of the task itself nothing is heard."""


@dataclass
class Reference:
    """Evaluates one workflow; `ran` has the tasks that were run to their end, in no order."""

    ran: list[int] = field(default_factory=list)

    def run(self, spec: Spec, given: tuple[Any, ...] = ()) -> Any:
        """A value, a list of outcomes (a group), or `Failed`."""
        return getattr(self, spec[0])(spec, given)

    def task(self, spec: Spec, given: tuple[Any, ...]) -> Any:
        _, number, kind, immutable = spec
        if kind in FAILURES:
            return Failed(FAILURES[kind])
        if kind == "ignore":
            return Silent("Ignore")
        self.ran.append(number)
        return shown(number, () if immutable else given)

    def chain(self, spec: Spec, given: tuple[Any, ...]) -> Any:
        """Every step is given the outcome of the one before it. A group in between is the header of a chord."""
        value, steps = None, flat_steps(spec)
        for position, step in enumerate(steps):
            value = self.run(step, given if position == 0 else (value,))
            if isinstance(value, list) and position < len(steps) - 1:
                value = joined(value)
            if isinstance(value, Failed):
                return value if position == len(steps) - 1 else Failed(value.error)
        return value

    def group(self, spec: Spec, given: tuple[Any, ...]) -> Any:
        """All parts, whatever becomes of the others. A group of groups has all their parts."""
        values: list[Any] = []
        for part in spec[1]:
            value = self.run(part, given)
            # Of a part that ends in a group which is never begun, all that would have been in it fails.
            values += [value] * len(ends(part)) if isinstance(value, Failed) else as_list(value)
        return values

    def header(self, spec: Spec, given: tuple[Any, ...]) -> Any:
        """The header of a chord, whose body is the next step."""
        return joined(self.group(spec, given))

    def chord(self, spec: Spec, given: tuple[Any, ...]) -> Any:
        """The body is given the outcomes of the header; if one of those failed it fails."""
        values = self.header(("header", spec[1]), given)
        return values if isinstance(values, Failed) else self.run(spec[2], (values,))


def joined(values: list[Any]) -> Any:
    return Failed("ChordError") if any(isinstance(value, Failed) for value in values) else values


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def ends(spec: Spec) -> list[str]:
    """The kinds of the tasks that it ends in: those of which it has a result."""
    if spec[0] == "task":
        return [spec[2]]
    if spec[0] == "group":
        return [kind for part in spec[1] for kind in ends(part)]
    steps = flat_steps(spec) if spec[0] == "chain" else [spec[2]]
    return ends(steps[-1])


def flat_steps(spec: Spec) -> list[Spec]:
    """The steps of a chain: chains in it flattened, groups of one replaced by it, chords taken apart."""
    found: list[Spec] = []
    for step in spec[1]:
        while step[0] == "group" and len(step[1]) == 1:
            step = step[1][0]  # noqa: PLW2901
        if step[0] == "chain":
            found += flat_steps(step)
        elif step[0] == "chord":
            found += [("header", step[1]), *flat_steps(("chain", (step[2],)))]
        else:
            found.append(step)
    return found


def shown(number: int, given: tuple[Any, ...]) -> str:
    """What task *number* returns for these arguments."""
    return f"{number}({','.join(map(_text, given))})"


def _text(value: Any) -> str:
    return f"[{','.join(map(_text, value))}]" if isinstance(value, list) else str(value)
