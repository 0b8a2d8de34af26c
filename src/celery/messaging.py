"""Alias door: kombu's connections and consumers of the current app."""

from __future__ import annotations

from typing import Any

from celery._state import get_current_app
from celery.local import Proxy

establish_connection: Any = Proxy(lambda: get_current_app().connection)
TaskConsumer: Any = Proxy(lambda: get_current_app().amqp.TaskConsumer)
