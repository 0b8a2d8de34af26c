"""What the error replies of a Redis server, and those of the way to it, mean for whoever asked."""

from __future__ import annotations

import re
import socket

LATER = frozenset({
    "BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MAXCLIENTS", "NOREPLICAS", "READONLY", "TRYAGAIN", "UNBLOCKED",
})  # fmt: skip
"""Another server may be the primary by now, or this one be ready soon: connect anew, and ask again."""
STRANGER = frozenset({"NOAUTH"})
"""The server has forgotten who we are (a password was changed, a user set anew): say it again on a new connection."""
FULL = frozenset({"MISCONF", "OOM"})
"""The server takes no more data until somebody does something."""

ADVICE = {
    "MISCONF": "it cannot write its snapshots and takes no data until it can; look into its log",
    "NOAUTH": "it wants a password; write it into the URL: redis://:password@host or redis://user:password@host",
    "NOPERM": "give the user of the URL all commands, keys and channels that Celery needs (ACL SETUSER)",
    "OOM": "maxmemory is reached; raise it, consume or purge its queues, or let results expire sooner (result_expires)",
    "READONLY": "it is a replica; give the URL of the primary, or use sentinel:// so that the primary is found",
    "WRONGTYPE": "somebody else uses that key: delete or rename it, or choose another name or global_keyprefix",
    "WRONGPASS": "check user and password in the URL, and whether the user is enabled",
}
"""What to do, by the code that the error begins with."""

_INSIDE = re.compile(r"@user_script: ?\d+: -?([A-Z]+) ")
_PLACE = re.compile(r",? script: [0-9a-f]{40}, on @user_script:\d+$")
_WORDS = {"ERR max number of clients reached": "MAXCLIENTS", "ERR DB index is out of range": "DB"}


class Refused(Exception):
    """The server will not do it, however often it is asked. `temporary`: it would in another state of its own."""

    def __init__(self, sentence: str, code: str = "", *, temporary: bool = False) -> None:
        super().__init__(sentence)
        self.code = code
        self.temporary = temporary


def code_of(error: Exception) -> str:
    """The word that says what kind of error a reply is; also where a script met it (Redis < 7 says so inside)."""
    text = str(error)
    for beginning, code in _WORDS.items():
        if text.startswith(beginning):
            return code
    if text.startswith("ERR Error running script"):
        inside = _INSIDE.search(text)
        if inside:
            return inside.group(1)
    return text.partition(" ")[0]


def refusal(error: Exception, doing: str = "") -> Refused:
    """*error*, a reply, as what is raised: with the server's words and, where we know it, what to do."""
    code = code_of(error)
    advice = ADVICE.get(code)
    words = _PLACE.sub("", str(error).rstrip(". ")).rstrip(". ")
    sentence = f"{doing}{words}" + (f" ({advice})" if advice else "")
    return Refused(sentence, code, temporary=code in FULL)


def reason(trouble: Exception) -> str:
    """Why a server cannot be reached, and what to do about it."""
    if isinstance(trouble, Refused):
        return str(trouble)
    words = (getattr(trouble, "strerror", None) or str(trouble) or type(trouble).__name__).rstrip(". ")
    if isinstance(trouble, ConnectionRefusedError | FileNotFoundError):
        return f"{words}; start the server there, or correct the URL"
    if isinstance(trouble, socket.gaierror):
        return f"{words}; correct the host in the URL"
    if isinstance(trouble, PermissionError):
        return f"{words}; let this user into the socket"
    if isinstance(trouble, TimeoutError):
        return f"{words}; see whether it hangs, is overloaded, or a firewall is in between"
    return f"{words}; see the server's log"
