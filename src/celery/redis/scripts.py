"""The Lua scripts, as the server keeps them: by the SHA-1 of their text."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parent


class Script:
    """A script's text, and the name under which a server that has seen it knows it."""

    __slots__ = ("name", "sha", "text")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


@cache
def script(name: str, prelude: str = "", *parts: str) -> Script:
    """`<name>.lua`, after *prelude* (Lua text: the constants it uses) and the files called *parts*."""
    texts = [prelude, *((_FOLDER / f"{part}.lua").read_text() for part in (*parts, name))]
    return Script(name, "\n".join(text for text in texts if text))


def lua_text(value: str) -> str:
    """*value* as a Lua string constant."""
    return '"' + "".join(f"\\{byte:03d}" for byte in value.encode()) + '"'
