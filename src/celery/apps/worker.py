"""Alias door: the worker as a program, `celery.apps.worker.Worker`."""

from __future__ import annotations

from celery.worker.worker import Worker

__all__ = ["Worker"]
