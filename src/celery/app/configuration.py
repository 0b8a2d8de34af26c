"""Where an app's settings come from, and when they are read: late, at their first use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from celery.app.settings import Settings, detect_settings
from celery.exceptions import ImproperlyConfigured
from celery.local import maybe_evaluate
from celery.utils.dispatch import Signal

if TYPE_CHECKING:
    from celery.app.base import Celery


class PendingConfiguration(MutableMapping[str, Any]):
    """`app.conf` until the configuration is read.

    Writing is remembered and does not read it, so that an app can be configured in any order; reading anything does,
    and from then on this stands for the app's `Settings`.
    """

    _values: dict[str, Any]
    callback: Callable[[], Settings]
    _settings: Settings | None = None

    def __init__(self, conf: dict[str, Any], callback: Callable[[], Settings]) -> None:
        object.__setattr__(self, "_values", conf)
        object.__setattr__(self, "callback", callback)

    @property
    def data(self) -> Settings:
        """The settings, read now if they have not been."""
        if self._settings is None:
            object.__setattr__(self, "_settings", self.callback())
        assert self._settings is not None
        return self._settings

    def _place(self) -> MutableMapping[str, Any]:
        return self._values if self._settings is None else self._settings

    def __setitem__(self, key: str, value: Any) -> None:
        self._place()[key] = value

    def __setattr__(self, name: str, value: Any) -> None:
        self._place()[name] = value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.data, name)

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    def __delitem__(self, key: str) -> None:
        del self.data[key]

    def __contains__(self, key: object) -> bool:
        return key in self.data

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def get(self, key: str, default: Any = None) -> Any:
        return self.data.get(key, default)

    def update(self, *args: Any, **kwargs: Any) -> None:
        self._place().update(*args, **kwargs)

    def setdefault(self, key: str, default: Any = None) -> Any:
        return self._place().setdefault(key, default)

    def clear(self) -> None:
        self._place().clear()

    def __repr__(self) -> str:
        return repr(self.data)


class Configuration:
    """The sources of one app's settings: what was set on the app, an object or module, defaults added later."""

    def __init__(
        self, app: Celery, changes: Mapping[str, Any], source: Any, namespace: str | None, silent: bool
    ) -> None:
        self.app = app
        self.changes: dict[str, Any] = dict(changes)
        self.by_constructor: set[str] = set()
        self.source = source
        self.namespace = namespace
        self.silent = silent
        self.settings: Settings | None = None
        self.defaults: list[Any] = []
        self.pending = PendingConfiguration(self.changes, self.load)
        self._loading = False

    def preset(self, key: str, value: Any) -> None:
        """A setting given to the constructor; it may stand beside settings in the old style."""
        if value:
            self.changes[key] = value
            self.by_constructor.add(key)

    def read_from(self, source: Any, namespace: str | None) -> None:
        """Take *source* from now on; what was read is forgotten."""
        self.source = source
        self.namespace = namespace or self.namespace
        self.settings = None
        self.pending = PendingConfiguration(self.changes, self.load)

    def load(self) -> Settings:
        """Read it all, tell whom it concerns, and return the settings."""
        if self.settings is not None:
            return self.settings
        app = self.app
        with app._lock:
            if self.settings is not None:
                return self.settings
            if self._loading:
                raise ImproperlyConfigured(
                    "A setting was read while the configuration was being read; on_configure must not do that."
                )
            self._loading = True
            try:
                settings = self._read()
            finally:
                self._loading = False
            self.settings = settings
            app._settings = settings
            object.__setattr__(self.pending, "_settings", settings)
        app._when_configured()
        if isinstance(app.on_after_configure, Signal):
            app.on_after_configure.send(sender=app, source=settings)
        return settings

    def _read(self) -> Settings:
        app = self.app
        _tell(app.on_configure, app)
        if self.source is not None:
            app.loader.config_from_object(self.source, silent=self.silent)
        settings = detect_settings(
            app.prepare_config(app.loader.conf),
            self.changes,
            ignore_keys=self.by_constructor,
            prefix=self.namespace,
            defaults=[maybe_evaluate(_called(defaults)) for defaults in self.defaults],
        )
        app.configured = True
        return settings

    def add_defaults(self, defaults: Any) -> None:
        """A mapping of defaults, or a function that returns one when the configuration is read."""
        self.defaults.append(defaults)
        if self.settings is not None:
            self.settings.add_defaults(maybe_evaluate(_called(defaults)))


def _called(defaults: Any) -> Any:
    return defaults() if callable(defaults) else defaults


def _tell(hook: Any, app: Celery) -> None:
    """A hook is a signal, or the method of a subclass."""
    if isinstance(hook, Signal):
        hook.send(sender=app)
    else:
        hook()
