"""The first words on a connection: who we are, which database, and what the server says of itself. One round trip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from celery.redis.replies import LATER, Refused, code_of, refusal
from celery.redis.wire import Argument, ProtocolError, ReplyError, Wire, pack

OLDEST = (6, 2)
"""The first version that has what the scripts use."""


class Server(msgspec.Struct, frozen=True):
    """What a server says of itself. Empty, None or 0: it did not say (its commands may be forbidden to this user)."""

    place: str = ""
    """Which of the servers that an address leads to."""
    version: tuple[int, ...] = ()
    role: str = ""
    """`primary` or `replica`."""
    mode: str = ""
    """`standalone`, `cluster` or `sentinel`."""
    maxmemory_policy: str = ""
    maxmemory: int = 0


def refuse_unusable(server: Server) -> str | None:
    """Why this server cannot be used, as a sentence without its end; None if it can."""
    if server.version and server.version < OLDEST:
        return (
            f"this is Redis {'.'.join(map(str, server.version))}, and Redis {'.'.join(map(str, OLDEST))} or later is"
            " needed; upgrade the server"
        )
    if server.mode == "cluster":
        return "it is part of a Redis Cluster, over which queues cannot be spread; give a single server, or sentinel://"
    if server.mode == "sentinel":
        return "it is a sentinel; write sentinel:// instead of redis://, and give the option master_name"
    return None


def greet(
    wire: Wire,
    credentials: Sequence[str | bytes],
    name: str,
    db: int,
    place: str,
    known: Server | None,
    deadline: float,
    patience: float,
) -> tuple[int, Server]:
    """Log in, and choose the database: (this connection's number on the server, what the server is).

    *known* is what was found out before; a server in another place is asked more.  Raises `Refused` or one of `Broken`.
    """
    commands: list[tuple[Argument, ...]] = [("HELLO",)]
    if credentials:
        commands.insert(0, ("AUTH", *credentials))
    if name:
        commands.append(("CLIENT", "SETNAME", name))
    if db:
        commands.append(("SELECT", db))
    thorough = known is None or known.place != place
    if thorough:
        commands.append(("INFO", "memory"))
    packed = b"".join([pack(command) for command in commands])
    try:
        replies = wire.exchange(packed, len(commands), deadline, patience)
    except ProtocolError as error:
        raise Refused(
            "it does not speak the protocol of Redis; check host and port, and write rediss:// if it expects TLS"
        ) from error
    except (ConnectionResetError, BrokenPipeError) as error:
        raise ConnectionResetError("it closes the connection at once; write rediss:// if it expects TLS") from error
    said = dict(zip([str(command[0]) for command in commands], replies, strict=True))
    for step in ("AUTH", "HELLO", "SELECT"):
        _examine(step, said.get(step), db, bool(credentials))
    hello = said["HELLO"]
    facts = _pairs(hello)
    if not facts and thorough:
        facts = _ask_otherwise(wire, deadline, patience)
    server = Server(
        place,
        tuple(int(part) for part in facts.get("version", "").split(".") if part.isdigit()),
        {"": "", "master": "primary"}.get(facts.get("role", ""), "replica"),
        facts.get("mode", ""),
        known.maxmemory_policy if known is not None else "",
        known.maxmemory if known is not None else 0,
    )
    if thorough:
        memory = _lines(said["INFO"])
        server = msgspec.structs.replace(
            server,
            maxmemory_policy=memory.get("maxmemory_policy", ""),
            maxmemory=int(memory.get("maxmemory", 0)),
        )
    return int(facts.get("id", 0)), server


def _ask_otherwise(wire: Wire, deadline: float, patience: float) -> dict[str, str]:
    """What HELLO would have said, from a server or proxy that does not know it or does not let us."""
    packed = pack(("INFO", "server")) + pack(("INFO", "replication"))
    found: dict[str, str] = {}
    for info in wire.exchange(packed, 2, deadline, patience):
        found |= _lines(info)
    return {
        "version": found.get("redis_version", ""),
        "role": found.get("role", ""),
        "mode": found.get("redis_mode", ""),
    }


def _examine(step: str, reply: Any, db: int, introduced: bool) -> None:
    """Raise what the reply to one step of the greeting means, if it is an error that matters."""
    if reply.__class__ is not ReplyError:
        return
    code = code_of(reply)
    if code in LATER:
        raise ConnectionError(str(refusal(reply)))
    if step == "AUTH" and code == "ERR":
        raise Refused("it has no password, but the URL does; take it out of the URL, or set one on the server")
    if step == "SELECT" and code == "DB":
        raise Refused(f"it has no database {db}; give another number in the URL, or raise `databases` on the server")
    if step == "HELLO" and code in {"ERR", "NOPERM"}:
        if code == "ERR" and "wrong number of arguments" in str(reply):
            raise Refused("it is older than Redis 6.2, which is needed; upgrade the server")
        return  # a proxy, or a user who may not: we do without what it would have said
    raise refusal(reply)


def _pairs(hello: Any) -> dict[str, str]:
    """What HELLO said; nothing if it was refused."""
    if not isinstance(hello, list):
        return {}
    words = [word.decode() if isinstance(word, bytes) else str(word) for word in hello]
    return dict(zip(words[::2], words[1::2], strict=False))


def _lines(info: Any) -> dict[str, str]:
    """A section of INFO; nothing if it was refused."""
    if not isinstance(info, bytes):
        return {}
    lines = [line.partition(":") for line in info.decode(errors="replace").splitlines()]
    return {name: value for name, _, value in lines}
