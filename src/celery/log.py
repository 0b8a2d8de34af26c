"""Alias door: logging of the current app."""

from __future__ import annotations

from typing import Any

from celery._state import get_current_app
from celery.local import Proxy

get_default_logger: Any = Proxy(lambda: get_current_app().log.get_default_logger)
setup_logging_subsystem: Any = Proxy(lambda: get_current_app().log.setup_logging_subsystem)
redirect_stdouts_to_logger: Any = Proxy(lambda: get_current_app().log.redirect_stdouts_to_logger)
