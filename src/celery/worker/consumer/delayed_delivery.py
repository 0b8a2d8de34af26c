"""`DelayedDelivery`, under the path that Celery has it at."""

from celery.worker.consumer.marks import DelayedDelivery, logger

__all__ = ["DelayedDelivery", "logger"]
