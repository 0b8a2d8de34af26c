"""`Control`, under the path that Celery has it at."""

from celery.worker.consumer.marks import Control

__all__ = ["Control"]
