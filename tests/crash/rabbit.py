"""What fault tests on RabbitMQ need beside the fleet: the kinds of queues, what was committed, and what is left."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest
import redis

from crash.fleet import Fleet, check_promises
from rig.proxy import Proxy

META = b"celery-task-meta-"


def kinds(short: str) -> pytest.MarkDecorator:
    """Parametrises a test with `kind`, of queues: *short* always, the other one only with `make chaos`."""
    other = {"classic": "quorum", "quorum": "classic"}[short]
    return pytest.mark.parametrize("kind", [short, pytest.param(other, marks=pytest.mark.chaos)])


def through(proxy: Proxy, url: str) -> str:
    """The same vhost as *url*, by way of *proxy*."""
    return f"amqp://guest:guest@127.0.0.1:{proxy.port}/{url.rpartition('/')[2]}"


class Commits:
    """Every value that a Redis server has stored as the result of a task, as it announces them. Ends with `close`."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._heard = self._client.pubsub()
        self._heard.psubscribe(META.decode() + "*")
        self.values: defaultdict[str, set[bytes]] = defaultdict(set)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="commits")
        self._thread.start()

    def _listen(self) -> None:
        while not self._ends.is_set():
            message: dict[str, Any] | None = self._heard.get_message(timeout=0.1)
            if message is not None and message["type"] == "pmessage":
                self.values[message["channel"].removeprefix(META).decode()].add(message["data"])

    def close(self) -> None:
        self._ends.set()
        self._thread.join(10)
        self._heard.close()
        self._client.close()

    def check(self, ids: Sequence[str]) -> None:
        """One result each: what was stored was never replaced by that of another execution.

        But for a failure of a task that was taken for lost: what it comes to in the end is stronger.
        """
        mark = uuid4().hex
        self._client.publish(META + mark.encode(), b"")
        deadline = time.monotonic() + 30
        while mark not in self.values:  # what was stored before is heard before
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for id in ids:
            values = self.values[id]
            weak = {value for value in values if b"WorkerLostError" in value}
            assert len(values - weak) <= 1, f"{id} has several results: {values}"
            assert len(weak) <= 1, f"{id} was lost twice: {weak}"
            assert values, f"the result of {id} was never stored"


def check_kept(
    fleet: Fleet, ids: Sequence[str], commits: Commits, *, lost_early: bool = True, once: bool = False
) -> None:
    """`check_promises`, one result each, and nothing left in the queue or with a worker once they have gone.

    With *once*, nothing ran twice.
    """
    check_promises(fleet, ids, lost_early=lost_early)
    commits.check(ids)
    if once:
        assert fleet.executions() == len(ids)
    living = [worker for worker in fleet.workers if worker.poll() is None]
    notes = [fleet.folder / f"ready{index}" for index, worker in enumerate(fleet.workers) if worker in living]
    fleet.wait(lambda: all(note.exists() for note in notes))
    for worker in living:
        worker.terminate()
    assert [worker.wait(60) for worker in living] == [0] * len(living)
    if not fleet.idle():
        # Copies of what has ended, whose acknowledgement went with a node or a connection: the next worker drops them.
        ran, heir = fleet.executions(), fleet.start(ready=True)
        fleet.wait(fleet.idle)
        heir.terminate()
        assert heir.wait(60) == 0
        assert fleet.executions() == ran, "what was left had not ended: it ran once more"
        commits.check(ids)


class Producer:
    """Sends one task after the other from the fleet's producer, whatever becomes of the broker meanwhile."""

    def __init__(self, fleet: Fleet, count: int, pause: float = 0.005, first: int = 9_000_000) -> None:
        self._fleet = fleet
        fleet.client(
            "import threading, time\n"
            "import oracle_app\n"
            "from kombu.exceptions import OperationalError\n"
            "oracle_app.confirmed = []\n"
            "oracle_app.refused = []\n"
            "def produce():\n"
            f"    for n in range({first}, {first + count}):\n"
            "        try:\n"
            "            oracle_app.confirmed.append(late.apply_async((n, 0.001)).id)\n"
            "        except OperationalError as error:\n"
            "            oracle_app.refused.append(str(error))\n"
            f"        time.sleep({pause})\n"
            "oracle_app.producer = threading.Thread(target=produce, daemon=True)\n"
            "oracle_app.producer.start()\n"
        )

    def count(self) -> int:
        """How many the broker has confirmed so far."""
        return int(self._fleet.client("import oracle_app; print(len(oracle_app.confirmed))"))

    def confirmed(self) -> list[str]:
        """The ids of all that the broker has confirmed, when it has sent them all."""
        return self._fleet.client(
            "import oracle_app; oracle_app.producer.join(); print(*oracle_app.confirmed)", timeout=600
        ).split()
