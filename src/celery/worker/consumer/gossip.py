"""`Gossip`, under the path that Celery has it at."""

from celery.worker.consumer.marks import Gossip, logger

__all__ = ["Gossip", "logger"]
