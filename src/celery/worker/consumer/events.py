"""`Events`, under the path that Celery has it at."""

from celery.worker.consumer.marks import Events

__all__ = ["Events"]
