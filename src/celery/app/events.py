"""`app.events`: sending and receiving monitoring events, and a picture of the cluster drawn from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery.app.base import Celery


class Events:
    """The classes of `celery.events`, made for one app. Subclasses may name others."""

    receiver_cls: Any = "celery.events.receiver:EventReceiver"
    dispatcher_cls: Any = "celery.events.dispatcher:EventDispatcher"
    state_cls: Any = "celery.events.state:State"

    def __init__(self, app: Celery | None = None) -> None:
        self.app = app

    @cached_property
    def Receiver(self) -> Any:  # noqa: N802 - the public name
        """`EventReceiver`: `app.events.Receiver(connection, handlers={"*": print}).capture()`."""
        return self._made(self.receiver_cls)

    @cached_property
    def Dispatcher(self) -> Any:  # noqa: N802 - the public name
        """`EventDispatcher`: `app.events.Dispatcher(hostname="me").send("custom-event", field=1)`."""
        return self._made(self.dispatcher_cls)

    @cached_property
    def State(self) -> Any:  # noqa: N802 - the public name
        """`State`: its `event` is a handler for a receiver."""
        return self._made(self.state_cls, reverse="events.State")

    def _made(self, cls: Any, **options: Any) -> Any:
        assert self.app is not None
        return self.app.subclass_with_self(cls, **options)

    @contextmanager
    def default_dispatcher(
        self, hostname: str | None = None, enabled: bool = True, buffer_while_offline: bool = False
    ) -> Iterator[Any]:
        """A dispatcher for a while: in a `with` block."""
        with self.Dispatcher(hostname=hostname, enabled=enabled, buffer_while_offline=buffer_while_offline) as made:
            yield made


__all__ = ["Events"]
