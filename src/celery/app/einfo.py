"""What is known of an exception after it was caught: its type, its value, its traceback as text and as frames."""

from __future__ import annotations

import sys
import traceback as tracebacks
from types import TracebackType
from typing import TYPE_CHECKING


class ExceptionInfo:
    """An exception and where it came from; `str()` is the traceback as text.

    Handed to `on_failure`, `on_retry` and the signals.  It can be pickled: the frames then stay behind.
    `internal` says that the worker failed, not the task.
    """

    __slots__ = ("_text", "exception", "internal", "tb", "type")

    def __init__(
        self,
        exc_info: tuple[type[BaseException], BaseException, TracebackType | None] | None = None,
        internal: bool = False,
    ) -> None:
        kind, value, frames = exc_info if exc_info is not None else sys.exc_info()
        if kind is None or value is None:
            raise ValueError("ExceptionInfo needs an exception: make it inside `except`, or hand it one.")
        self.type = kind
        self.exception = value
        self.tb = frames
        self.internal = internal
        self._text: str | None = None

    @classmethod
    def of(cls, exception: BaseException, *, internal: bool = False) -> ExceptionInfo:
        """The information about *exception*, with the traceback it carries."""
        return cls((type(exception), exception, exception.__traceback__), internal)

    @property
    def traceback(self) -> str:
        """The traceback as text; made when first asked for."""
        if self._text is None:
            self._text = "".join(tracebacks.format_exception(self.type, self.exception, self.tb))
        return self._text

    def keep_text(self) -> None:
        """Make the text now: the frames it is made of are about to be cleared."""
        self._text = self.traceback

    @property
    def exc_info(self) -> tuple[type[BaseException], BaseException, TracebackType | None]:
        """As `sys.exc_info()` gives it."""
        return self.type, self.exception, self.tb

    if not TYPE_CHECKING:

        @property
        def __class__(self) -> type:
            """Tracing packages look at an `einfo` of billiard's: where that is loaded, this passes as one."""
            return getattr(sys.modules.get("billiard.einfo"), "ExceptionInfo", ExceptionInfo)

    def __str__(self) -> str:
        return self.traceback

    def __repr__(self) -> str:
        return f"<ExceptionInfo: {self.exception!r}>"

    def __reduce__(self) -> tuple[object, ...]:
        state = (self.type, self.exception, self.traceback, self.internal)
        return _restore, state

    def __reduce_ex__(self, protocol: object) -> tuple[object, ...]:
        return self.__reduce__()  # what `object` does here depends on `__class__`


def _restore(kind: type[BaseException], exception: BaseException, text: str, internal: bool) -> ExceptionInfo:
    info = ExceptionInfo((kind, exception, None), internal)
    info._text = text
    return info


__all__ = ["ExceptionInfo"]
