"""An application with remote control commands of its own."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.worker.control import control_command, inspect_command

app = Celery("commands")


@control_command(args=[("n", int)], signature="[N=1]")
def increase_prefetch_count(state: Any, n: int = 1) -> Any:
    """Hold more."""
    state.consumer.qos.increment_eventually(n)
    return {"ok": "prefetch count incremented"}


@inspect_command()
def current_prefetch_count(state: Any) -> Any:
    """What is held."""
    return {"prefetch_count": state.consumer.qos.value}


@inspect_command(
    name="tint", alias="tints", args=[("base", str)], variadic="colors", signature="<base> [color1 [color2 …]]",
    help="Mix colours.", default_timeout=2.0,
)  # fmt: skip
def mix(state: Any, base: str, colors: list[str]) -> Any:
    return [base, *colors]


@inspect_command(visible=False)
def secret(state: Any) -> Any:
    """Not listed."""
    return {"hidden": True}
