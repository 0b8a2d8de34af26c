"""Where a task goes: the setting `task_routes`.

A router is a dict by name, pattern or regular expression; a callable `(name, args, kwargs, options, task=None, **kw)`;
an object with `route_for_task(name, args, kwargs)`; the path to one of these; or a list of any of them, the first
answer wins. An answer is options of `apply_async` (`{"queue": …, "priority": …}`) or the name of a queue.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from celery.exceptions import ImproperlyConfigured, QueueNotFound
from celery.utils.imports import symbol_by_name

# Names of tasks are a few; a program that makes them up must not fill the memory.
MAX_REMEMBERED = 10_000


class MapRoute:
    """Routes by exact name first, then by the first pattern that matches, in the order they were given."""

    def __init__(self, map: Mapping[Any, Any] | Iterable[tuple[Any, Any]]) -> None:
        self.map: dict[str, Any] = {}
        self.patterns: list[tuple[re.Pattern[str], Any]] = []
        for key, route in _pairs(map):
            if isinstance(key, re.Pattern):
                self.patterns.append((key, route))
            elif any(character in key for character in "*?["):
                self.patterns.append((re.compile(fnmatch.translate(key)), route))
            else:
                self.map[key] = route

    def __call__(self, name: str, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        if name in self.map:
            return _as_options(self.map[name])
        for pattern, route in self.patterns:
            if pattern.match(name):
                return _as_options(route)
        return None


class Router:
    """Finds the options with which a task is sent.

    *queues* is the app's `Queues`; a queue that is not in it is added where *create_missing*, else `QueueNotFound` is
    raised. Safe to use from several threads.
    """

    def __init__(
        self,
        routes: Iterable[Any] | None = None,
        queues: Any = None,
        create_missing: bool = False,
        app: Any = None,
    ) -> None:
        self.app = app
        self.queues = {} if queues is None else queues
        self.routes = [] if routes is None else list(routes)
        self.create_missing = create_missing
        self.by_name_only = all(isinstance(router, MapRoute) for router in self.routes)
        """Whether routes depend on the name alone: then they are looked up once for each name."""
        self._remembered: dict[str, dict[str, Any]] = {}

    def route(
        self,
        options: Mapping[str, Any],
        name: str,
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
        task_type: Any = None,
    ) -> dict[str, Any]:
        """`find`, with the queue as the object that `queues` has for it."""
        return self.expand_destination(self.find(options, name, args, kwargs, task_type))

    def find(
        self,
        options: Mapping[str, Any],
        name: str,
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
        task_type: Any = None,
    ) -> dict[str, Any]:
        """The options of the route, with those of *options* that are not `None` over them.

        The queue stays what the user wrote: a name or an object. Without a route, and in a route without queue and
        exchange, it is `task_default_queue`. The result is the caller's to change.
        """
        if self.routes:
            found = self._route_of(name, args, kwargs, options, task_type)
        else:
            found = {"queue": self.app.conf.task_default_queue}
        for key, value in options.items():
            if value is not None:
                found[key] = value
        return found

    def lookup_route(
        self,
        name: str,
        args: Any = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        task_type: Any = None,
    ) -> dict[str, Any] | None:
        """What the first router that answers says; `None` if none does."""
        for router in self.routes:
            answer = self.query_router(router, name, args, kwargs, options, task_type)
            if answer is not None:
                return _as_options(answer)
        return None

    def query_router(
        self,
        router: Any,
        task: str,
        args: Any,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any] | None,
        task_type: Any,
    ) -> Any:
        if hasattr(router, "route_for_task"):
            return router.route_for_task(task, args, kwargs)
        return router(task, args, kwargs, options, task=task_type)

    def expand_destination(self, route: str | Mapping[str, Any]) -> dict[str, Any]:
        """*route* with its queue as the object that `queues` has for it."""
        options = _as_options(route)
        queue = options.pop("queue", None)
        if queue:
            options["queue"] = self._queue(queue) if isinstance(queue, str) else queue
        return options

    def _route_of(
        self, name: str, args: Any, kwargs: Mapping[str, Any] | None, options: Mapping[str, Any], task_type: Any
    ) -> dict[str, Any]:
        remembered = self._remembered.get(name)
        if remembered is None:
            answer = self.lookup_route(name, args, kwargs or {}, options, task_type) or {}
            remembered = {key: value for key, value in answer.items() if value is not None}
            if self.by_name_only:
                if len(self._remembered) >= MAX_REMEMBERED:
                    self._remembered.clear()
                self._remembered[name] = remembered
        found = remembered.copy()
        if not found.get("queue") and not found.get("exchange"):
            found["queue"] = self.app.conf.task_default_queue
        return found

    def _queue(self, name: str) -> Any:
        try:
            return self.queues[name]
        except KeyError:
            raise QueueNotFound(
                f"There is no queue {name!r} in task_queues: add it, or turn task_create_missing_queues on."
            ) from None


def prepare(routes: Any) -> list[Any]:
    """The routers that the setting `task_routes` names. Raises `ImproperlyConfigured` for what is none."""
    if routes is None:
        return []
    return [_make_router(route) for route in (routes if isinstance(routes, list | tuple) else [routes])]


def expand_router_string(router: str) -> Any:
    """The router at a path; a class that has `route_for_task` is made an instance."""
    found = symbol_by_name(router)
    return found() if isinstance(found, type) and hasattr(found, "route_for_task") else found


def _make_router(route: Any) -> Any:
    if isinstance(route, str):
        return _LateRouter(route)
    if isinstance(route, Mapping | list | tuple):
        return MapRoute(route)
    if callable(route) or hasattr(route, "route_for_task"):
        return route
    raise ImproperlyConfigured(
        f"task_routes has {route!r}: give a dict, a function, an object with route_for_task, or the path to one."
    )


class _LateRouter:
    """A router given by its path: imported when it is first asked, for its module may need the app to be ready."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._router: Any = None

    def __call__(
        self, name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **kw: Any
    ) -> Mapping[str, Any] | str | None:
        if self._router is None:
            found = expand_router_string(self.path)
            self._router = MapRoute(found) if isinstance(found, Mapping | list | tuple) else found
        router: Callable[..., Any] = self._router
        if hasattr(router, "route_for_task"):
            return router.route_for_task(name, args, kwargs)  # type: ignore[no-any-return]
        return router(name, args, kwargs, options, task=task)  # type: ignore[no-any-return]


def _pairs(map: Any) -> list[tuple[Any, Any]]:
    """The (name, route) pairs of a dict or a list; raises `ImproperlyConfigured` for anything else."""
    pairs = list(map.items() if isinstance(map, Mapping) else map)
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str | re.Pattern):
            raise ImproperlyConfigured(
                f"task_routes has {pair!r}: in a list of routes each one is a pair of a task's name or pattern and"
                " where it goes; a list of them stands in another list, as ([('proj.*', {'queue': 'x'})],)."
            )
    return pairs


def _as_options(route: Any) -> dict[str, Any]:
    if isinstance(route, str):
        return {"queue": route}
    if isinstance(route, Mapping):
        return dict(route)
    raise ImproperlyConfigured(
        f"A route in task_routes is {route!r}: give the name of a queue, or a dict such as {{'queue': 'mail'}}."
    )


__all__ = ["MapRoute", "Router", "expand_router_string", "prepare"]
