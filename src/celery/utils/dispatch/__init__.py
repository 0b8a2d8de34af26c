"""Signals: call whoever asked to be told."""

from __future__ import annotations

from celery.utils.dispatch.signal import Signal

__all__ = ["Signal"]
