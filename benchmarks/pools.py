"""Jobs a second through each pool, with a runner that does nothing: what the pool itself costs.

    python benchmarks/pools.py [jobs] [bytes per envelope]

`parent` is the processor time of the submitting process for each job, in microseconds.
"""

from __future__ import annotations

import selectors
import sys
import time
from functools import partial

from celery.concurrency.base import Pool, PoolOptions, Runner
from celery.concurrency.prefork import PreforkPool
from celery.concurrency.solo import SoloPool
from celery.concurrency.thread import ThreadPool
from celery.wire.message import Job, Outcome, Record


def run_nothing(job: Job) -> Outcome:
    return Outcome(job.tag, "SUCCESS")


def run_with_result(job: Job) -> Outcome:
    key = f"celery-task-meta-{job.tag}"
    return Outcome(job.tag, "SUCCESS", 0.0, (Record(key, b"x" * 200),), detail="None")


def work_for(seconds: float, job: Job) -> Outcome:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass
    return Outcome(job.tag, "SUCCESS")


def boot_nothing() -> Runner:
    return run_nothing


def boot_with_result() -> Runner:
    return run_with_result


def boot_working(seconds: float) -> Runner:
    return partial(work_for, seconds)


def measure(title: str, pool: Pool, jobs: int, size: int) -> None:
    began = time.perf_counter()
    pool.start()
    ready = time.perf_counter() - began
    drain(pool, min(jobs, 2000), size)
    began, cpu = time.perf_counter(), time.process_time()
    polls = drain(pool, jobs, size)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    pool.stop(5)
    rate, each = jobs / seconds, cpu / jobs * 1e6
    print(
        f"{title:32} {rate:>10,.0f}/s   parent {each:5.1f} us   {jobs / polls:5.1f} a poll   start {ready * 1e3:.0f} ms"
    )


def drain(pool: Pool, jobs: int, size: int) -> int:
    """Push *jobs* through as the worker's loop does; how many polls it took."""
    envelope, sent, ended, polls = b"x" * size, 0, 0, 0
    with selectors.DefaultSelector() as selector:
        for number in pool.filenos():
            selector.register(number, selectors.EVENT_READ)
        while ended < jobs:
            count = min(pool.free(), jobs - sent)
            if count:
                pool.submit([Job(tag, envelope) for tag in range(sent, sent + count)])
                sent += count
            selector.select(pool.wait_hint())
            ended += len(pool.poll())
            polls += 1
    return polls


def main() -> None:
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 800
    fair = PoolOptions(window=1)
    measure("solo", SoloPool(1, boot_nothing), jobs, size)
    measure("threads, 2", ThreadPool(2, boot_nothing), jobs, size)
    measure("prefork, 2", PreforkPool(2, boot_nothing), jobs, size)
    measure("prefork, 2, stored results", PreforkPool(2, boot_with_result), jobs, size)
    measure("prefork, 2, window of one", PreforkPool(2, boot_nothing, fair), jobs, size)
    measure("prefork, 2, jobs of 40 us", PreforkPool(2, partial(boot_working, 0.00004)), jobs, size)
    measure("prefork, 2, jobs of 1 ms", PreforkPool(2, partial(boot_working, 0.001)), jobs // 50, size)
    measure("prefork, 1 task a child", PreforkPool(2, boot_nothing, PoolOptions(max_tasks=1)), 200, size)


if __name__ == "__main__":
    main()
