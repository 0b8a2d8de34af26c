"""`Pidbox`, under the path that Celery has it at."""

from celery.worker.mailbox import Mailbox as Pidbox
from celery.worker.mailbox import logger

gPidbox = Pidbox  # noqa: N816 - the public name
__all__ = ["Pidbox", "gPidbox", "logger"]
