"""What the embedded drivers do in a second: `python benchmarks/drivers.py [memory|sqlite]`."""

from __future__ import annotations

import multiprocessing
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from celery.backends.store import Store
from celery.brokers.base import Broker
from celery.drivers import broker_class, store_class
from celery.wire.message import Outgoing, Record, Settlement

BATCH = 200
ENVELOPE = b'{"body": "' + b"W1sxLCAyXSwge30sIHt9XQ==" * 4 + b'", "headers": {' + b'"key": "value", ' * 40 + b"}}"


def messages(count: int) -> list[Outgoing]:
    return [Outgoing(ENVELOPE, "celery", task_id=str(uuid4())) for _ in range(count)]


def drain(broker: Broker, store: Store, *, records: bool) -> int:
    """Claim, start and settle everything in batches; how many it was."""
    consumer = broker.consumer(["celery"], name="bench", store=store)
    done = 0
    while deliveries := consumer.claim(BATCH):
        consumer.start(deliveries)
        if records:
            batch = [
                Settlement(d, records=(Record(f"celery-task-meta-{uuid4()}", b"x" * 200, writer="w", ttl=86400.0),))
                for d in deliveries
            ]
        else:
            batch = [Settlement(d) for d in deliveries]
        assert all(consumer.settle(batch))
        done += len(deliveries)
    consumer.close()
    return done


def rate(label: str, work: Callable[[], int]) -> None:
    processor, wall = time.process_time(), time.perf_counter()
    count = work()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    print(f"{label:44} {count / wall:>10,.0f}/s   {1e6 * processor / count:>6.1f} us of CPU each")


def publish(broker: Broker, made: list[Outgoing], size: int) -> int:
    for start in range(0, len(made), size):
        broker.publish(made[start : start + size])
    return len(made)


def publish_until(url: str, count: int) -> None:
    publish(broker_class(url)(url), messages(count), 1)


def contended(url: str, broker: Broker, store: Store, count: int) -> int:
    """Drain while two other processes publish; nothing may be missing."""
    context = multiprocessing.get_context("spawn")
    publishers = [context.Process(target=publish_until, args=(url, count)) for _ in range(2)]
    for publisher in publishers:
        publisher.start()
    consumer = broker.consumer(["celery"], name="bench", store=store)
    done = 0
    while done < 2 * count:
        deliveries = consumer.claim(BATCH, timeout=5.0)
        consumer.start(deliveries)
        assert all(consumer.settle([Settlement(delivery) for delivery in deliveries]))
        done += len(deliveries)
    consumer.close()
    for publisher in publishers:
        publisher.join()
    return done


def echo(url: str, count: int) -> None:
    """Answer each message on queue `ping` with one on `pong` that carries the time of its claim."""
    broker = broker_class(url)(url)
    consumer = broker.consumer(["ping"], name="echo")
    done = 0
    while done < count:
        for delivery in consumer.claim(10, timeout=5.0):
            now = time.perf_counter()
            consumer.settle([Settlement(delivery)])
            broker.publish([Outgoing(repr(now).encode(), "pong")])
            done += 1
    consumer.close()


def latency(url: str, broker: Broker, count: int) -> None:
    context = multiprocessing.get_context("spawn")
    other = context.Process(target=echo, args=(url, count))
    other.start()
    consumer = broker.consumer(["pong"], name="latency")
    took = []
    for number in range(count):
        time.sleep(0.005)
        before = time.perf_counter()
        broker.publish([Outgoing(b"?", "ping")])
        [delivery] = consumer.claim(1, timeout=10.0)
        consumer.settle([Settlement(delivery)])
        if number:
            took.append(float(delivery.envelope) - before)
    consumer.close()
    other.join()
    took.sort()
    print(
        f"{'publish to claim in another process':44} p50 {took[len(took) // 2] * 1e3:.2f} ms, "
        f"p99 {took[int(len(took) * 0.99)] * 1e3:.2f} ms"
    )


def idle(broker: Broker, seconds: float) -> None:
    consumer = broker.consumer(["idle"], name="idle")
    processor = time.process_time()
    waiter = threading.Thread(target=consumer.claim, args=(1, seconds))
    waiter.start()
    waiter.join()
    print(f"{'a consumer that waits':44} {100 * (time.process_time() - processor) / seconds:.2f} % of a core")
    consumer.close()


def run(url: str) -> None:
    print(f"{url.partition(':')[0]}, envelopes of {len(ENVELOPE)} bytes, batches of {BATCH}")
    broker, store = broker_class(url)(url), store_class(url)(url)
    few, many = messages(5_000), messages(50_000)
    rate("publish one by one", lambda: publish(broker, few, 1))
    drain(broker, store, records=False)
    rate("publish in batches of 500", lambda: publish(broker, many, 500))
    rate("claim + start + settle", lambda: drain(broker, store, records=False))
    publish(broker, many, 500)
    rate("claim + start + settle with one record each", lambda: drain(broker, store, records=True))
    if broker.can.shared:
        rate("drain while two processes publish", lambda: contended(url, broker, store, 5_000))
        latency(url, broker, 300)
    idle(broker, 3.0)
    broker.close()
    store.close()


def main() -> None:
    wanted = sys.argv[1:] or ["memory", "sqlite"]
    folder = Path(tempfile.mkdtemp(prefix="celery-bench-"))
    try:
        for scheme in wanted:
            run("memory://bench" if scheme == "memory" else f"sqlite:///{folder}/bench.db")
            print()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
