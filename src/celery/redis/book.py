"""The schedule book on Redis: by the server's clock, every change one script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from celery.brokers.book import HISTORY, Advance, Book, Lead
from celery.redis.link import Link
from celery.redis.outbox import Outbox
from celery.redis.scripts import Scripts


class RedisBook(Book):
    """A book in one database; without an *outbox* it is one of a result store, which sends nothing."""

    def __init__(self, link: Link, scripts: Scripts, name: str, outbox: Outbox | None) -> None:
        self.sends = outbox is not None
        self._link = link
        self._scripts = scripts
        self._outbox = outbox
        self._begin = f"{link.prefix}celeriac.beat.{name}."

    def lead(self, who: str, ttl: float) -> Lead:
        args = (self._scripts.now(), self._begin, who, int(ttl * 1000))
        token, leader, left, now, version = self._link.run(self._scripts["lead"], (), args)
        return Lead(token, leader.decode(), left / 1000, now / 1000, version)

    def resign(self, token: int) -> None:
        self._link.run(self._scripts["resign"], (), (self._begin, token))

    def advance(self, token: int, ttl: float, advances: Sequence[Advance]) -> list[bool] | None:
        plan, blobs = [], []
        for advance in advances:
            addressed: Sequence[Any] = ()
            if advance.messages and self._outbox is not None:
                addressed, envelopes = self._outbox.address(advance.messages)
                self._outbox.make_known({queue for queue, *_ in addressed})
                blobs += envelopes
            # msgpack text on this side, and on the server's a string as well.
            plan.append((advance.name, advance.old.decode(), advance.new.decode(), advance.note.decode(), addressed))
        args = (
            self._scripts.now(), self._begin, token, int(ttl * 1000), HISTORY, msgspec.msgpack.encode(plan), *blobs,
        )  # fmt: skip
        done = self._link.run(self._scripts["advance"], (), args)
        return None if done is None else [flag == ord("1") for flag in done]

    def states(self) -> dict[str, bytes]:
        return self._all("states")

    def definitions(self) -> dict[str, bytes]:
        return self._all("entries")

    def _all(self, what: str) -> dict[str, bytes]:
        flat = self._link.call("HGETALL", self._begin + what)
        return {name.decode(): value for name, value in zip(flat[0::2], flat[1::2], strict=True)}

    def paused(self) -> frozenset[str]:
        return frozenset(name.decode() for name in self._link.call("SMEMBERS", f"{self._begin}paused"))

    def define(self, definitions: Mapping[str, bytes | None]) -> None:
        commands: list[list[Any]] = [["MULTI"]]
        for name, definition in definitions.items():
            if definition is None:
                commands += [
                    ["HDEL", f"{self._begin}entries", name], ["HDEL", f"{self._begin}states", name],
                    ["SREM", f"{self._begin}paused", name], ["DEL", f"{self._begin}history.{name}"],
                ]  # fmt: skip
            else:
                commands.append(["HSET", f"{self._begin}entries", name, definition])
        self._link.calls([*commands, self._changed, ["EXEC"]])

    def pause(self, names: Sequence[str], *, paused: bool) -> None:
        if names:
            command = ["SADD" if paused else "SREM", f"{self._begin}paused", *names]
            self._link.calls([["MULTI"], command, self._changed, ["EXEC"]])

    @property
    def _changed(self) -> list[str | int]:
        return ["HINCRBY", f"{self._begin}lease", "version", 1]

    def note(self, name: str, note: bytes) -> None:
        key = f"{self._begin}history.{name}"
        self._link.calls([["MULTI"], ["LPUSH", key, note], ["LTRIM", key, 0, HISTORY - 1], ["EXEC"]])

    def history(self, name: str) -> list[bytes]:
        notes: list[bytes] = self._link.call("LRANGE", f"{self._begin}history.{name}", 0, -1)
        return notes
