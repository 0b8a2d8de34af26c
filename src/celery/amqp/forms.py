"""Content headers that look alike are read alike.

The headers of the messages of one task that come from one program differ in few values: ids, arguments.  A `Form` is
what they have in common, with the places of what they have not; to compare a header with it takes a few calls, where to
read it takes some for each of its twenty values.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class, whatever its name

from msgspec.structs import replace

from celery.amqp import frames
from celery.amqp.frames import Properties

VARYING = frozenset(
    {"id", "root_id", "parent_id", "group", "group_index", "eta", "expires", "argsrepr", "kwargsrepr", "origin"}
)
"""Headers that differ between messages that look alike otherwise."""
MOST = 16
"""Forms that are kept: those that were of use last."""
DOUBT = 64
"""Of so many headers that fit no form one is learnt from, once there were some: it takes as long as to read another."""
_LONG, _INT = Struct(">I"), Struct(">i")
_LONG_AT, _INT_AT = _LONG.unpack_from, _INT.unpack_from
_TEXT, _NUMBER = ord("S"), ord("I")
_BEGIN = 12
"""Where the properties begin: after class, weight and the size of the body."""
_UNREADABLE = (ValueError, IndexError, StructError)


class Form:
    """What content headers that look like *raw*, which says *properties*, have in common.

    Raises `ValueError` where that is not the header of a task.
    """

    __slots__ = ("_after", "_before", "_end", "_fields", "_headers", "_left", "_properties")

    def __init__(self, raw: bytes, properties: Properties) -> None:
        if properties.headers is None or properties.correlation_id is None:
            raise ValueError("this is no task")
        self._properties = properties
        self._headers = dict(properties.headers)
        table = _BEGIN + 2
        for text in (properties.content_type, properties.content_encoding):
            table += 0 if text is None else 1 + raw[table]
        self._before = raw[_BEGIN:table]
        """Flags, and what stands before the table of headers."""
        self._fields: list[tuple[bytes, str, bool]] = []
        """What stands before each value that varies, its name, and whether it is a text; else it is a number."""
        at, end = table + 4, table + 4 + _LONG_AT(raw, table)[0]
        for name in self._headers:
            if name not in VARYING:
                continue
            mark = bytes((len(name),)) + name.encode()
            value = raw.index(mark, at, end) + len(mark) + 1
            kind = raw[value - 1]
            if kind in (_TEXT, _NUMBER):
                self._fields.append((raw[at:value], name, kind == _TEXT))
                at = value + 4 + (_LONG_AT(raw, value)[0] if kind == _TEXT else 0)
        self._left = end - at
        """Bytes of the table that follow the last of them."""
        correlation = end + (properties.delivery_mode is not None) + (properties.priority is not None)
        self._after = raw[at:correlation]
        self._end = raw[correlation + 1 + raw[correlation] :]

    def read(self, raw: bytes) -> Properties | None:
        """What *raw* says; None if it does not look like that. Raises `ValueError` and its kin for what is cut off."""
        if not raw.startswith(self._before, _BEGIN):
            return None
        at = _BEGIN + len(self._before)
        end = at + 4 + _LONG_AT(raw, at)[0]
        at += 4
        headers = self._headers.copy()
        for before, name, is_text in self._fields:
            if not raw.startswith(before, at):
                return None
            at += len(before)
            if is_text:
                start, at = at + 4, at + 4 + _LONG_AT(raw, at)[0]
                headers[name] = raw[start:at].decode()
            else:
                headers[name] = _INT_AT(raw, at)[0]
                at += 4
        if at + self._left != end or not raw.startswith(self._after, at):
            return None
        at += len(self._after)
        stop = at + 1 + raw[at]
        if raw[stop:] != self._end:
            return None
        return replace(self._properties, headers=headers, correlation_id=raw[at + 1 : stop].decode())


class Forms:
    """Reads content headers, as `frames.content_properties` does. One thread at a time.

    Lists and maps in what it returns are shared by messages that look alike, so nobody may change them.
    """

    def __init__(self) -> None:
        self._forms: list[Form] = []
        self._missed = 0

    def read(self, raw: bytes) -> Properties:
        """Raises `ValueError` and its kin for what is cut off."""
        for place, form in enumerate(self._forms):
            try:
                found = form.read(raw)
            except _UNREADABLE:
                continue
            if found is not None:
                if place:
                    self._forms.insert(0, self._forms.pop(place))
                return found
        found = frames.content_properties(raw)
        self._missed += 1
        if self._missed <= MOST or not self._missed % DOUBT:
            self._learn(raw, found)
        return found

    def _learn(self, raw: bytes, properties: Properties) -> None:
        try:
            form = Form(raw, properties)
            fits = form.read(raw) == properties
        except _UNREADABLE:
            return
        if fits:
            self._forms.insert(0, form)
            del self._forms[MOST:]
