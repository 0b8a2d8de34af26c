"""The stage on which `*.txt` is played: the real loop, ledger and memory broker, time that stands still, and a pool
whose jobs end when the scenario says so.

A scenario is a list of blocks: commands, a line `----`, and what came of them.  `pytest tests/scenarios --rewrite`
writes the second halves anew; review them as a diff.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any

from celery import Celery
from celery.brokers.base import NOTHING, Needs, Verdict
from celery.brokers.base import Consumer as Source
from celery.brokers.memory import MemoryBroker
from celery.concurrency.base import Pool, PoolCapabilities, Running
from celery.exceptions import BrokerError
from celery.utils.clock import FakeClock
from celery.wire.message import Delivery, Job, Outcome, Outgoing, Record, Settlement
from celery.wire.protocol import LIMIT, encode_envelope, peek, task_message
from celery.worker import state
from celery.worker.consumer import Consumer
from celery.worker.facts import FactsTable
from celery.worker.prefetch import Prefetch

NUMBERS = count()


def name_of(envelope: bytes) -> str:
    try:
        return peek(envelope).id
    except ValueError:
        return envelope.decode()[:20]


class ToldBroker(MemoryBroker):
    """A memory broker that tells what it is asked to do, and can be out of reach."""

    tell: Callable[[str], None]
    reachable = True

    def consumer(self, queues: Sequence[str], *, name: str, store: Any = None, weights: Any = None) -> Source:
        return ToldConsumer(self, super().consumer(queues, name=name, store=store, weights=weights))

    def check(self) -> None:
        if not self.reachable:
            raise BrokerError("the broker is out of reach")


class ToldConsumer(Source):
    def __init__(self, broker: ToldBroker, inner: Source) -> None:
        self.broker, self.inner = broker, inner
        self.queues, self.name = inner.queues, inner.name
        self.tell = broker.tell

    def claim(self, limit: int, timeout: float = 0.0, wanted: Mapping[str, int] = NOTHING) -> list[Delivery]:
        self.broker.check()
        found = self.inner.claim(limit, timeout, wanted)
        if found:
            self.tell(f"claim {limit}: " + " ".join(name_of(delivery.envelope) for delivery in found))
        return found

    def start(
        self, deliveries: Sequence[Delivery], records: Sequence[Record] = (), needs: Needs = NOTHING
    ) -> list[Verdict]:
        self.broker.check()
        verdicts = self.inner.start(deliveries, records, needs)
        for delivery, verdict in zip(deliveries, verdicts, strict=True):
            said = "" if verdict == "ok" else f" ({verdict})"
            self.tell(f"start {name_of(delivery.envelope)}{said}{stored(records)}")
        return verdicts

    def park(self, deliveries: Sequence[Delivery], needs: Needs) -> list[Verdict]:
        self.broker.check()
        verdicts = self.inner.park(deliveries, needs)
        for delivery, verdict in zip(deliveries, verdicts, strict=True):
            self.tell(f"park {name_of(delivery.envelope)} for {needs[delivery.tag][0].key}: {verdict}")
        return verdicts

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        self.broker.check()
        applied = self.inner.settle(settlements)
        for settlement, kept in zip(settlements, applied, strict=True):
            self.tell(
                f"settle {name_of(settlement.delivery.envelope)}: {said_of(settlement)}{'' if kept else ' REFUSED'}"
            )
        return applied

    def release(self, deliveries: Sequence[Delivery]) -> None:
        self.broker.check()
        self.inner.release(deliveries)
        self.tell("release " + " ".join(name_of(delivery.envelope) for delivery in deliveries))

    def renew(self) -> bool:
        self.broker.check()
        return self.inner.renew()

    def wake(self) -> None:
        self.inner.wake()

    def fileno(self) -> int:
        return self.inner.fileno()

    def due_in(self) -> float | None:
        return self.inner.due_in()

    def close(self) -> None:
        self.broker.check()
        self.inner.close()


def said_of(settlement: Settlement) -> str:
    words = [settlement.verb]
    if settlement.delay:
        words.append(f"in {settlement.delay:g} s")
    if settlement.reason:
        words.append(f"({settlement.reason})")
    words += [f"+ message for {message.task_id}{due(message)}" for message in settlement.messages]
    return " ".join(words) + stored(settlement.records)


def due(message: Outgoing) -> str:
    return "" if message.due is None else " later"


def stored(records: Sequence[Record]) -> str:
    return "".join(f" + {record.key.removeprefix('celery-task-meta-')} is {what(record)}" for record in records)


def what(record: Record) -> str:
    meta = json.loads(record.value)
    result = meta["result"]
    if isinstance(result, dict) and "exc_type" in result:
        return f"{record.state} {result['exc_type']}: {' '.join(map(str, result['exc_message']))}"
    return record.state


class HandPool(Pool):
    """Jobs end by hand. The first of each slot runs, the rest of its window waits."""

    name = "hand"

    def __init__(self, size: int, window: int, tell: Callable[[str], None]) -> None:
        super().__init__(size, lambda: lambda job: Outcome(job.tag, "SUCCESS"))
        self.can = PoolCapabilities(processes=True, soft_limits=True, hard_limits=True, windows=window > 1)
        self.window = window
        self.tell = tell
        self.jobs: dict[int, str] = {}
        self.ended: list[Outcome] = []

    def start(self) -> None:
        """Nothing to start."""

    def free(self) -> int:
        return max(0, self.size * self.window - len(self.jobs))

    def submit(self, jobs: Sequence[Job]) -> None:
        assert len(jobs) <= self.free()
        for job in jobs:
            self.jobs[job.tag] = name_of(job.envelope)
            limits = "".join(f" {word}={limit:g}" for word, limit in (("soft", job.soft), ("hard", job.hard)) if limit)
            self.tell(f"run {self.jobs[job.tag]}{limits}")

    def end(self, name: str, state: str, **fields: Any) -> None:
        tag = next(tag for tag, other in self.jobs.items() if other == name)
        del self.jobs[tag]
        self.ended.append(Outcome(tag, state, **fields))

    def poll(self) -> list[Outcome]:
        ended, self.ended = self.ended, []
        return ended

    def filenos(self) -> list[int]:
        return []

    def wait_hint(self) -> float | None:
        return None

    def running(self) -> list[Running]:
        return [Running(tag, 1, 1.0 if place < self.size else None) for place, tag in enumerate(self.jobs)]

    def withdraw(self) -> list[int]:
        tags = [running.tag for running in self.running() if running.started is None]
        for tag in tags:
            self.tell(f"withdraw {self.jobs.pop(tag)}")
        return tags

    def kill(self, tag: int, signal: int) -> bool:
        self.tell(f"kill {self.jobs[tag]} with {signal}")
        self.end(self.jobs[tag], "LOST")
        return True

    def resize(self, size: int) -> None:
        self.size = size

    def pids(self) -> list[int]:
        return [1]

    def stop(self, timeout: float | None = None) -> list[Outcome]:
        return self.poll()

    def terminate(self) -> list[Outcome]:
        for place, name in enumerate(list(self.jobs.values())):
            self.tell(f"end {name}")
            self.end(name, "LOST" if place < self.size else "RETURNED")
        return self.poll()


@dataclass
class Stage:
    """Everything a scenario can speak of. Commands are the methods `do_*`."""

    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clock = FakeClock()
        place = f"scenario{next(NUMBERS)}"
        self.app = Celery("scenario", broker=f"memory://{place}", backend=f"memory://{place}", set_as_current=False)
        self.broker = ToldBroker(f"memory://{place}", options={"lease": 30.0}, clock=self.clock)
        self.broker.tell = self.told.append
        self.workers: dict[str, Consumer] = {}
        self.name = "w"
        state.reset_state()

    def close(self) -> None:
        self.broker.reachable = True
        for worker in self.workers.values():
            worker.close()
        state.reset_state()

    @property
    def worker(self) -> Consumer:
        return self.workers[self.name]

    @property
    def pool(self) -> HandPool:
        assert isinstance(self.worker.pool, HandPool)
        return self.worker.pool

    def play(self, line: str) -> None:
        words = shlex.split(line)
        positional = [word for word in words[1:] if "=" not in word]
        options = dict(word.split("=", 1) for word in words[1:] if "=" in word)
        getattr(self, f"do_{words[0].replace('-', '_')}")(*positional, **options)

    def do_task(self, name: str, **options: str) -> None:
        """task NAME [option=value …]"""
        values = {key: json.loads(value) for key, value in options.items()}

        @self.app.task(name=name, shared=False, **values)
        def play(*args: Any) -> None:
            """Never called: the scenario says what comes of it."""

    def do_worker(
        self, name: str = "w", slots: str = "1", prefetch: str = "4", window: str = "1", fair: str = ""
    ) -> None:
        """worker [NAME] [slots=N] [prefetch=N] [window=N] [fair=yes]"""
        self.app.finalize()
        self.name = name
        pool = HandPool(int(slots), int(window), self.told.append)
        self.workers[name] = Consumer(
            self.app,
            pool,
            ["celery"],
            hostname=f"{name}@host",
            facts=FactsTable(self.app),
            prefetch=Prefetch(int(prefetch), disabled=bool(fair)),
            broker=self.broker,
            clock=self.clock,
        )

    def do_as(self, name: str) -> None:
        """as NAME: the next commands are about this worker"""
        self.name = name

    def do_publish(self, task: str, *ids: str, **options: str) -> None:
        """publish TASK ID… [eta=+N] [expires=+N] [due=+N] [time_limit=N] [soft_time_limit=N] [retries=N] [key=N]"""
        now = self.clock.time()
        moments = {
            key: datetime.fromtimestamp(now + float(value), UTC)
            for key, value in options.items()
            if key in {"eta", "expires"}
        }
        rest: dict[str, Any] = {
            key: json.loads(value) for key, value in options.items() if key not in {"eta", "expires", "due", "key"}
        }
        if "key" in options:
            key, _, slots = options["key"].partition(":")
            rest["headers"] = {LIMIT: [key, int(slots)]}
        later = now + float(options["due"]) if "due" in options else None
        self.broker.publish([
            Outgoing(encode_envelope(task_message(task, id, **moments, **rest)), "celery", due=later, task_id=id)
            for id in ids
        ])  # fmt: skip

    def do_publish_raw(self, text: str) -> None:
        """publish-raw TEXT"""
        self.broker.publish([Outgoing(text.encode(), "celery")])

    def do_turn(self, times: str = "3") -> None:
        """turn: let the loop do what it can"""
        for _ in range(int(times)):
            self.worker.wait(0)
            self.worker.turn()

    def do_end(
        self, id: str, state: str = "SUCCESS", runtime: str = "0.5", requeue: str = "", detail: str = "", **more: str
    ) -> None:
        """end ID [STATE] [runtime=SECONDS] [requeue=yes] [detail=TEXT] [internal=yes] [follow=ID]"""
        outcome: dict[str, Any] = {"runtime": float(runtime), "requeue": bool(requeue), "detail": detail}
        outcome["internal"] = bool(more.get("internal"))
        if state == "SUCCESS":
            outcome["records"] = (self.app.backend.record(id, 1, "SUCCESS"),)
        if more.get("follow"):
            message = encode_envelope(task_message(more.get("task", "next"), more["follow"]))
            outcome["messages"] = (
                Outgoing(message, more.get("to", "celery"), more.get("exchange", ""), task_id=more["follow"]),
            )
        self.pool.end(id, state, **outcome)

    def do_advance(self, seconds: str) -> None:
        """advance SECONDS"""
        self.clock.advance(float(seconds))

    def do_renew(self) -> None:
        """renew: what the lease keeper does"""
        if not self.worker.renew():
            self.told.append("lease lost")
            self.worker.on_lease_lost()

    def do_sweep(self) -> None:
        self.told.append(f"swept {self.broker.sweep()}")

    def do_revoke(self, *ids: str) -> None:
        """revoke ID…: as recorded at the broker"""
        self.broker.revoke(ids, 3600)

    def do_revoke_here(self, *ids: str) -> None:
        """revoke-here ID…: as told to this worker alone"""
        state.revoked.update(ids)

    def do_terminate_task(self, id: str) -> None:
        """terminate-task ID: as `revoke(terminate=True)`"""
        request = next(request for request in self.worker.inside.values() if request.id == id)
        request.killed, request.signum = "revocation", "SIGTERM"
        self.worker.pool.kill(request.tag, 15)

    def do_broker(self, what: str) -> None:
        """broker down|up"""
        self.broker.reachable = what == "up"

    def do_stop(self) -> None:
        """stop: a warm shutdown"""
        self.worker.stop()

    def do_terminate(self) -> None:
        """terminate: a cold shutdown"""
        self.worker.terminate()

    def do_crash(self) -> None:
        """crash: this worker is gone without a word"""
        self.told.append(f"crashed with {len(self.worker.requests())} tasks in hand")

    def do_finished(self) -> None:
        """finished: would `run` return?"""
        self.told.append("finished" if self.worker.finished() else "not finished")

    def do_show(self) -> None:
        """show: what the broker has"""
        [stats] = self.broker.stats(["celery"])
        parked = f", parked {stats.parked}" if stats.parked else ""
        said = f"ready {stats.ready}, leased {stats.leased}, delayed {stats.delayed}, dead {stats.dead}"
        self.told.append(said + parked)
        for entry in self.broker.entries("dead"):
            self.told.append(f"dead {name_of(entry.envelope)}: {entry.reason}")

    def do_result(self, *ids: str) -> None:
        """result ID…: what a client sees"""
        for id in ids:
            meta = self.app.backend.get_task_meta(id)
            said = "" if meta["status"] in {"SUCCESS", "PENDING"} else f" {meta['result']!r}"
            self.told.append(f"{id} {meta['status']}{said}")
