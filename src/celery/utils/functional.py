"""Functions about functions and sequences."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict, UserDict, UserList
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, TypeVar, cast

from celery.utils.deferred import deferred

if TYPE_CHECKING:
    import inspect
else:
    inspect = deferred("inspect")

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
R = TypeVar("R")
P = ParamSpec("P")


class LRUCache(UserDict[K, V]):
    """A mapping that forgets its least recently used key when it holds more than *limit*. Thread-safe."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.mutex = threading.RLock()
        self.data: OrderedDict[K, V] = OrderedDict()

    def __getitem__(self, key: K) -> V:
        with self.mutex:
            value = self.data[key]
            self.data.move_to_end(key)
            return value

    def __setitem__(self, key: K, value: V) -> None:
        with self.mutex:
            self.data[key] = value
            self.data.move_to_end(key)
            if self.limit:
                while len(self.data) > self.limit:
                    self.data.popitem(last=False)

    def __iter__(self) -> Iterator[K]:
        with self.mutex:
            return iter(list(self.data))

    def popitem(self, last: bool = True) -> tuple[K, V]:
        with self.mutex:
            return self.data.popitem(last)

    def keys(self) -> Any:
        return iter(self)

    def items(self) -> Any:
        with self.mutex:
            return iter(list(self.data.items()))

    def values(self) -> Any:
        with self.mutex:
            return iter(list(self.data.values()))

    iterkeys, iteritems, itervalues = keys, items, values

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def incr(self, key: K, delta: int = 1) -> int:
        """Add *delta* to the number under *key* and return the sum."""
        with self.mutex:
            total = int(cast("int", self.data[key])) + delta
            self[key] = cast("V", total)
            return total

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.limit,), None, None, self.items()


def memoize(
    maxsize: int | None = None,
    keyfun: Callable[..., Hashable] | None = None,
    Cache: Any = LRUCache,  # noqa: N803 - the public name
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: remember results by their arguments; `clear()`, `hits` and `misses` are attributes of the result."""

    def decorate(fun: Callable[P, R]) -> Callable[P, R]:
        cache = Cache(limit=maxsize)
        mutex = threading.Lock()

        @wraps(fun)
        def remembered(*args: P.args, **kwargs: P.kwargs) -> R:
            key = keyfun(args, kwargs) if keyfun else (args, tuple(sorted(kwargs.items())))
            try:
                with mutex:
                    value = cast("R", cache[key])
                    wrapper.hits += 1
                    return value
            except KeyError:
                pass
            value = fun(*args, **kwargs)
            with mutex:
                wrapper.misses += 1
                cache[key] = value
            return value

        def clear() -> None:
            with mutex:
                cache.clear()
                wrapper.hits = wrapper.misses = 0

        wrapper = cast("Any", remembered)
        wrapper.hits = wrapper.misses = 0
        wrapper.clear = clear
        wrapper.original_func = fun
        return remembered

    return decorate


class lazy(Generic[T]):  # noqa: N801 - the public name
    """A call that is made when it is evaluated, each time anew."""

    def __init__(self, fun: Callable[..., T], *args: Any, **kwargs: Any) -> None:
        self._fun = fun
        self._args = args
        self._kwargs = kwargs

    def __call__(self) -> T:
        return self.evaluate()

    def evaluate(self) -> T:
        return self._fun(*self._args, **self._kwargs)

    def __str__(self) -> str:
        return str(self())

    def __repr__(self) -> str:
        return repr(self())

    def __eq__(self, other: object) -> bool:
        return bool(self() == other)

    __hash__ = None  # type: ignore[assignment]  # its value may change

    def __deepcopy__(self, memo: dict[int, Any]) -> lazy[T]:
        memo[id(self)] = self
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._fun, *self._args), {"_kwargs": self._kwargs}


class mlazy(lazy[T]):  # noqa: N801 - the public name
    """A call that is made once, when it is first evaluated."""

    evaluated = False
    _value: T | None = None

    def evaluate(self) -> T:
        if not self.evaluated:
            self._value = super().evaluate()
            self.evaluated = True
        return cast("T", self._value)


def maybe_evaluate(value: Any) -> Any:
    """The value of a `lazy` (ours or kombu's); anything else as it is."""
    if isinstance(value, lazy):
        return value.evaluate()
    kombu = sys.modules.get("kombu.utils.functional")
    if kombu is not None and isinstance(value, kombu.lazy):
        return value.evaluate()
    return value


def evaluate_promises(it: Iterable[Any]) -> Iterator[Any]:
    """The items, lazy ones evaluated."""
    return map(maybe_evaluate, it)


def is_list(obj: Any, scalars: tuple[type, ...] = (Mapping, str), iters: tuple[type, ...] = (Iterable,)) -> bool:
    """Whether *obj* is iterable and neither a mapping nor a string."""
    return isinstance(obj, iters) and not isinstance(obj, scalars or ())


def maybe_list(obj: Any, scalars: tuple[type, ...] = (Mapping, str)) -> Any:
    """*obj* if it is a list of some kind or None, otherwise a list of that one item."""
    return obj if obj is None or is_list(obj, scalars) else [obj]


def dictfilter(d: Mapping[str, Any] | None = None, **kw: Any) -> dict[str, Any]:
    """The items whose value is not None."""
    return {key: value for key, value in (dict(d or {}) | kw).items() if value is not None}


def noop(*args: Any, **kwargs: Any) -> None:
    """Take anything, do nothing."""


def pass1(arg: T, *args: Any, **kwargs: Any) -> T:
    """The first argument."""
    return arg


class DummyContext:
    """A context that does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


def first(predicate: Callable[[Any], Any] | None, it: Iterable[Any]) -> Any:
    """The first item that *predicate* holds for (that is not None, without one); None if there is none."""
    return next((v for v in evaluate_promises(it) if (predicate(v) if predicate else v is not None)), None)


def firstmethod(method: str, on_call: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """A function that calls *method* on each item of a list (lazy ones evaluated) until one answers with not None."""

    def call_first(it: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        for obj in it:
            bound = getattr(maybe_evaluate(obj), method)
            answer = on_call(bound, *args, **kwargs) if on_call else bound(*args, **kwargs)
            if answer is not None:
                return answer
        return None

    return call_first


def chunks(it: Iterator[T] | Iterable[T], n: int) -> Iterator[list[T]]:
    """Lists of *n* items; the last may be shorter."""
    items = iter(it)
    while block := list(islice(items, n)):
        yield block


def padlist(container: Sequence[T], size: int, default: Any = None) -> list[Any]:
    """The first *size* items, filled up with *default*."""
    return [*container[:size], *[default] * (size - len(container))]


def mattrgetter(*attrs: str) -> Callable[[Any], dict[str, Any]]:
    """A function from an object to a dictionary of these attributes, None for those it lacks."""
    return lambda obj: {attr: getattr(obj, attr, None) for attr in attrs}


def uniq(it: Iterable[T]) -> Iterator[T]:
    """The items without repetition, in order."""
    return iter(dict.fromkeys(it))


def lookahead(it: Iterable[T]) -> Iterator[tuple[T, T | None]]:
    """Pairs of each item and the next; None follows the last."""
    items = iter(it)
    try:
        current = next(items)
    except StopIteration:
        return
    for following in items:
        yield current, following
        current = following
    yield current, None


def maybe(typ: Callable[[Any], T], val: Any) -> T | None:
    """`typ(val)`, or None for None."""
    return typ(val) if val is not None else None


def seq_concat_item(seq: Any, item: Any) -> Any:
    """The sequence with *item* at its end, of the sequence's type."""
    return (*seq, item) if isinstance(seq, tuple) else [*seq, item]


def seq_concat_seq(a: Any, b: Any) -> Any:
    """Both sequences in one, of the type of *a* (list or tuple)."""
    return (*a, *b) if isinstance(a, tuple) else [*a, *b]


def is_numeric_value(value: Any) -> bool:
    """Whether *value* is an int or a float, and not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


class _Regen(UserList[Any]):
    """A list that is filled from an iterator as far as it is looked at. Not for several threads at once."""

    def __init__(self, it: Iterable[Any]) -> None:
        self._it: Iterator[Any] = iter(it)
        self._known: list[Any] = []
        self._done = False

    @property
    def data(self) -> list[Any]:  # type: ignore[override]
        if not self._done:
            self._known.extend(self._it)
            self._done = True
        return self._known

    def fully_consumed(self) -> bool:
        return self._done

    def concretize(self) -> list[Any]:
        return self.data

    def _advance(self) -> bool:
        if self._done:
            return False
        try:
            self._known.append(next(self._it))
        except StopIteration:
            self._done = True
        return not self._done

    def __iter__(self) -> Iterator[Any]:
        index = 0
        while index < len(self._known) or self._advance():
            yield self._known[index]
            index += 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int) and index >= 0:
            while len(self._known) <= index and self._advance():
                pass
            return self._known[index]
        return self.data[index]

    def __bool__(self) -> bool:
        return bool(self._known) or self._advance()

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self._known))
        return f"<_regen: [{shown}{'' if self._done else ', ...' if shown else '...'}]>"

    def __json__(self) -> list[Any]:
        return self.data

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (self.data,)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Regen:
        memo[id(self)] = self
        return self


def regen(it: Iterable[T]) -> Any:
    """*it* itself if it is a list or tuple, otherwise a list that draws from it only as far as it is looked at."""
    return it if isinstance(it, list | tuple) else _Regen(it)


def _is_positional(parameter: inspect.Parameter) -> bool:
    return parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}


def fun_accepts_kwargs(fun: Callable[..., Any]) -> bool:
    """Whether *fun* has a `**kwargs` parameter."""
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(fun).parameters.values())


def fun_takes_argument(name: str, fun: Callable[..., Any], position: int | None = None) -> Any:
    """Truthy if *fun* can be given an argument called *name*, or one at *position* (counted from 1)."""
    parameters = inspect.signature(fun).parameters.values()
    if any(p.kind in {p.VAR_POSITIONAL, p.VAR_KEYWORD} for p in parameters):
        return True
    if position is not None:
        return sum(map(_is_positional, parameters)) >= position
    return any(p.name == name and p.kind is not p.POSITIONAL_ONLY for p in parameters)


def arity_greater(fun: Callable[..., Any], n: int) -> bool:
    """Whether *fun* takes more than *n* positional arguments."""
    parameters = inspect.signature(fun).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return True
    return sum(map(_is_positional, parameters)) > n


FUNHEAD_TEMPLATE = "def {fun_name}({fun_args}):\n    return {fun_value}\n"


def head_from_fun(fun: Callable[..., Any], bound: bool = False) -> Callable[..., Any]:
    """A function that raises TypeError exactly for the arguments *fun* would not take, and does nothing else.

    *bound*: the first parameter (`self` of a bound task) is given by somebody else. The head is compiled Python, so
    that a check costs a call and the message is the interpreter's own.
    """
    if not inspect.isroutine(fun) and not inspect.isclass(fun):
        fun = type(fun).__call__.__get__(fun)
    parameters = list(inspect.signature(fun, follow_wrapped=True).parameters.values())
    if bound and parameters and _is_positional(parameters[0]):
        parameters = parameters[1:]
    name = getattr(fun, "__name__", "task")
    if not name.isidentifier():
        name = "task"
    # Defaults are irrelevant to whether a call binds, and their reprs are not always Python: None stands for all.
    bare = inspect.Signature(
        [p.replace(annotation=p.empty, default=None if p.default is not p.empty else p.empty) for p in parameters]
    )
    namespace: dict[str, Any] = {"__name__": getattr(fun, "__module__", None) or __name__}
    source = FUNHEAD_TEMPLATE.format(fun_name=name, fun_args=str(bare)[1:-1], fun_value=1)
    exec(source, namespace)  # noqa: S102 - made of identifiers only
    head = cast("Callable[..., Any]", namespace[name])
    cast("Any", head)._source = source
    return head


__all__ = [
    "FUNHEAD_TEMPLATE",
    "DummyContext",
    "LRUCache",
    "arity_greater",
    "chunks",
    "dictfilter",
    "evaluate_promises",
    "first",
    "firstmethod",
    "fun_accepts_kwargs",
    "fun_takes_argument",
    "head_from_fun",
    "is_list",
    "is_numeric_value",
    "lazy",
    "lookahead",
    "mattrgetter",
    "maybe",
    "maybe_evaluate",
    "maybe_list",
    "memoize",
    "mlazy",
    "noop",
    "padlist",
    "pass1",
    "regen",
    "seq_concat_item",
    "seq_concat_seq",
    "uniq",
]
