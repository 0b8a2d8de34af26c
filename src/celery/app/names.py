"""Which names of settings are known, and what somebody meant who wrote one that is not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from celery.app.defaults import NEW_NAMES, OLD_NAMES, OPTIONS
from celery.exceptions import ImproperlyConfigured
from celery.utils.deferred import deferred

if TYPE_CHECKING:
    import difflib
else:
    difflib = deferred("difflib")

E_MIX_OLD_INTO_NEW = """
New and old names of settings are mixed. Give these their new names:

{renames}
"""
E_MIX_NEW_INTO_OLD = """
New and old names of settings are mixed. Give these their old names, as the others have:

{renames}

or give all of them their new names.
"""
FMT_REPLACE_SETTING = "{replace:<36} -> {with_}"

# Lower-case names without a default that are read where they are set.
EXTRA = frozenset({
    "deprecated_settings", "override_backends", "redis_backend_credential_provider",
    "redis_backend_health_check_interval", "redis_client_name", "result_backend_thread_safe",
    "task_on_commit_default", "visibility_timeout",
    *(f"{program}_{name}" for program in ("beat", "events", "worker")
      for name in ("executable", "gid", "logfile", "pidfile", "uid", "umask")),
})  # fmt: skip

# Packages that keep their settings among ours, and what theirs begin with.
PREFIXES: Mapping[str, str] = {
    "beat_dburi": "sqlalchemy-celery-beat and celery-sqlalchemy-scheduler",
    "beat_engine_": "sqlalchemy-celery-beat",
    "beat_schema": "sqlalchemy-celery-beat",
    "flower_": "flower",
    "mongodb_scheduler_": "celerybeat-mongo",
    "once_": "celery-once",
    "redbeat_": "celery-redbeat",
    "singleton_": "celery-singleton",
    "task_tenant_": "tenant-schemas-celery",
}

# What was registered in this process, and why.
registered: dict[str, str] = {}


def is_unknown(name: str) -> bool:
    """Whether *name* looks like a setting of ours and is none: lower-case, public, and in no table."""
    return (
        name not in OPTIONS
        and name == name.lower()
        and name not in EXTRA
        and not name.startswith(("_", *PREFIXES, *registered))
        and any(character.isalpha() for character in name)
    )


@cache
def nearest(name: str) -> str | None:
    """The setting that *name* was probably meant to be."""
    near = difflib.get_close_matches(name, OPTIONS, n=1, cutoff=0.6)
    return near[0] if near else None


@cache
def is_misspelt(name: str) -> bool:
    """Whether *name* is so near to a setting that a variable beside the settings would not be called so.

    Whole words more or less (`default_queue`, `worker_autoscale_max`) are how helper variables are named, and settings
    that are none of ours; a changed letter or ending (`task_ack_late`) is a slip.
    """
    near = nearest(name)
    if near is None or difflib.SequenceMatcher(None, name, near).ratio() < 0.85:
        return False
    return name.count("_") == near.count("_")


def explain_unknown(name: str, prefix: str = "") -> str:
    """One sentence for a setting that does not exist."""
    near = nearest(name)
    shown = prefix + name.upper() if prefix else name
    if near is not None:
        return f"There is no setting {shown!r}; did you mean {prefix + near.upper() if prefix else near!r}?"
    return (
        f"There is no setting {shown!r}: give settings of your own upper-case names, or register what theirs begin with"
        " by Settings.register_prefix()."
    )


def convert(name: str, value: Any) -> Any:
    """*value* as the type of the setting *name*; raises `ImproperlyConfigured` if it cannot be."""
    option = OPTIONS.get(name)
    if option is None:
        return value
    try:
        return option.to_python(value)
    except ValueError as error:
        raise ImproperlyConfigured(f"The setting {name!r} is wrong: {error}.") from error


def refuse_mixture(names: Iterable[str]) -> None:
    """Raise `ImproperlyConfigured` if *names* has both new and old names of settings."""
    names = set(names)
    new, old = names & OPTIONS.keys(), names & NEW_NAMES.keys()
    if not new or not old:
        return
    if len(new) >= len(old):
        template, renames = E_MIX_OLD_INTO_NEW, {name: NEW_NAMES[name] for name in old}
    else:
        template, renames = E_MIX_NEW_INTO_OLD, {name: OLD_NAMES.get(name, "(has no old name)") for name in new}
    lines = (FMT_REPLACE_SETTING.format(replace=name, with_=renames[name]) for name in sorted(renames))
    raise ImproperlyConfigured(template.format(renames="\n".join(lines)))
