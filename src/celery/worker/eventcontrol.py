"""Commands about events."""

from __future__ import annotations

from celery.worker.panel import refusal

enable_events = refusal("enable_events", "Send task events.")
disable_events = refusal("disable_events", "Send no task events.")
heartbeat = refusal("heartbeat", "Send a heartbeat now.")
election = refusal("election", "Hold an election.", visible=False)
