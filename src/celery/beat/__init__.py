"""Beat: sends the periodic tasks of an application when they are due."""

from __future__ import annotations

from celery.beat.embedded import EmbeddedService
from celery.beat.entry import BeatLazyFunc, ScheduleEntry, event_t
from celery.beat.persistent import PersistentScheduler
from celery.beat.pidbox import BeatPidbox
from celery.beat.scheduler import DEFAULT_MAX_INTERVAL, Scheduler, SchedulingError, logger
from celery.beat.service import NODENAME_DEFAULT, Service, beat_nodename
from celery.beat.shared import StoreScheduler

for _public in (
    BeatLazyFunc, PersistentScheduler, ScheduleEntry, Scheduler, SchedulingError, Service, StoreScheduler, event_t,
):  # fmt: skip
    _public.__module__ = __name__  # where the schedule files of Celery look for them, and it for ours

__all__ = [
    "DEFAULT_MAX_INTERVAL",
    "NODENAME_DEFAULT",
    "BeatLazyFunc",
    "BeatPidbox",
    "EmbeddedService",
    "PersistentScheduler",
    "ScheduleEntry",
    "Scheduler",
    "SchedulingError",
    "Service",
    "StoreScheduler",
    "beat_nodename",
    "event_t",
    "logger",
]
