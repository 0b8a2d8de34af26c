"""Settings as they may be shown: without passwords and secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celery.utils.deferred import deferred

if TYPE_CHECKING:
    import pprint
else:
    pprint = deferred("pprint")

MASK = "********"

# Names whose values are secret. A routing key and a database of tables are not, so `key` counts only where it is one.
HIDDEN_SETTINGS = re.compile(
    r"API|TOKEN|(?<!ROUTING_)KEY|SECRET|PASS|SIGNATURE|CREDENTIAL|PROFANITIES_LIST|DATABASES|DBURI", re.IGNORECASE
)
# The password stands between the first colon after `//` and the last `@` of the URL.
_PASSWORD = re.compile(r"(?<=//)([^:/@\s;]*):([^\s;]*)(?=@)")
_SECRET_ARGUMENT = re.compile(r"(?i)([?&][^=&]*(?:pass|secret|token|key)[^=&]*=)[^&;\s]+")


def sanitize_url(url: str, mask: str = MASK) -> str:
    """*url* (or several, joined by `;`) with its password masked."""
    url = _PASSWORD.sub(lambda match: f"{match[1]}:{mask}", url)
    return _SECRET_ARGUMENT.sub(lambda match: match[1] + mask, url)


def mask_settings(conf: Mapping[str, Any]) -> dict[str, Any]:
    """The settings *conf* with secrets masked, at any depth."""
    return {name: _mask(name, value) for name, value in conf.items()}


def humanize_settings(values: Mapping[str, Any]) -> str:
    """A line for each setting."""
    return "\n".join(f"{name}: {pprint.pformat(value, width=72)}" for name, value in values.items())


def _mask(name: object, value: Any) -> Any:
    if isinstance(value, Mapping):
        return mask_settings(value)
    if isinstance(name, str) and HIDDEN_SETTINGS.search(name) and value:
        return MASK
    if isinstance(value, str):
        return sanitize_url(value) if "://" in value else value
    if type(value) in {list, tuple}:
        return type(value)(_mask("", item) for item in value)
    return value
