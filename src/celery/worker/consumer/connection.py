"""`Connection`, under the path that Celery has it at."""

from celery.worker.consumer.marks import Connection, info, logger

__all__ = ["Connection", "info", "logger"]
