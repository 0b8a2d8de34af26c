"""`celery upgrade settings`: write a settings file again with the names of Celery 4 and later."""

from __future__ import annotations

import io
import shutil
import tokenize
from collections.abc import Callable, Mapping
from pathlib import Path

import click

from celery.app.defaults import NEW_NAMES, OPTIONS
from celery.bin.base import CeleryCommand, CeleryOption, CommandError
from celery.utils.functional import pass1

HEADING = "Upgrading Options"


def _compat_key(key: str, namespace: str = "CELERY") -> str:
    """The upper-case name of a setting, as Django projects have it."""
    key = key.upper()
    return key if key.startswith(f"{namespace}_") else f"{namespace}_{key}"


@click.group()
@click.pass_context
def upgrade(ctx: click.Context) -> None:
    """Perform upgrade between versions."""


@upgrade.command(cls=CeleryCommand)
@click.argument("filename", type=click.Path(exists=True, dir_okay=False))
@click.option("--django", cls=CeleryOption, is_flag=True, help_group=HEADING, help="Names with the prefix CELERY_.")
@click.option("--compat", cls=CeleryOption, is_flag=True, help_group=HEADING, help="The same as --django.")
@click.option("--no-backup", cls=CeleryOption, is_flag=True, help_group=HEADING, help="Keep no copy of the file.")
@click.pass_context
def settings(ctx: click.Context, filename: str, django: bool, compat: bool, no_backup: bool) -> None:
    """Give the settings in FILENAME, which have old upper-case names, their new ones.

    Only names are changed: what stands in comments and strings, attributes of other objects and names that are no
    settings stay as they are, and so does every space.
    """
    path = Path(filename)
    ctx.obj.echo(f"processing {filename}...", err=True)
    try:
        with tokenize.open(filename) as file:
            encoding, before = file.encoding, file.read()
        after, changed = rewrite(before, _compat_key if django or compat else pass1)
    except (SyntaxError, tokenize.TokenError, UnicodeDecodeError) as error:
        raise CommandError(f"{filename} is no Python that can be read: {error}.") from error
    if not changed:
        ctx.obj.echo("Does not seem to require any changes :-)")
        return
    if not no_backup:
        backup = f"{filename}.orig"
        ctx.obj.echo(f"writing backup to {backup}...", err=True)
        shutil.copy2(filename, backup)
    path.write_bytes(after.encode(encoding))
    ctx.obj.echo("Changes to your setting have been made!")
    for old, new in sorted(changed.items()):
        ctx.obj.echo(f"  {old} -> {new}")


def rewrite(source: str, key: Callable[[str], str]) -> tuple[str, Mapping[str, str]]:
    """*source* with new names, and which were changed to which. Raises what `tokenize` raises.

    *key* makes of a setting's new name the one that is to stand in the file.
    """
    lines = source.splitlines(keepends=True)
    changed: dict[str, str] = {}
    edits: list[tuple[int, int, int, str]] = []
    before = ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME and before != ".":
            new = NEW_NAMES.get(token.string)
            if new is not None and new in OPTIONS and (written := key(new)) != token.string:
                changed[token.string] = written
                edits.append((token.start[0] - 1, token.start[1], token.end[1], written))
        if token.type not in {tokenize.NL, tokenize.COMMENT}:
            before = token.string
    for number, start, end, written in reversed(edits):
        lines[number] = f"{lines[number][:start]}{written}{lines[number][end:]}"
    return "".join(lines), changed
