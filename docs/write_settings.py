"""Write docs/settings.md from the table in celery.app.defaults: `python docs/write_settings.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from celery.app.defaults import NAMESPACES, OURS, Option
from celery.app.names import EXTRA, PREFIXES

PAGE = Path(__file__).with_name("settings.md")
HEAD = """\
<!-- Written by docs/write_settings.py from celery.app.defaults: do not edit. -->

# Settings

Set them with `app.conf.name = value`, `app.conf.update(name=value)`, or in a module or object that
`app.config_from_object` is given. `namespace="CELERY"` reads `CELERY_TASK_ACKS_LATE` for `task_acks_late`.

A name that does not exist is an error that names the nearest one; upper-case names that are not in this list are left
to whoever owns them. Text is converted where a setting is a number or true or false, so values from the environment can
be given as they are. The environment variables `CELERY_BROKER_URL`, `CELERY_BROKER_READ_URL`,
`CELERY_BROKER_WRITE_URL` and `CELERY_RESULT_BACKEND` win over everything else.

Old upper-case names still work, but old and new ones cannot be mixed in one configuration.
"""
TYPES = {
    "any": "any", "bool": "true or false", "bytes": "bytes", "dict": "dict", "float": "number", "int": "whole number",
    "list": "list", "string": "text", "tuple": "list",
}  # fmt: skip


def render() -> str:
    """The page."""
    top = {name: option for name, option in NAMESPACES.items() if isinstance(option, Option)}
    sections = [_section("General", "", top)]
    for name, options in sorted(NAMESPACES.items()):
        if isinstance(options, Mapping):
            sections.append(_section(f"`{name}_…`", name, options))
    sections.append(_section("Added by Celeriac", "", OURS))
    return "\n".join([HEAD, *sections, _others()])


def _section(title: str, namespace: str, options: Mapping[str, Option]) -> str:
    lines = [f"## {title}", "", "| setting | type | default | old name | |", "|---|---|---|---|---|"]
    for key, option in sorted(options.items()):
        name = f"{namespace}_{key}" if namespace else key
        kinds = " or ".join(TYPES[kind] for kind in (option.type, *sorted(option.also)))
        old = f"`{option.old}`" if option.old else ""
        lines.append(f"| `{name}` | {kinds} | `{option.default!r}` | {old} | {option.help} |")
    return "\n".join([*lines, ""])


def _others() -> str:
    names = ", ".join(f"`{name}`" for name in sorted(EXTRA))
    lines = [f"| `{prefix}…` | {package} |" for prefix, package in sorted(PREFIXES.items())]
    return "\n".join([
        "## Names without a default", "", f"These are read where they are set: {names}.", "",
        "Packages keep theirs among ours; `Settings.register_prefix` registers more:", "",
        "| begins with | package |", "|---|---|", *lines, "",
    ])  # fmt: skip


if __name__ == "__main__":
    PAGE.write_text(render())
