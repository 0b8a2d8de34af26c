"""`Mingle`, under the path that Celery has it at."""

from celery.worker.consumer.marks import Mingle

__all__ = ["Mingle"]
