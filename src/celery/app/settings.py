"""The settings of an app: what users wrote over what the table says.

Reading is an attribute lookup: the resolved values are the instance's own `__dict__`, made anew at every change. A
change is safe while other threads read: they see the old value or the new one.

Where a value comes from, first wins: the environment (`CELERY_BROKER_URL`, `CELERY_BROKER_READ_URL`,
`CELERY_BROKER_WRITE_URL`, `CELERY_RESULT_BACKEND`), what was assigned (`conf.x = …`, `conf.update`, the constructor of
the app), the configuration (`config_from_object`), `add_defaults`, the table.

Which names are accepted:

- names of the table, their old upper-case names, and with a namespace the upper-case names that begin with it;
- other upper-case names: they belong to somebody else (a whole Flask configuration may be handed over) and can be read;
- lower-case names from `add_defaults`, and those that begin with what a package registered (`register_prefix`);
- any other lower-case name is an `ImproperlyConfigured` that says which one was probably meant. In a module or an
  object it is one only if it looks like a slip of the pen (`names.is_misspelt`): the others are variables beside the
  settings. Upper-case names that begin with a namespace are never an error; a probable slip is logged.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping
from types import MappingProxyType
from typing import Any

from celery.app import names
from celery.app.defaults import DEFAULTS, NEW_NAMES, OPTIONS, find, searchresult
from celery.app.hidden import humanize_settings, mask_settings
from celery.app.source import ObjectSource, as_mapping, is_setting_value
from celery.exceptions import CDeprecationWarning, ImproperlyConfigured

logger = logging.getLogger(__name__)

Observer = Callable[..., Any]


class Settings(MutableMapping[str, Any]):
    """Settings by attribute and by item; keys are the new lower-case names, old names read and write the same values.

    *changes* are what wins, *defaults* layers under it, the strongest first. Raises `ImproperlyConfigured` for a name
    that does not exist or a value of a wrong type. Can be pickled if its values can.
    """

    __slots__ = (
        "__dict__",
        "__weakref__",
        "_changes",
        "_layers",
        "_observers",
        "_prefix",
        "_source",
        "_state",
        "_used_old_names",
    )

    _changes: dict[str, Any]
    _layers: list[dict[str, Any]]
    _observers: list[Observer]
    _prefix: str
    _source: Mapping[str, Any]
    _state: object
    """Another object after every change: whoever has worked something out from the settings sees when it is stale."""
    _used_old_names: set[str]
    key_t = None

    def __init__(
        self,
        changes: Mapping[str, Any] | None = None,
        defaults: Iterable[Mapping[str, Any]] | None = None,
        keys: object = None,
        deprecated_settings: Iterable[str] | None = None,
        prefix: str | None = None,
    ) -> None:
        set_slot = object.__setattr__
        set_slot(self, "_changes", {})
        set_slot(self, "_layers", [_copy_layer(layer) for layer in defaults or ()])
        set_slot(self, "_observers", [])
        set_slot(self, "_prefix", prefix or "")
        set_slot(self, "_source", {})
        set_slot(self, "_used_old_names", set(deprecated_settings or ()))
        self._changes.update(self._accept_all(changes or {}))
        self._refresh()

    @staticmethod
    def register_prefix(*prefixes: str, reason: str = "registered by the application") -> None:
        """Let lower-case names that begin with one of *prefixes* be settings, in every app of this process."""
        for prefix in prefixes:
            if not prefix or prefix != prefix.lower():
                raise ValueError(f"A prefix of settings is lower-case text such as 'redbeat_', not {prefix!r}.")
            names.registered[prefix] = reason

    # Reading

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            try:
                return self[name]
            except KeyError:
                pass
        hint = names.nearest(name) if names.is_unknown(name) else None
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute {name!r}{f'; did you mean {hint!r}?' if hint else ''}",
            name=name,
            obj=self,
        )

    def __getitem__(self, key: str) -> Any:
        values = self.__dict__
        try:
            return values[key]
        except KeyError:
            pass
        for name in self._spellings(key):
            if name in values:
                return values[name]
        return self._source[key]

    def get(self, key: str, default: Any = None) -> Any:
        try:
            return self[key]
        except KeyError:
            return default

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and (
            key in self.__dict__ or any(name in self.__dict__ for name in self._spellings(key)) or key in self._source
        )

    def __iter__(self) -> Iterator[str]:
        return iter(list(self.__dict__))

    def __len__(self) -> int:
        return len(self.__dict__)

    def __dir__(self) -> Iterable[str]:
        return [*object.__dir__(self), *self.__dict__]

    def first(self, *keys: str) -> Any:
        """The first of *keys* whose value is not `None`."""
        return next((value for value in map(self.get, keys) if value is not None), None)

    def get_by_parts(self, *parts: str | None) -> Any:
        """`get_by_parts("task", "acks_late")` is `task_acks_late`."""
        return self["_".join(part for part in parts if part)]

    def find_option(self, name: str, namespace: str = "") -> searchresult:
        """Where in the table *name* stands; it may lack its namespace. Raises `KeyError`."""
        return find(name, namespace)

    def find_value_for_key(self, name: str, namespace: str = "celery") -> Any:
        """Value of a setting whose name may lack its namespace. Raises `KeyError`."""
        where = self.find_option(name, namespace)
        return self.get_by_parts(where.namespace, where.key)

    def value_set_for(self, key: str) -> bool:
        """Whether somebody set *key*: it has more than its default."""
        name = self._canonical(key)
        return name in self._changes or any(name in layer for layer in self._own_layers())

    # Writing

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError as error:
            raise AttributeError(error.args[0]) from None

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def __delitem__(self, key: str) -> None:
        name = self._canonical(key)
        if name not in self._changes:
            raise KeyError(f"The setting {key!r} was not changed, so its change cannot be taken back.")
        del self._changes[name]
        self._refresh_after(name)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Change several settings at once: all of them, or none when one is refused."""
        given: dict[str, Any] = {}
        for arg in args:
            given.update(arg)
        given.update(kwargs)
        accepted = self._accept_all(given)
        self._changes.update(accepted)
        self._refresh_after(*accepted)

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: str, *default: Any) -> Any:
        """Take back the change of *key* and return what it was; without one, *default* or `KeyError`."""
        name = self._canonical(key)
        if name not in self._changes and default:
            return default[0]
        value = self._changes.get(name)
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        name, value = self._changes.popitem()
        self._refresh_after(name)
        return name, value

    def clear(self) -> None:
        """Take back every change."""
        changed = list(self._changes)
        self._changes.clear()
        self._refresh_after(*changed)

    def add_defaults(self, d: Any) -> None:
        """Add defaults: a mapping, or an object with attributes. They win over earlier ones and over the table's.

        Lower-case names given here become settings.
        """
        given = {name: value for name, value in as_mapping(d).items() if is_setting_value(value) or name in OPTIONS}
        layer = {self._canonical(name): value for name, value in given.items()}
        layer = {name: names.convert(name, value) for name, value in layer.items()}
        self._layers.insert(1 if self._layers else 0, layer)
        self._refresh_after(*layer)

    def bind_to(self, callback: Observer) -> None:
        """Call *callback* after every change with a dict of what changed: new names, and the values they have now."""
        self._observers.append(callback)

    def finalize(self) -> None:
        """Read the environment again."""
        self._refresh()

    def swap_with(self, other: Settings) -> None:
        """Become what *other* is."""
        for slot in ("_changes", "_layers", "_observers", "_prefix", "_source", "_used_old_names"):
            object.__setattr__(self, slot, getattr(other, slot))
        self._refresh()

    # Copies

    @property
    def changes(self) -> dict[str, Any]:
        """What was assigned, by new names."""
        return self._changes

    @property
    def defaults(self) -> list[dict[str, Any]]:
        """What stands under the changes, the strongest first."""
        return self._layers

    @property
    def maps(self) -> list[dict[str, Any]]:
        return [self._changes, *self._layers]

    @property
    def prefix(self) -> str:
        """What upper-case names begin with: the namespace and `_`."""
        return self._prefix

    @property
    def deprecated_settings(self) -> set[str]:
        """The old upper-case names that were used."""
        return self._used_old_names

    def copy(self) -> Settings:
        made = Settings(None, self._layers, None, self._used_old_names, self._prefix)
        made._changes.update(self._changes)
        object.__setattr__(made, "_source", self._source)
        made._refresh()
        return made

    @classmethod
    def fromkeys(cls, iterable: Iterable[str], value: Any = None) -> Settings:
        return cls(dict.fromkeys(iterable, value))

    def without_defaults(self) -> Settings:
        """These settings without the table: only what somebody set."""
        made = Settings(None, self._own_layers(), None, self._used_old_names, self._prefix)
        made._changes.update(self._changes)
        made._refresh()
        return made

    def table(self, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:
        """Settings as a plain dict, passwords and secrets masked unless *censored* is false."""
        values = dict(self if with_defaults else self.without_defaults())
        return mask_settings(values) if censored else values

    def humanize(self, with_defaults: bool = False, censored: bool = True) -> str:
        """The table as text, a line for each setting."""
        return humanize_settings(self.table(with_defaults, censored))

    def maybe_warn_deprecated_settings(self) -> bool:
        """Warn once for each old upper-case name that was used; tells whether there was one."""
        for old in sorted(self._used_old_names):
            new = NEW_NAMES[old]
            new = self._prefix + new.upper() if self._prefix else new
            warnings.warn(f"The setting {old!r} has an old name: call it {new!r}.", CDeprecationWarning, stacklevel=2)
        return bool(self._used_old_names)

    def iterkeys(self) -> Iterator[str]:
        return iter(self.keys())

    def itervalues(self) -> Iterator[Any]:
        return iter(self.values())

    def iteritems(self) -> Iterator[tuple[str, Any]]:
        return iter(self.items())

    def __repr__(self) -> str:
        return f"<Settings: {self.table()!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self._changes, self._layers, self._used_old_names, self._prefix)

    # Inside

    def _own_layers(self) -> list[dict[str, Any]]:
        """The layers that users gave: all but the table."""
        return [layer for layer in self._layers if not isinstance(layer, _Table)]

    def _has_table(self) -> bool:
        return any(isinstance(layer, _Table) for layer in self._layers)

    def _spellings(self, key: str) -> Iterator[str]:
        """The new names that *key* may stand for."""
        if self._prefix and key.startswith(self._prefix):
            yield key.removeprefix(self._prefix).lower()
        if key in NEW_NAMES:
            yield NEW_NAMES[key]

    def _canonical(self, key: str) -> str:
        for name in self._spellings(key):
            if name in OPTIONS or key not in NEW_NAMES:
                return name
        return key

    def _accept_all(self, given: Mapping[str, Any]) -> dict[str, Any]:
        accepted = {}
        for key, value in given.items():
            name = self._canonical(key)
            if names.is_unknown(name) and not any(name in layer for layer in self.maps):
                raise ImproperlyConfigured(names.explain_unknown(name, "" if name == key else self._prefix))
            if key in NEW_NAMES and name != key and not (self._prefix and key.startswith(self._prefix)):
                self._used_old_names.add(key)
            accepted[name] = names.convert(name, value)
        return accepted

    def _refresh_after(self, *changed: str) -> None:
        """Resolve the values and tell who wants to know."""
        self._refresh()
        for observer in self._observers:
            observer({name: self.get(name) for name in changed})

    def _refresh(self) -> None:
        values: dict[str, Any] = {}
        for layer in reversed(self.maps):
            values.update(layer)
        self._derive(values)
        mine = self.__dict__
        stale = mine.keys() - values.keys()
        mine.update(values)
        for name in stale:
            del mine[name]
        object.__setattr__(self, "_state", object())

    def _derive(self, values: dict[str, Any]) -> None:
        """Values that follow from the environment and from other settings."""
        environment = os.environ.get
        url = environment("CELERY_BROKER_URL")
        derived = {
            "broker_url": url or values.get("broker_url") or values.get("broker_host"),
            "result_backend": environment("CELERY_RESULT_BACKEND") or values.get("result_backend"),
        }
        if self._has_table():
            queue = values.get("task_default_queue")
            derived |= {
                "broker_read_url": environment("CELERY_BROKER_READ_URL")
                or values.get("broker_read_url")
                or derived["broker_url"],
                "broker_write_url": environment("CELERY_BROKER_WRITE_URL")
                or values.get("broker_write_url")
                or derived["broker_url"],
                "task_default_exchange": values.get("task_default_exchange") or queue,
                "task_default_routing_key": values.get("task_default_routing_key") or queue,
                "timezone": values.get("timezone") or values.get("TIME_ZONE") or self._source.get("TIME_ZONE"),
            }
        values.update((name, value) for name, value in derived.items() if value is not None)


class _Table(dict[str, Any]):
    """The layer of the table's defaults. Every app has its own: `conf.beat_schedule["x"] = …` changes it in place."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _make_table, ({name: value for name, value in self.items() if value != DEFAULTS[name]},)


def _make_table(changed: Mapping[str, Any] = MappingProxyType({})) -> _Table:
    table = _Table((name, _copy_value(value)) for name, value in DEFAULTS.items())
    table.update(changed)
    return table


def _copy_layer(layer: Mapping[str, Any]) -> dict[str, Any]:
    return type(layer)(layer) if isinstance(layer, _Table) else dict(layer)


def _copy_value(value: Any) -> Any:
    return value.copy() if isinstance(value, dict | list) else value


def detect_settings(
    conf: Any,
    preconf: Mapping[str, Any] | None = None,
    ignore_keys: Collection[str] | None = None,
    prefix: str | None = None,
    all_keys: object = None,
    old_keys: object = None,
    defaults: Iterable[Any] = (),
) -> Settings:
    """Settings from *conf* (a mapping, or an object with attributes), with *preconf* over it and *defaults* under it.

    With *prefix* (a namespace such as `CELERY`) only names that begin with it are settings; the rest can still be read.
    Raises `ImproperlyConfigured` when old and new names are mixed, leaving out *ignore_keys*.
    """
    prefix = f"{prefix.rstrip('_')}_" if prefix else ""
    source = as_mapping(conf if conf is not None else {})
    loose = isinstance(source, ObjectSource)
    settings = Settings(None, (), None, None, prefix)
    chosen = _choose_prefixed(source, prefix, settings) if prefix else _choose(source, loose=loose)
    if not prefix:
        names.refuse_mixture(chosen.keys() - set(ignore_keys or ()))
    object.__setattr__(settings, "_source", source)
    configured: dict[str, Any] = {}
    settings._layers.extend([configured, _make_table()])
    for layer in defaults:  # before what is configured: what they name is a setting from then on
        settings.add_defaults(layer)
    configured.update(settings._accept_all(chosen))
    settings.update(preconf or {})
    return settings


def _choose(source: Mapping[str, Any], *, loose: bool) -> dict[str, Any]:
    """The settings in *source*; if it is an object, without the helper variables beside them."""
    if not loose:
        return dict(source)
    chosen = {}
    for name in source:
        if names.is_unknown(name):
            if names.is_misspelt(name) and is_setting_value(source[name]):
                raise ImproperlyConfigured(names.explain_unknown(name))
        elif name in source:
            chosen[name] = source[name]
    return chosen


def _choose_prefixed(source: Mapping[str, Any], prefix: str, settings: Settings) -> dict[str, Any]:
    """The settings in *source* whose names begin with *prefix*, under their own names."""
    chosen = {}
    for key in source:
        if not key.startswith(prefix):
            continue
        name = key.removeprefix(prefix).lower()
        if not names.is_unknown(name):
            chosen[name] = source[key]
        elif key in NEW_NAMES:
            settings._used_old_names.add(key)
        elif names.is_misspelt(name):
            logger.warning("%s It is not used.", names.explain_unknown(name, prefix))
    return chosen


def _restore(changes: dict[str, Any], layers: list[dict[str, Any]], used_old_names: set[str], prefix: str) -> Settings:
    settings = Settings(None, layers, None, used_old_names, prefix)
    settings._changes.update(changes)
    settings._refresh()
    return settings


__all__ = ["Settings", "detect_settings"]
