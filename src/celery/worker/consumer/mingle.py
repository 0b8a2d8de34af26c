"""`Mingle`, under the path that Celery has it at."""

from celery.worker.consumer.marks import Mingle, logger

__all__ = ["Mingle", "logger"]
