"""What RabbitMQ does not let a user do, and what to grant: the sentence for an operator who keeps rights narrow."""

from __future__ import annotations

import re
import shlex

FORBIDDEN = 403
_REFUSED = re.compile(
    r"access to (?:exchange|queue) '(?P<name>[^']*)' in vhost '(?P<vhost>[^']*)' refused for user '(?P<user>[^']*)'"
)
_FAMILIES = (
    (re.compile(r"celery_delayed_"), r"celery_delayed_.*"),
    (re.compile(r"celeriac\."), r"celeriac\..*"),
    (re.compile(r"(.*\.)?celery\.pidbox$"), r".*celery\.pidbox"),
    (re.compile(r"celeryev"), r"celeryev.*"),
)
"""Names of the machinery, which are many: what stands for them all."""


def advice(text: str, code: int) -> str:
    """What to do about a refusal of the server, after a space; empty if it is not about rights."""
    found = _REFUSED.search(text) if code == FORBIDDEN else None
    if found is None:
        return ""
    name, vhost, user = found["name"], found["vhost"], found["user"]
    family = next((whole for begins, whole in _FAMILIES if begins.match(name)), re.escape(name))
    whom = f"-p {shlex.quote(vhost)} {shlex.quote(user)}"
    return (
        f" Grant it: rabbitmqctl set_permissions {whom} CONFIGURE WRITE READ, where"
        f" each of the three patterns is to match {family} too (docs/rabbitmq.md, Rights)."
    )
