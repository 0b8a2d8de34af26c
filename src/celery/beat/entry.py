"""One periodic task: what is sent, by which schedule, and when it ran last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple, Self

from celery._state import app_or_default
from celery.schedules import maybe_schedule, schedstate
from celery.utils.functional import is_list

FIELDS = ("name", "task", "last_run_at", "total_run_count", "schedule", "args", "kwargs", "options")
"""What an entry is pickled as, in this order."""
EDITABLE = ("task", "schedule", "args", "kwargs", "options")
"""What a change of the configuration changes in an entry; when it ran and how often stays."""
KEYS = frozenset({*FIELDS, "relative", "missed", "overlap"})
"""What an entry of `beat_schedule` may say."""


class event_t(NamedTuple):  # noqa: N801 - a public name of Celery
    """An entry in the heap: Unix time of its next run; of several at one time the lower priority goes first."""

    time: float
    priority: int
    entry: Any


class BeatLazyFunc:
    """An argument of a periodic task that is a call: made each time the task is sent, in the process of beat.

    "args": [BeatLazyFunc(datetime.now)]
    """

    def __init__(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._func = func
        self._args, self._kwargs = args, kwargs

    def __call__(self) -> Any:
        return self.delay()

    def delay(self) -> Any:
        """Call it."""
        return self._func(*self._args, **self._kwargs)


class ScheduleEntry:
    """An entry of the schedule.

    *schedule* is what `celery.schedules.maybe_schedule` takes.  *missed* and *overlap* are policies of the store
    scheduler (`celery.beat.policy`); the others do without.  Subclasses may keep the attributes elsewhere: a scheduler
    reads `name`, `task`, `schedule`, `args`, `kwargs` and `options`, asks `is_due()`, and goes on with `next(entry)`.
    """

    name: str | None = None
    schedule: Any = None
    args: Any = None
    kwargs: Any = None
    options: Any = None
    last_run_at: datetime | None = None
    total_run_count: int = 0
    missed: str | int | None = None
    overlap: str | None = None

    def __init__(
        self,
        name: str | None = None,
        task: str | None = None,
        last_run_at: datetime | None = None,
        total_run_count: int | None = None,
        schedule: Any = None,
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        relative: bool = False,
        app: Any = None,
        missed: str | int | None = None,
        overlap: str | None = None,
    ) -> None:
        self.app = app_or_default(app)
        self.name = name
        self.task = task
        self.args = args
        self.kwargs = kwargs or {}
        self.options = options or {}
        self.schedule = maybe_schedule(schedule, relative, app=self.app)
        # Only where it is said: subclasses that know nothing of it are made anew from what is in `vars`.
        if missed is not None:
            self.missed = missed
        if overlap is not None:
            self.overlap = overlap
        self.last_run_at = last_run_at or self.default_now()
        self.total_run_count = total_run_count or 0

    def default_now(self) -> datetime:
        """The time of the schedule, else of the app."""
        now: datetime = (self.schedule if hasattr(self.schedule, "now") else self.app).now()
        return now

    _default_now = default_now

    def is_due(self) -> schedstate:
        """(whether it is due, seconds until it is to be asked again)."""
        state: schedstate = self.schedule.is_due(self.last_run_at)
        return state

    def _next_instance(self, last_run_at: datetime | None = None) -> Self:
        """The entry after one more run, now or at *last_run_at*."""
        count = self.total_run_count + 1
        return type(self)(**dict(self, last_run_at=last_run_at or self.default_now(), total_run_count=count))

    __next__ = next = _next_instance

    def update(self, other: ScheduleEntry) -> None:
        """Take over what `EDITABLE` lists, and the policies, from *other*."""
        vars(self).update({field: getattr(other, field) for field in EDITABLE})
        for policy in ("missed", "overlap"):
            vars(self).pop(policy, None)
            if policy in vars(other):
                setattr(self, policy, getattr(other, policy))

    def editable_fields_equal(self, other: ScheduleEntry) -> bool:
        return all(getattr(self, field) == getattr(other, field) for field in EDITABLE)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """What it is made of, as arguments of the constructor."""
        return iter(vars(self).items())

    def __eq__(self, other: object) -> bool:
        """Whether both would send the same by the same schedule."""
        return isinstance(other, ScheduleEntry) and self.editable_fields_equal(other)

    __hash__ = None  # type: ignore[assignment]  # as in Celery: what it sends may change

    def __lt__(self, other: object) -> bool:
        """Any order: of events at one time in the heap one has to come first."""
        return id(self) < id(other)

    def __le__(self, other: object) -> bool:
        return self == other or self < other

    def __gt__(self, other: object) -> bool:
        return not self <= other

    def __ge__(self, other: object) -> bool:
        return self == other or not self < other

    def __repr__(self) -> str:
        return f"<ScheduleEntry: {self.name} {describe_call(self.task, self.args, self.kwargs)} {self.schedule}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, field) for field in FIELDS)


def describe_call(task: str | None, args: Any, kwargs: Any) -> str:
    """`task(1, y=2)`."""
    shown = [repr(arg) for arg in args or ()] + [f"{name}={value!r}" for name, value in (kwargs or {}).items()]
    return f"{task}({', '.join(shown)})"


def evaluate_args(args: Any) -> Any:
    """Arguments with the calls in them made."""
    return [arg() if isinstance(arg, BeatLazyFunc) else arg for arg in args] if args else []


def evaluate_kwargs(kwargs: Any) -> dict[str, Any]:
    """The same for keyword arguments."""
    return {name: arg() if isinstance(arg, BeatLazyFunc) else arg for name, arg in (kwargs or {}).items()}


def check_entry(entry: ScheduleEntry) -> None:
    """Raise TypeError with a sentence for what cannot be sent, or by no schedule."""
    if not isinstance(entry.task, str) or not entry.task:
        raise TypeError(f"its task is {entry.task!r}: give the name of a task")
    if entry.schedule is None or not hasattr(entry.schedule, "is_due"):
        raise TypeError(
            f"its schedule is {entry.schedule!r}: give seconds, a timedelta, or one of celery.schedules, as crontab()"
        )
    if entry.args is not None and not is_list(entry.args):
        raise TypeError(f"its args are {entry.args!r}: give a list or a tuple")
    for field in ("kwargs", "options"):
        if not isinstance(getattr(entry, field), Mapping):
            raise TypeError(f"its {field} are {getattr(entry, field)!r}: give a dict")


def check_keys(definition: Mapping[str, Any]) -> None:
    """Raise TypeError with a sentence for keys that an entry of `beat_schedule` does not have."""
    unknown = [str(key) for key in definition if key not in KEYS]
    if unknown:
        raise TypeError(f"it has no {', '.join(map(repr, unknown))}: known are {', '.join(sorted(KEYS))}")
