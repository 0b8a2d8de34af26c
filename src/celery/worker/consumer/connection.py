"""`Connection`, under the path that Celery has it at."""

from celery.worker.consumer.marks import Connection

__all__ = ["Connection"]
