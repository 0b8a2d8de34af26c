"""What a loader does; subclass `BaseLoader` to read configuration from elsewhere or to hook into the worker's life."""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from celery import signals
from celery.app.defaults import OPTIONS, Option, find
from celery.app.names import explain_unknown
from celery.app.source import as_mapping
from celery.utils.functional import maybe_list
from celery.utils.imports import NotAPackage, find_module, import_from_cwd, symbol_by_name

CONFIG_INVALID_NAME = "There is no configuration module {module!r}: give the dotted name of a Python module."
CONFIG_WITH_SUFFIX = "There is no configuration module {module!r}; did you mean {suggest!r}?"

unconfigured = object()


class BaseLoader:
    """Reads the configuration and imports the modules of tasks.

    The `on_*` methods are hooks and do nothing here. One loader belongs to one app.
    """

    builtin_modules: Iterable[str] = frozenset()
    configured = False
    override_backends: dict[str, str] = {}
    worker_initialized = False
    _conf: Any = unconfigured

    def __init__(self, app: Any, **kwargs: Any) -> None:
        self.app = app
        self.task_modules: set[str] = set()

    def now(self, utc: bool = True) -> datetime:
        """The time now, in UTC or (naive) where this machine stands."""
        return datetime.now(UTC) if utc else datetime.now()  # noqa: DTZ005 - local time is what was asked for

    # Hooks

    def on_task_init(self, task_id: str, task: Any) -> None:
        """A task is about to run."""

    def on_process_cleanup(self) -> None:
        """A task has run."""

    def on_worker_init(self) -> None:
        """A worker starts."""

    def on_worker_shutdown(self) -> None:
        """A worker ends."""

    def on_worker_process_init(self) -> None:
        """A process of a worker's pool starts."""

    def init_worker(self) -> None:
        """Prepare for a worker, once: import the modules of tasks and call the hook."""
        if not self.worker_initialized:
            self.worker_initialized = True
            self.import_default_modules()
            self.on_worker_init()

    def shutdown_worker(self) -> None:
        self.on_worker_shutdown()

    def init_worker_process(self) -> None:
        self.on_worker_process_init()

    # Modules

    def import_task_module(self, module: str) -> Any:
        """Import *module*, and remember that it has tasks."""
        self.task_modules.add(module)
        return self.import_from_cwd(module)

    def import_module(self, module: str, package: str | None = None) -> Any:
        return importlib.import_module(module, package=package)

    def import_from_cwd(self, module: str, imp: Callable[..., Any] | None = None, package: str | None = None) -> Any:
        return import_from_cwd(module, imp or self.import_module, package=package)

    def find_module(self, module: str) -> ModuleType | None:
        return find_module(module)

    @cached_property
    def default_modules(self) -> tuple[str, ...]:
        """The modules named by the settings `imports` and `include`."""
        conf = self.app.conf
        named = (*self.builtin_modules, *(maybe_list(conf.imports) or ()), *(maybe_list(conf.include) or ()))
        return tuple(dict.fromkeys(named))

    def import_default_modules(self) -> list[Any]:
        """Send the signal `import_modules`, then import what `default_modules` names. Errors of either are raised."""
        for _, response in signals.import_modules.send(sender=self.app):
            if isinstance(response, Exception):
                raise response
        return [self.import_task_module(module) for module in self.default_modules]

    def autodiscover_tasks(self, packages: Iterable[str], related_name: str | None = "tasks") -> None:
        """Import the module *related_name* of every package that has one."""
        modules = autodiscover_tasks(packages, related_name)
        self.task_modules.update(module.__name__ for module in modules if module)

    # Configuration

    @property
    def conf(self) -> Any:
        """The configuration as users wrote it; read at first use. `None` if there is none."""
        if self._conf is unconfigured:
            self._conf = self.read_configuration()
        return self._conf

    def config_from_object(self, obj: Any, silent: bool = False) -> bool:
        """Take the configuration from *obj*: a mapping, an object, or the name of a module or of an object in one.

        Raises `ImportError` or `AttributeError` for a name that leads nowhere; with *silent* returns false instead.
        """
        if isinstance(obj, str):
            try:
                obj = self._smart_import(obj, imp=self.import_from_cwd)
            except (ImportError, AttributeError):
                if silent:
                    return False
                raise
        self._conf = as_mapping(obj)
        if self._conf.get("override_backends") is not None:
            self.override_backends = self._conf["override_backends"]
        return True

    def read_configuration(self, env: str = "CELERY_CONFIG_MODULE") -> Mapping[str, Any] | None:
        """The module that the environment variable *env* names, as a mapping; `None` if it names none."""
        name = os.environ.get(env)
        return as_mapping(self._import_config_module(name)) if name else None

    def cmdline_config_parser(
        self,
        args: Iterable[str],
        namespace: str = "celery",
        re_type: re.Pattern[str] = re.compile(r"\((\w+)\)"),
        extra_types: Mapping[str, Callable[[str], Any]] | None = None,
        override_types: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Settings from arguments such as `worker.prefetch_multiplier=10` or `task_routes=(json){"a": "b"}`.

        A name may lack its namespace if that is *namespace*; a type in brackets is used instead of the setting's own.
        Raises `ValueError` for an argument that is none.
        """
        types = {**_EXPLICIT_TYPES, **(extra_types or {})}
        return dict(_parse_argument(arg, namespace, re_type, types, override_types or {}) for arg in args)

    def _smart_import(self, path: str, imp: Callable[..., Any] | None = None) -> Any:
        imp = imp or self.import_module
        if ":" in path:
            return symbol_by_name(path, imp=imp)
        try:
            return imp(path)
        except ModuleNotFoundError as error:
            if not _names(error, path):
                raise
        # Not a module: perhaps the name of something in one.
        try:
            return symbol_by_name(path, imp=imp)
        except ModuleNotFoundError as error:
            if not _names(error, path):
                raise
            raise _no_config_module(path, error) from None

    def _import_config_module(self, name: str) -> Any:
        try:
            return self.import_from_cwd(name)
        except (ModuleNotFoundError, NotAPackage) as error:
            if isinstance(error, ModuleNotFoundError) and not _names(error, name):
                raise
            raise _no_config_module(name, error) from error


def autodiscover_tasks(packages: Iterable[str], related_name: str | None = "tasks") -> list[ModuleType | None]:
    """The module *related_name* of each package; `None` where a package has none."""
    return [find_related_module(package, related_name) for package in packages]


def find_related_module(package: str, related_name: str | None) -> ModuleType | None:
    """Import the module *related_name* of *package*; `None` if it has none.

    *package* may also be a module, then its package is meant, or the name of something in one (Django's app
    configurations). An error inside the module found is raised.
    """
    try:
        module = importlib.import_module(package)
        if not related_name:
            return module
    except ModuleNotFoundError as error:
        # `project.apps.ShopConfig` is a class in a module: look beside that module.
        parent = package.rpartition(".")[0]
        if not parent or error.name is None or not _names(error, package):
            raise
        package = parent
        module = importlib.import_module(package)
        if not related_name:
            return module
    home = module.__package__ or package
    name = f"{home}.{related_name}"
    try:
        if find_spec(name) is None:
            return None
    except ModuleNotFoundError as error:
        if _names(error, name):
            return None
        raise
    return importlib.import_module(name)


def _names(error: ModuleNotFoundError, path: str) -> bool:
    """Whether it is *path* or a parent of it that was not found, not something that it imports."""
    return error.name is not None and (path == error.name or path.startswith(f"{error.name}."))


def _no_config_module(name: str, error: Exception) -> ModuleNotFoundError:
    if name.endswith(".py"):
        message = CONFIG_WITH_SUFFIX.format(module=name, suggest=name.removesuffix(".py"))
    else:
        message = CONFIG_INVALID_NAME.format(module=name)
    return ModuleNotFoundError(message, name=getattr(error, "name", None))


# In arguments of the command line, containers are JSON.
_EXPLICIT_TYPES: dict[str, Callable[[str], Any]] = {
    "any": lambda text: text,
    "bool": Option(type="bool").to_python,
    "dict": json.loads,
    "float": float,
    "int": int,
    "json": json.loads,
    "list": json.loads,
    "string": str,
    "tuple": lambda text: tuple(json.loads(text)),
}


def _parse_argument(
    arg: str,
    namespace: str,
    re_type: re.Pattern[str],
    types: Mapping[str, Callable[[str], Any]],
    override_types: Mapping[str, str],
) -> tuple[str, Any]:
    key, equals, text = arg.partition("=")
    if not equals or not key:
        raise ValueError(f"{arg!r} is no setting: write name=value.")
    name, option = _find_option(key.strip().lower(), namespace)
    match = re_type.match(text)
    kind = match[1] if match else override_types.get(option.type)
    if kind is not None and kind not in types:
        raise ValueError(f"{arg!r} has the type {kind!r}; known are: {', '.join(sorted(types))}.")
    if match:
        text = text[match.end() :]
    elif kind is None and (option.type == "dict" or (option.type in {"list", "tuple"} and text.startswith("["))):
        kind = "json"
    try:
        return name, types[kind](text) if kind else option.to_python(text)
    except ValueError as error:
        raise ValueError(f"The setting {name!r} is wrong: {error}.") from error


def _find_option(key: str, namespace: str) -> tuple[str, Option]:
    """The full name of a setting given as `name`, `namespace.name` or `.name`, and what the table says of it."""
    space, dot, name = key.rpartition(".")
    if not dot:
        space = ""
        name = key
    elif not space:
        space = namespace
    full = f"{space}_{name}" if space and space != "celery" else name
    if full in OPTIONS:
        return full, OPTIONS[full]
    try:
        where = find(name, space or namespace)
    except KeyError:
        raise ValueError(explain_unknown(full)) from None
    if isinstance(where.type, dict) or (space and where.namespace != space):
        raise ValueError(explain_unknown(full))
    return f"{where.namespace}_{where.key}" if where.namespace else where.key, where.type


__all__ = ["BaseLoader"]
