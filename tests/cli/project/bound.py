"""Queues behind exchanges of every type."""

from __future__ import annotations

from kombu import Exchange, Queue, binding
from kombu.common import Broadcast

from celery import Celery

app = Celery("bound")
animals, work = Exchange("animals", "topic"), Exchange("work", "direct")
app.conf.task_queues = (
    Queue("dogs", bindings=[binding(animals, "dog.#"), binding(animals, "#.dog"), binding(work, "dogs")]),
    Queue("cats", exchange=work, routing_key="cat"),
    Queue("plain"),
    Broadcast("everybody"),
)
