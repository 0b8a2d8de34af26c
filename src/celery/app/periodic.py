"""`add_periodic_task`: entries of `beat_schedule` that are made by the program."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from celery.canvas.signature import Signature
from celery.utils.log import get_logger

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.app.settings import Settings

logger = get_logger(__name__)


class Periodic:
    """Entries that were added before the configuration was read wait for it here."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.pending: deque[tuple[str, dict[str, Any], bool]] = deque()

    def add(
        self, schedule: Any, sig: Any, args: Iterable[Any], kwargs: Any, name: str | None, options: Mapping[str, Any]
    ) -> str:
        """Add an entry for *sig* (a signature or a task); its key, which is *name* or what calling it looks like."""
        sig = sig.clone(args, kwargs) if isinstance(sig, Signature) else sig.signature(args, kwargs)
        key = name or repr(sig)
        entry = {
            "schedule": schedule,
            "task": sig.name,
            "args": sig.args,
            "kwargs": sig.kwargs,
            "options": {**sig.options, **options},
        }
        self.pending.append((key, entry, name is not None))
        if self.app.configured:
            self.put_into(self.app.conf)
        return key

    def put_into(self, settings: Settings) -> None:
        """Put what waits into `beat_schedule`."""
        while self.pending:
            key, entry, named = self.pending.popleft()
            if not named and key in settings.beat_schedule:
                logger.warning(
                    "Periodic task key=%r shadowed a previous unnamed periodic task. "
                    "Pass a name kwarg to add_periodic_task to silence this warning.",
                    key,
                )
            settings.beat_schedule[key] = entry
