"""Whether an app consumes from quorum queues of RabbitMQ."""

from __future__ import annotations

from typing import Any


def detect_quorum_queues(app: Any, driver_type: str) -> tuple[bool, str]:
    """(Whether a queue of *app* is a quorum queue, its name); never with another driver than `amqp`."""
    if driver_type == "amqp":
        for queue in app.amqp.queues.consuming():
            if (queue.arguments or {}).get("x-queue-type") == "quorum":
                return True, queue.name
    return False, ""


__all__ = ["detect_quorum_queues"]
