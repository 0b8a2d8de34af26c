"""`Heart`, under the path that Celery has it at."""

from celery.worker.consumer.marks import Heart

__all__ = ["Heart"]
