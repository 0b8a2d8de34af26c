"""The worker's loop, under the path that users know it by."""

from __future__ import annotations

from celery.worker.consumer.consumer import Consumer

__all__ = ["Consumer"]
