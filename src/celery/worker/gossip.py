"""Gossip: workers listen to each other's heartbeats, and elect one of them for what only one is to do.

Nothing in a worker needs it, so it is off unless asked for.  Nodes of original Celery take part in the same elections.
"""

from __future__ import annotations

import heapq
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery.exceptions import BrokerError
from celery.utils.functional import LRUCache
from celery.utils.log import get_logger
from celery.worker.outlet import Outlet

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.events.members import Worker

logger = get_logger(__name__)

LOOK_EVERY = 5.0
"""Seconds after which nodes that fell silent are looked for."""
RETRY_EVERY = 1.0
ELECTIONS = 1000
"""Elections that are under way at most; the oldest is given up."""
PROTOCOL = 1


class Observers:
    """Who is told: sets of callables that take the worker."""

    def __init__(self) -> None:
        self.node_join: set[Callable[[Worker], Any]] = set()
        self.node_leave: set[Callable[[Worker], Any]] = set()
        self.node_lost: set[Callable[[Worker], Any]] = set()


class Election:
    """What this node knows of one election."""

    def __init__(self) -> None:
        self.candidates: list[tuple[int, str, str, str, Any]] = []
        """(clock, name, node, topic, action), a heap: the first is the one to lead."""
        self.acknowledged: set[str] = set()
        self.mine = False


class Gossip:
    """One node's part in it. It has a thread that listens; *eventer* sends."""

    def __init__(self, app: Celery, hostname: str, eventer: Any, timer: Outlet) -> None:
        self.app = app
        self.hostname = hostname
        self.full_hostname = f"{hostname}.{os.getpid()}"
        self.eventer = eventer
        self.timer = timer
        self.on = Observers()
        self.state: Any = app.events.State(
            on_node_join=self.on_node_join, on_node_leave=self.on_node_leave, max_tasks_in_memory=1
        )
        self.election_handlers: dict[str, Callable[[Any], Any]] = {"task": self.call_task}
        """Topic -> what the leader does with the action."""
        self._elections: LRUCache[str, Election] = LRUCache(ELECTIONS)
        self._receiver: Any = app.events.Receiver(
            None,
            handlers={"worker-elect": self._on_elect, "worker-elect-ack": self._on_ack, "*": self._take},
            routing_key="worker.#",
        )
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="celery-gossip", daemon=True)
        self._look: Any = None

    def start(self) -> None:
        self._thread.start()
        self._look = self.timer.call_repeatedly(LOOK_EVERY, self.periodic)

    def stop(self) -> None:
        self._stopped.set()
        if self._look is not None:
            self._look.cancel()
        self._receiver.stop()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._receiver.capture(wakeup=False)
            except BrokerError as error:
                logger.debug("Gossip lost the broker, trying again: %s", error)
                self._stopped.wait(RETRY_EVERY)
            except Exception:
                # A handler of the user's. The others go on to be told.
                logger.exception("Gossip could not take in an event")

    # -- who is there ----------------------------------------------------------------------------------------------

    def _take(self, event: dict[str, Any]) -> None:
        if event.get("hostname") != self.hostname:
            self.state.event(event)

    def on_node_join(self, worker: Worker) -> None:
        logger.debug("%s joined the party", worker.hostname)
        self._tell(self.on.node_join, worker)

    def on_node_leave(self, worker: Worker) -> None:
        logger.debug("%s left", worker.hostname)
        self._tell(self.on.node_leave, worker)

    def on_node_lost(self, worker: Worker) -> None:
        logger.info("missed heartbeat from %s", worker.hostname)
        self._tell(self.on.node_lost, worker)

    def _tell(self, observers: set[Callable[[Worker], Any]], worker: Worker) -> None:
        for observer in list(observers):
            try:
                observer(worker)
            except Exception:
                logger.exception("An observer of gossip failed: %r", observer)

    def periodic(self) -> None:
        """Look for nodes that fell silent, and forget them."""
        lost = [worker for worker in list(self.state.workers.values()) if not worker.alive]
        for worker in lost:
            self.state.workers.pop(worker.hostname, None)
            self.on_node_lost(worker)

    # -- elections -------------------------------------------------------------------------------------------------

    def election(self, id: str, topic: str, action: Any = None) -> None:
        """Stand for the election *id*: the node that stood first does *action*, by its handler for *topic*."""
        self._election(id).mine = True
        self.eventer.send("worker-elect", id=id, topic=topic, action=action, cver=PROTOCOL)

    def _election(self, id: str) -> Election:
        id = str(id)
        try:
            return self._elections[id]
        except KeyError:
            return self._elections.setdefault(id, Election())

    def _on_elect(self, event: dict[str, Any]) -> None:
        try:
            id, topic, name = event["id"], event["topic"], event["hostname"]
            candidate = _Candidate((event["clock"], name, f"{name}.{event['pid']}", topic, event.get("action")))
        except KeyError as error:
            logger.warning("An election request lacks %s", error)
            return
        heapq.heappush(self._election(id).candidates, candidate)
        self.eventer.send("worker-elect-ack", id=id)
        self._decide(id)

    def _on_ack(self, event: dict[str, Any]) -> None:
        election = self._elections.get(str(event.get("id")))
        if election is None or not election.mine:
            return
        election.acknowledged.add(str(event.get("hostname")))
        self._decide(str(event["id"]))

    def _decide(self, id: str) -> None:
        """See whether all have stood and acknowledged, and who leads then."""
        election = self._elections.get(id)
        if election is None or not election.mine:
            return
        alive = {worker.hostname for worker in self.state.alive_workers()} | {self.hostname}
        if not (alive <= election.acknowledged and alive <= {name for _, name, *_ in election.candidates}):
            return  # whoever acknowledges also stands, but perhaps a moment later
        self._elections.pop(id, None)
        _, _, leader, topic, action = election.candidates[0]
        if leader != self.full_hostname:
            logger.info("node %s elected for %r", leader, topic)
            return
        logger.info("I won the election %r", id)
        handler = self.election_handlers.get(topic)
        if handler is None:
            logger.error("Unknown election topic %r", topic)
        else:
            handler(action)

    def call_task(self, task: Any) -> None:
        """Send the task of a signature."""
        try:
            self.app.signature(task).apply_async()
        except Exception:
            logger.exception("Could not call task %r", task)


class _Candidate(tuple[int, str, str, str, Any]):
    """Compares by clock, then by name: actions need have no order."""

    __slots__ = ()

    def __lt__(self, other: tuple[Any, ...]) -> bool:
        return self[:2] < other[:2]
