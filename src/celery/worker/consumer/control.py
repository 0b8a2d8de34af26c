"""`Control`, under the path that Celery has it at."""

from celery.worker.consumer.marks import Control, logger

__all__ = ["Control", "logger"]
