"""`Tasks`, under the path that Celery has it at."""

from celery.worker.consumer.marks import Tasks

__all__ = ["Tasks"]
