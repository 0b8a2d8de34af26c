"""Alias door: `celery.execute.send_task` sends through the current app."""

from __future__ import annotations

from typing import Any

from celery._state import get_current_app
from celery.local import Proxy

send_task: Any = Proxy(lambda: get_current_app().send_task)
