"""A picture of a cluster, drawn from its events: its workers, and the tasks of late.

`State.event` takes events in any order; what is older than what is known of a task does not overwrite it.  The picture
is bounded: the tasks and workers that were heard of longest ago are forgotten.  Times are Unix seconds; what
timestamps leave open the logical clocks of the events decide.
"""

from __future__ import annotations

import threading
from bisect import insort
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from platform import python_implementation
from typing import Any, NamedTuple
from weakref import WeakSet, ref

from celery.events import members
from celery.events.members import DRIFT_WARNING as DRIFT_WARNING
from celery.events.members import HEARTBEAT_DRIFT_MAX as HEARTBEAT_DRIFT_MAX
from celery.events.members import HEARTBEAT_EXPIRE_WINDOW as HEARTBEAT_EXPIRE_WINDOW
from celery.events.members import R_TASK as R_TASK
from celery.events.members import R_WORKER as R_WORKER
from celery.events.members import TASK_EVENT_TO_STATE as TASK_EVENT_TO_STATE
from celery.events.members import Task, Worker, heartbeat_expires, peek
from celery.events.members import _depickle_task as _depickle_task
from celery.events.members import logger as logger
from celery.events.members import warn as warn
from celery.events.members import with_unique_field as with_unique_field
from celery.utils.functional import LRUCache

PYPY = python_implementation() == "PyPy"
R_STATE = "<State: events={0.event_count} tasks={0.task_count}>"
Found = tuple[str, Task]
"""(id, task)."""
EMPTY_INDEXES = 1000
"""New tasks between two removals of indexes that index nothing any more."""


class CallableDefaultdict(defaultdict[Any, Any]):
    """A map of groups that can also be called: `tasks_by_type("proj.add", limit=10)`."""

    def __init__(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self.fun = fun
        super().__init__(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fun(*args, **kwargs)


class Moment(NamedTuple):
    """When something happened to a task. Logical clocks come before timestamps, where both events have one."""

    clock: int
    timestamp: float
    id: str
    obj: ref[Any]

    def __lt__(self, other: tuple[Any, ...]) -> bool:
        clock, other_clock = self.clock, other[0]
        if clock and other_clock:
            return bool(clock < other_clock) if clock != other_clock else bool(self.id < other[2])
        return bool((self.timestamp or 0.0) < (other[1] or 0.0))


class State:
    """The picture. Every method may be called by any thread.

    *callback* is called with the state and every event, before it is taken in; *on_node_join* and *on_node_leave* with
    the worker that went online or offline.  A worker that leaves is forgotten if there is an *on_node_leave*, and kept,
    offline, if there is none.
    """

    Worker: type[members.Worker] = Worker
    Task: type[members.Task] = Task
    event_count = 0
    """Events taken in."""
    task_count = 0
    """Tasks that a worker has received."""
    heap_multiplier = 4
    """Moments kept for every task kept."""

    def __init__(
        self,
        callback: Callable[[State, dict[str, Any]], Any] | None = None,
        workers: Any = None,
        tasks: Any = None,
        taskheap: list[Any] | None = None,
        max_workers_in_memory: int = 5000,
        max_tasks_in_memory: int = 10000,
        on_node_join: Callable[[members.Worker], Any] | None = None,
        on_node_leave: Callable[[members.Worker], Any] | None = None,
        tasks_by_type: Mapping[str, Iterable[str]] | None = None,
        tasks_by_worker: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        self.event_callback = callback
        self.workers: Any = LRUCache(max_workers_in_memory) if workers is None else workers
        self.tasks: Any = LRUCache(max_tasks_in_memory) if tasks is None else tasks
        self.max_workers_in_memory = max_workers_in_memory
        self.max_tasks_in_memory = max_tasks_in_memory
        self.on_node_join = on_node_join
        self.on_node_leave = on_node_leave
        self.handlers: dict[str, Callable[[str, dict[str, Any]], Any]] = {}
        """Group -> what takes events of a group of your own: called with what follows the group in the type."""
        self._mutex = threading.RLock()
        self._taskheap: list[Any] = [] if taskheap is None else taskheap
        self._seen_types = set(tasks_by_type or ())
        self._orphans: LRUCache[str, WeakSet[members.Task]] = LRUCache(max_tasks_in_memory)
        """Id of a task that is not known yet -> its children."""
        self._created = 0
        self.tasks_by_type = self._index(self._tasks_by_type, tasks_by_type)
        self.tasks_by_worker = self._index(self._tasks_by_worker, tasks_by_worker)
        if tasks:
            self._adopt()
        if taskheap is None:
            self.rebuild_taskheap()

    def _index(self, find: Callable[..., Any], known: Mapping[str, Iterable[str]] | None) -> CallableDefaultdict:
        index = CallableDefaultdict(find, WeakSet)
        for name, uuids in (known or {}).items():
            found = (peek(self.tasks, uuid) for uuid in uuids)
            index[name].update(task for task in found if task is not None)
        return index

    def _adopt(self) -> None:
        """Tasks that were given, or unpickled, are this cluster's from now on."""
        tasks = list(self.tasks.values())
        for task in tasks:
            task.cluster_state = self
        for task in tasks:
            self._link(task)
            if task.name is not None:
                self._seen_types.add(task.name)

    # -- events ----------------------------------------------------------------------------------------------------

    def event(self, event: dict[str, Any]) -> Any:
        """Take in an event: ((worker or task, whether it is new), what follows the group in the type).

        None for groups that are neither `worker` nor `task` nor in `handlers`, and for worker events that lack what
        every event has.  Raises KeyError for task events that do.
        """
        with self._mutex:
            return self._event(event)

    def _event(self, event: dict[str, Any]) -> Any:
        self.event_count += 1
        if self.event_callback is not None:
            self.event_callback(self, event)
        group, _, subject = event["type"].partition("-")
        handler = self.handlers.get(group)
        if handler is not None:
            return handler(subject, event), subject
        if group == "task":
            return self._take_task(subject, event), subject
        if group == "worker" and event.keys() >= {"hostname", "timestamp", "local_received"}:
            return self._take_worker(subject, event), subject
        return None

    def worker_event(self, type_: str, fields: dict[str, Any]) -> tuple[members.Worker, bool]:
        """Take in an event `worker-<type_>`: (the worker, whether it is new)."""
        found: tuple[members.Worker, bool] = self._event({**fields, "type": f"worker-{type_}"})[0]
        return found

    def task_event(self, type_: str, fields: dict[str, Any]) -> tuple[members.Task, bool]:
        """Take in an event `task-<type_>`: (the task, whether it is new)."""
        found: tuple[members.Task, bool] = self._event({**fields, "type": f"task-{type_}"})[0]
        return found

    def _take_worker(self, subject: str, event: dict[str, Any]) -> tuple[members.Worker, bool]:
        hostname, leaves = event["hostname"], subject == "offline"
        created = False
        if leaves and peek(self.workers, hostname) is None:
            worker = self.Worker(hostname)  # not worth a place: it is gone
        else:
            worker, created = self.get_or_create_worker(hostname)
        worker.event(subject, event["timestamp"], event["local_received"], event)
        if self.on_node_join is not None and (created or subject == "online"):
            self.on_node_join(worker)
        if self.on_node_leave is not None and leaves:
            self.on_node_leave(worker)
            self.workers.pop(hostname, None)
        return worker, created

    def _take_task(self, subject: str, event: dict[str, Any]) -> tuple[members.Task, bool]:
        uuid, hostname, clock = event["uuid"], event["hostname"], event["clock"]
        timestamp, received = event["timestamp"], event["local_received"]
        task, created = self.get_or_create_task(uuid)
        if subject == "sent":
            moved = created or task.client != hostname
            task.client = origin = hostname
        else:
            worker = self.get_or_create_worker(hostname)[0]
            moved = worker is not task.worker
            task.worker = worker
            worker.event(None, timestamp, received)
            origin = worker.id
        name = task.name
        task.event(subject, timestamp, received, event)
        self._insert(Moment(clock, timestamp, origin, ref(task)))
        if subject == "received":
            self.task_count += 1
        # Only what is new about it: an index finds out slowly that it has a task.
        if moved:
            self.tasks_by_worker[hostname].add(task)
        if task.name is not None and (created or task.name != name):
            self._seen_types.add(task.name)
            self.tasks_by_type[task.name].add(task)
        if created:
            self._drop_empty_indexes()
        if created or task.parent_id is not None:
            self._link(task)
        return task, created

    def _insert(self, moment: Moment) -> None:
        heap = self._taskheap
        # The next clock, nearly always.
        if heap and not 0 < heap[-1][0] < moment[0] and moment < heap[-1]:
            insort(heap, moment)
        else:
            heap.append(moment)
        if len(heap) > self.max_tasks_in_memory * self.heap_multiplier:
            self._compact()

    def _compact(self) -> None:
        """Keep the last moment of every task that is still known."""
        seen: set[int] = set()
        kept = []
        for moment in reversed(self._taskheap):
            task = moment[3]()
            if task is not None and id(task) not in seen and peek(self.tasks, task.uuid) is task:
                seen.add(id(task))
                kept.append(moment)
        self._taskheap[:] = reversed(kept)

    def _drop_empty_indexes(self) -> None:
        self._created += 1
        if self._created % EMPTY_INDEXES:
            return
        for index in (self.tasks_by_type, self.tasks_by_worker):
            for name in [name for name, indexed in index.items() if not indexed]:
                del index[name]

    def _link(self, task: members.Task) -> None:
        """Give *task* to its parent, and its children to it."""
        if task.uuid is not None and task.uuid in self._orphans.data:
            task.children.update(self._orphans.pop(task.uuid))
        if task.parent_id is None:
            return
        parent = peek(self.tasks, task.parent_id)
        if parent is not None:
            parent.children.add(task)
            return
        orphans = peek(self._orphans, task.parent_id)
        if orphans is None:
            orphans = self._orphans[task.parent_id] = WeakSet()
        orphans.add(task)

    def get_or_create_worker(self, hostname: str, **kwargs: Any) -> tuple[members.Worker, bool]:
        """(the worker, whether it is new); *kwargs* become its attributes."""
        try:
            worker = self.workers[hostname]
        except KeyError:
            worker = self.workers[hostname] = self.Worker(hostname, **kwargs)
            return worker, True
        if kwargs:
            worker.update(kwargs)
        return worker, False

    def get_or_create_task(self, uuid: str) -> tuple[members.Task, bool]:
        """(the task, whether it is new)."""
        try:
            return self.tasks[uuid], False
        except KeyError:
            task = self.tasks[uuid] = self.Task(uuid, cluster_state=self)
            return task, True

    # -- looking at it ---------------------------------------------------------------------------------------------

    def itertasks(self, limit: int | None = None) -> Iterator[Found]:
        """(id, task), at most *limit*, those that were heard of longest ago first."""
        yield from islice(self.tasks.items(), limit)

    def tasks_by_time(self, limit: int | None = None, reverse: bool = True) -> Iterator[Found]:
        """(id, task), at most *limit*, by when something last happened to them, the last first if *reverse*."""
        yield from islice(self._in_order(reverse), limit)

    tasks_by_timestamp = tasks_by_time

    def _in_order(self, reverse: bool) -> Iterator[Found]:
        moments = list(self._taskheap)
        seen = set()
        for moment in reversed(moments) if reverse else moments:
            task = moment[3]()
            if task is not None and task.uuid not in seen:
                seen.add(task.uuid)
                yield task.uuid, task

    def _tasks_by_type(self, name: str, limit: int | None = None, reverse: bool = True) -> Iterator[Found]:
        """(id, task) of the tasks of one name."""
        return islice((found for found in self._in_order(reverse) if found[1].name == name), limit)

    def _tasks_by_worker(self, hostname: str, limit: int | None = None, reverse: bool = True) -> Iterator[Found]:
        """(id, task) of the tasks that one worker had last."""
        return islice(
            (found for found in self._in_order(reverse) if found[1].worker and found[1].worker.hostname == hostname),
            limit,
        )

    def task_types(self) -> list[str]:
        """The names of tasks that were seen, in order."""
        return sorted(self._seen_types)

    def alive_workers(self) -> Iterator[members.Worker]:
        """The workers that are online."""
        return (worker for worker in list(self.workers.values()) if worker.alive)

    def freeze_while(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What *fun* returns; no event is taken in meanwhile. With `clear_after=True` all is forgotten afterwards."""
        clear_after = kwargs.pop("clear_after", False)
        with self._mutex:
            try:
                return fun(*args, **kwargs)
            finally:
                if clear_after:
                    self._clear()

    # -- forgetting ------------------------------------------------------------------------------------------------

    def clear(self, ready: bool = True) -> None:
        """Forget workers, counts and tasks; with *ready* only the tasks that have ended."""
        with self._mutex:
            self._clear(ready)

    def clear_tasks(self, ready: bool = True) -> None:
        """Forget tasks; with *ready* only those that have ended."""
        with self._mutex:
            self._clear_tasks(ready)

    def _clear(self, ready: bool = True) -> None:
        self.workers.clear()
        self._clear_tasks(ready)
        self.event_count = self.task_count = 0

    def _clear_tasks(self, ready: bool = True) -> None:
        kept = [(uuid, task) for uuid, task in self.tasks.items() if ready and not task.ready]
        self.tasks.clear()
        self.tasks.update(kept)
        self._compact()

    def rebuild_taskheap(self, timetuple: Any = Moment) -> None:
        """Put the tasks in order anew, one moment each."""
        self._taskheap[:] = [
            timetuple(task.clock, task.timestamp, task.origin or "", ref(task)) for task in self.tasks.values()
        ]
        self._taskheap.sort()

    def __repr__(self) -> str:
        return R_STATE.format(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__class__, self.__reduce_args__()

    def __reduce_args__(self) -> tuple[Any, ...]:
        indexes = [
            {name: [task.uuid for task in indexed] for name, indexed in index.items()}
            for index in (self.tasks_by_type, self.tasks_by_worker)
        ]
        return (
            self.event_callback, self.workers, self.tasks, None, self.max_workers_in_memory, self.max_tasks_in_memory,
            self.on_node_join, self.on_node_leave, *indexes,
        )  # fmt: skip


__all__ = ("State", "Task", "Worker", "heartbeat_expires")
