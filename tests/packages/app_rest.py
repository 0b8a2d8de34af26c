import os
import time

from celery_batches import Batches
from celery_once import QueueOnce
from celery_singleton import Singleton

from celery import Celery

app = Celery("app_rest", broker=os.environ["URL"], backend=os.environ["URL"])
app.conf.worker_prefetch_multiplier = 0
app.conf.ONCE = {"backend": "celery_once.backends.Redis", "settings": {"url": os.environ["URL"], "default_timeout": 60}}


def double(requests):
    for request in requests:
        app.backend.mark_as_done(request.id, [request.args[0] * 2, len(requests)], request=request)


@app.task(base=Batches, flush_every=5, flush_interval=600, name="doubled")
def doubled(requests):
    double(requests)


@app.task(base=Batches, flush_every=600, flush_interval=1, name="doubled_soon")
def doubled_soon(requests):
    double(requests)


@app.task(name="add")
def add(x, y):
    return x + y


@app.task(base=Singleton, name="single")
def single(x):
    return x


@app.task(base=QueueOnce, once={"graceful": True}, name="once")
def once(x):
    return x


def before():
    """No worker runs yet: what is sent twice waits once."""
    first, second = single.delay(1), single.delay(1)
    print("SINGLE", first.id == second.id)
    first, second = once.delay(1), once.delay(1)
    print("ONCE", second.state if second else second)
    print("WAIT", sum(app.broker.stats(["celery"])[0].ready for _ in [0]))


def once_more():
    """Its lock goes a moment after what has it has ended."""
    until = time.monotonic() + 60
    while (sent := once.delay(1)).state == "REJECTED" and time.monotonic() < until:
        time.sleep(0.01)
    return sent


def drive():
    results = [doubled.delay(number) for number in range(10)]
    late = [doubled_soon.delay(number) for number in range(2)]
    others = [add.delay(number, 1) for number in range(5)]
    print("ADDED", [result.get(timeout=60) for result in others])
    values = [result.get(timeout=60) for result in results]
    print("BATCHES", [value for value, _ in values] == [2 * n for n in range(10)], [size for _, size in values])
    print("LATE", [result.get(timeout=60)[0] for result in late])
    print("AGAIN", single.delay(1).get(timeout=60), once_more().get(timeout=60))
