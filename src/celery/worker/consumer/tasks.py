"""`Tasks`, under the path that Celery has it at."""

from celery.worker.consumer.marks import Tasks, debug, logger

__all__ = ["Tasks", "debug", "logger"]
