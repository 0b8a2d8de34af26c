"""What limits cost: the same tasks without any, with one that is never reached, and with 1,000 keys of one slot each.

    python benchmarks/limits.py [memory|sqlite|redis://…] [count]

It drives one consumer as a worker does (claim, settle and start in one step), without running tasks, and prints the
processor time of this process for each task; for Redis also the wall time, in which the server's is.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from celery.drivers import broker_class
from celery.wire.message import Delivery, Outgoing, Permit, Settlement
from celery.wire.protocol import encode_envelope, task_message

BATCH = 200
Needs = Callable[[int], tuple[Permit, ...]]


def drain(broker: Any, count: int, needs: Needs | None) -> tuple[float, float]:
    """(processor seconds, wall seconds) for *count* tasks."""
    envelope = encode_envelope(task_message("bench.task", "0" * 36, (1, 2)))
    for begin in range(0, count, 1000):
        broker.publish([Outgoing(envelope, "bench", task_id=str(number)) for number in range(begin, begin + 1000)])
    consumer = broker.consumer(["bench"], name="bench")
    ended, number, running = 0, 0, list[Delivery]()
    began, wall = time.process_time(), time.perf_counter()
    while ended < count:
        claimed = consumer.claim(BATCH)
        wanted: dict[Any, Any] = {}
        if needs is not None:
            for delivery in claimed:
                wanted[delivery.tag] = needs(number)
                number += 1
        settlements = [Settlement(delivery) for delivery in running]
        ended += len(settlements)
        _, verdicts = consumer.settle_and_start(settlements, claimed, (), wanted)
        running = [delivery for delivery, verdict in zip(claimed, verdicts, strict=True) if verdict == "ok"]
    found = time.process_time() - began, time.perf_counter() - wall
    consumer.close()
    broker.purge("bench")
    return found


def main() -> None:
    where = sys.argv[1] if len(sys.argv) > 1 else "sqlite"
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 20_000
    with tempfile.TemporaryDirectory() as folder:
        url = {"memory": "memory://bench", "sqlite": f"sqlite:///{folder}/bench.db"}.get(where, where)
        broker = broker_class(url)(url)
        plans: dict[str, Needs | None] = {
            "no limit": None,
            "a limit that is not reached": lambda number: (Permit("all", 10_000),),
            "1,000 keys, one slot each": lambda number: (Permit(f"key {number % 1000}", 1),),
        }
        least = {
            name: min((drain(broker, count, needs) for _ in range(3)), key=lambda pair: pair[1])
            for name, needs in plans.items()
        }
        base = least["no limit"]
        for name, (processor, wall) in least.items():
            print(
                f"{name:30} {processor / count * 1e6:7.2f} µs processor ({processor / base[0]:.2f}), "
                f"{wall / count * 1e6:7.2f} µs wall ({wall / base[1]:.2f})"
            )
        broker.close()


if __name__ == "__main__":
    main()
