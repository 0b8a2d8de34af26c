"""A claimed message, under the path that users know it by."""

from __future__ import annotations

from celery.worker.claimed import Claimed as Request

__all__ = ["Request"]
