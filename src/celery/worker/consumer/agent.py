"""`Agent`, under the path that Celery has it at."""

from celery.worker.consumer.marks import Agent

__all__ = ["Agent"]
