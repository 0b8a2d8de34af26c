"""The workflows in the documents that describe what this project is to be: their code, as it is written there.

Around the code stand the tasks that it presupposes, and a worker that runs them.
"""

from __future__ import annotations

import sys
import textwrap
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import celery
from celery import Celery, group
from celery.contrib.testing.app import TestApp
from celery.contrib.testing.worker import start_worker

PATIENCE = 30.0
NODE = "here@host"


@pytest.fixture
def app(place: str) -> Iterator[Celery]:
    with TestApp(broker=place, backend=place, set_as_current=True) as app:
        app.conf.worker_redirect_stdouts = False
        yield app


TASKS = """
import threading

tries = {}

@app.task
def add(x, y): return x + y

@app.task
def multiply(x, y): return x * y

@app.task
def summarize(value, label): return f"{label} {value}"

@app.task
def fetch_user(user): return {"user": user}

@app.task
def fetch_orders(user): return [f"order of {user}"]

@app.task
def fetch_payments(user): return [f"payment of {user}"]

@app.task
def process_image(name): return f"processed {name}"

@app.task
def generate_thumbnail(name): return f"thumbnail of {name}"

@app.task
def create_gallery(images): return "https://gallery/" + ",".join(images)

@app.task
def process_item(item):
    tries[item] = tries.get(item, 0) + 1
    if item == "bad":
        raise ValueError("this one never works")
    if item == "flaky" and tries[item] < 3:
        raise OSError("not yet")
    return item * 10

@app.task
def sum_results(numbers): return sum(numbers)

@app.task(name="tasks.notify_all", bind=True)
def notify_all(self, message): return [self.request.hostname, message]

@app.task
def download_file(url): return f"content of {url}"

@app.task
def process_file(content): return content.upper()

@app.task
def upload_result(content, destination): return [content, destination]

@app.task
def fetch_data(source): return len(source)

@app.task
def aggregate_results(numbers): return sum(numbers)

@app.task
def process_single_user(user_id): return f"user {user_id}"
"""


@pytest.fixture
def tasks(app: Celery, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module `tasks` of the documents."""
    module = ModuleType("tasks")
    module.__dict__["app"] = app
    monkeypatch.setitem(sys.modules, "tasks", module)
    exec(compile(TASKS, "tasks.py", "exec"), module.__dict__)
    return module


@pytest.fixture
def worker(app: Celery, tasks: ModuleType) -> Iterator[None]:
    with start_worker(
        app, hostname=NODE, pool="threads", concurrency=4, perform_ping_check=False, loglevel="CRITICAL",
        shutdown_timeout=PATIENCE,
    ):  # fmt: skip
        yield


def run(code: str, **names: Any) -> dict[str, Any]:
    """Run the code of a document; its names afterwards."""
    names["__name__"] = "document"
    exec(compile(textwrap.dedent(code), "document.py", "exec"), names)
    return names


def test_chain(worker: None, capsys: pytest.CaptureFixture[str]) -> None:
    run("""
        from celery import chain
        from tasks import add, multiply, summarize
        # Define workflow
        workflow = chain(
            add.s(4, 5), # Step 1: Returns 9
            multiply.s(2), # Step 2: 9 * 2 = 18
            summarize.s('Result:') # Step 3: 'Result: 18'
        )
        # Execute
        result = workflow.delay() # Async
        print(result.get()) # ['Result: 18']
    """)
    assert capsys.readouterr().out.splitlines()[-1] == "Result: 18"


def test_group(worker: None) -> None:
    names = run("""
        from celery import group
        from tasks import fetch_user, fetch_orders, fetch_payments
        # Parallel group
        workflow = group(
            fetch_user.s('user123'),
            fetch_orders.s('user123'),
            fetch_payments.s('user123')
        )
        # Execute
        results = workflow.delay() # Async
        user, orders, payments = results.get() # Tuple of results
    """)
    assert [names[name] for name in ("user", "orders", "payments")] == [
        {"user": "user123"}, ["order of user123"], ["payment of user123"],
    ]  # fmt: skip
    # "Results collected in order of completion": when that is asked for.
    assert len(list(names["results"].get(order="completion"))) == 3


def test_chord_that_was_called_and_is_delayed(worker: None, capsys: pytest.CaptureFixture[str]) -> None:
    names = run("""
        from celery import chord, group
        from tasks import process_image, generate_thumbnail, create_gallery
        # Group + callback
        header = chord(
            group(
                process_image.s('img1.jpg'),
                process_image.s('img2.jpg'),
                generate_thumbnail.s('img1.jpg')
            )
        )(create_gallery.s()) # Callback on results list
        # Execute
        result = header.delay()
        print(result.get()) # Gallery URL
    """)
    url = "https://gallery/processed img1.jpg,processed img2.jpg,thumbnail of img1.jpg"
    assert capsys.readouterr().out.splitlines()[-1] == url
    assert names["result"] is names["header"]  # it was under way already


def test_map_and_chunks(worker: None) -> None:
    names = run("""
        from celery import group
        from tasks import process_item
        # Map over list
        items = [1, 2, 3, 4, 5]
        workflow = group(process_item.s(item) for item in items)
        results = workflow.delay().get() # [result1, result2, ...]
    """)
    assert names["results"] == [10, 20, 30, 40, 50]
    names = run(
        """
        # Chunks (batch 2 items per task)
        from celery import chunks
        workflow = chunks(process_item.s(), 2, items)
        results = workflow.delay().get() # Aggregated results
        """,
        items=names["items"],
        process_item=names["process_item"],
    )
    assert names["results"] == [[10, 20], [30, 40], [50]]


def test_chain_of_chords(worker: None, tasks: ModuleType) -> None:
    names = run(
        """
        from celery import chord, chain
        step1 = chord(group(add.s(i, i) for i in range(5)))(sum_results.s())
        workflow = chain(step1, multiply.s(2))
        """,
        group=group, add=tasks.add, sum_results=tasks.sum_results, multiply=tasks.multiply,
    )  # fmt: skip
    assert names["workflow"].delay().get(timeout=PATIENCE) == 2 * sum(2 * i for i in range(5))
    assert names["step1"].get(timeout=PATIENCE) == 20


def test_broadcast(worker: None, monkeypatch: pytest.MonkeyPatch) -> None:
    # It takes those that answer within a second, and waits that long for others: here is one, however slow it is.
    for name, value in {"timeout": PATIENCE, "limit": 1}.items():
        monkeypatch.setitem(celery.broadcast.__kwdefaults__, name, value)
    names = run("""
        from celery import broadcast
        result = broadcast('tasks.notify_all', args=['update'])
    """)
    assert names["result"].get(timeout=PATIENCE) == [[NODE, "update"]]


def test_xmap(worker: None, tasks: ModuleType) -> None:
    names = run(
        """
        from celery.contrib import xmap
        results = xmap(process_item.s(), items, max_retries=3)
        """,
        items=[1, "flaky", 3],
        process_item=tasks.process_item,
    )
    assert names["results"].get(timeout=PATIENCE) == [10, "flaky" * 10, 30]
    assert tasks.tries == {1: 1, "flaky": 3, 3: 1}


def test_task_chaining(worker: None, capsys: pytest.CaptureFixture[str]) -> None:
    run("""
        # chaining.py
        # Chain tasks so one runs after another with the previous result as input
        from celery import chain, group, chord
        from tasks import app

        @app.task
        def add(x, y):
            result = x + y
            print(f"{x} + {y} = {result}")
            return result

        @app.task
        def multiply(x, y):
            result = x * y
            print(f"{x} * {y} = {result}")
            return result

        @app.task
        def format_result(value):
            formatted = f"Final result: {value}"
            print(formatted)
            return formatted

        # Chain: add(2, 2) → multiply(4, 10) → format_result("Final result: 40")
        task_chain = chain(
            add.s(2, 2),
            multiply.s(10),
            format_result.s()
        )
        result = task_chain()
        print(f"Chain result: {result.get()}")

        # Group: run tasks in parallel
        parallel = group(
            add.s(1, 2),
            add.s(3, 4),
            add.s(5, 6),
        )
        group_result = parallel()
        print(f"Group results: {group_result.get()}")
    """)
    lines = [line for line in capsys.readouterr().out.splitlines() if "result" in line or " = " in line]
    assert lines[:4] == ["2 + 2 = 4", "4 * 10 = 40", "Final result: 40", "Chain result: Final result: 40"]
    assert sorted(lines[4:7]) == ["1 + 2 = 3", "3 + 4 = 7", "5 + 6 = 11"]
    assert lines[7] == "Group results: [3, 7, 11]"


def test_pipeline_batch_and_chord(worker: None, tasks: ModuleType) -> None:
    names = run(
        """
        from celery import chain, group, chord
        # Chain: sequential pipeline
        pipeline = chain(
            download_file.s(url),
            process_file.s(),
            upload_result.s(destination),
        )
        result = pipeline.apply_async()
        # Group: parallel execution
        batch = group(
            process_image.s(image_id) for image_id in image_ids
        )
        group_result = batch.apply_async()
        # Chord: group + callback when all complete
        workflow = chord(
            [fetch_data.s(source) for source in sources],
            aggregate_results.s(),
        )
        workflow.apply_async()
        """,
        **{**vars(tasks), "url": "x", "destination": "bucket", "image_ids": [1, 2], "sources": ["a", "bb", "ccc"]},
    )
    assert names["result"].get(timeout=PATIENCE) == ["CONTENT OF X", "bucket"]
    assert names["group_result"].get(timeout=PATIENCE) == ["processed 1", "processed 2"]
    assert names["workflow"].apply_async().get(timeout=PATIENCE) == 6


def test_a_task_for_every_user(worker: None, tasks: ModuleType) -> None:
    class Users:
        """Stands for the model of the document."""

        class objects:
            @staticmethod
            def values_list(field: str, *, flat: bool) -> list[int]:
                return [1, 2, 3]

    names = run(
        """
        # Even better: Individual tasks with grouping
        from celery import group
        def process_all_users():
            user_ids = User.objects.values_list('id', flat=True)
            job = group(process_single_user.s(user_id) for user_id in user_ids)
            result = job.apply_async()
            return result
        """,
        User=Users,
        process_single_user=tasks.process_single_user,
    )
    assert names["process_all_users"]().get(timeout=PATIENCE) == ["user 1", "user 2", "user 3"]


def test_the_order_pipeline_of_the_challenge(app: Celery, tasks: ModuleType, worker: None) -> None:
    """Each step in a chain, the payment with three retries, and a fallback that notifies the support team."""
    seen: list[str] = []
    told = threading.Event()
    names = run(
        """
        from celery import chain

        @app.task(bind=True)
        def validate_order(self, order):
            seen.append("validate")
            return order

        @app.task(bind=True, max_retries=3, default_retry_delay=0)
        def charge_payment(self, order):
            seen.append("charge")
            if order["declined"] or seen.count("charge") < 3:
                raise self.retry(exc=OSError("the gateway is busy"))
            return order

        @app.task(bind=True)
        def send_confirmation(self, order):
            seen.append("confirm")
            return order

        @app.task(bind=True)
        def update_inventory(self, order):
            seen.append("inventory")
            return order["id"]

        @app.task
        def notify_support(task_id):
            seen.append("support")
            told.set()

        def process(order):
            return chain(validate_order.s(order), charge_payment.s().on_error(notify_support.s()),
                         send_confirmation.s(), update_inventory.s())()
        """,
        app=app,
        seen=seen,
        told=told,
    )
    assert names["process"]({"id": 7, "declined": False}).get(timeout=PATIENCE) == 7
    assert seen == ["validate", "charge", "charge", "charge", "confirm", "inventory"]
    seen.clear()
    with pytest.raises(OSError, match="gateway"):
        names["process"]({"id": 8, "declined": True}).get(timeout=PATIENCE)
    assert told.wait(PATIENCE)
    assert seen == ["validate", *["charge"] * 4, "support"]
