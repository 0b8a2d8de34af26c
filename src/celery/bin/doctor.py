"""`celery doctor`: read a configuration, and say what is risky in it and what is different here from the original."""

from __future__ import annotations

import json
from typing import Any

import click

from celery.app.checkup import Finding, examine
from celery.bin.base import CeleryCommand, CeleryOption, CommandError, handle_preload_options
from celery.exceptions import CeleryError
from celery.platforms import EX_FAILURE, EX_OK

COLORS = {"error": "red", "warning": "yellow", "note": "cyan"}
ORDER = tuple(COLORS)


@click.command(cls=CeleryCommand)
@click.option("-j", "--json", "as_json", is_flag=True, cls=CeleryOption, help="One JSON array of findings.")
@click.option("--strict", is_flag=True, cls=CeleryOption, help="Warnings too make the exit code 1.")
@click.option("--no-connect", is_flag=True, cls=CeleryOption, help="Do not try to reach the broker and the results.")
@click.pass_context
@handle_preload_options
def doctor(ctx: click.Context, as_json: bool, strict: bool, no_connect: bool) -> None:
    """Say what is wrong or risky in the configuration, and what differs from the original Celery.

    Exit code 1 if something will not work (or, with --strict, if something is risky), else 0.
    """
    app = ctx.obj.app
    try:
        app.loader.import_default_modules()
        conf = app.conf
        conf.broker_url  # noqa: B018 - reads the settings: what is wrong with them is raised here
    except CeleryError as error:
        raise CommandError(f"The configuration cannot be read: {error}") from error
    findings = examine(app)
    if not no_connect:
        findings += _reach(app)
    findings.sort(key=lambda finding: (ORDER.index(finding.level), finding.setting))
    if as_json:
        ctx.obj.echo(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        for finding in findings:
            _show(ctx, finding)
        ctx.obj.echo(_summary(findings))
    bad = {"error", "warning"} if strict else {"error"}
    ctx.exit(EX_FAILURE if any(finding.level in bad for finding in findings) else EX_OK)


def _show(ctx: click.Context, finding: Finding) -> None:
    mark = ctx.obj.style(finding.level, fg=COLORS[finding.level], bold=True)
    ctx.obj.echo(f"{mark}  {finding.setting}: {finding.text}")
    if finding.advice:
        ctx.obj.echo(f"         {finding.advice}")


def _summary(findings: list[Finding]) -> str:
    counts = [(sum(finding.level == level for finding in findings), level) for level in ORDER]
    said = [f"{count} {level}{'' if count == 1 else 's'}" for count, level in counts if count]
    return f"{', '.join(said)}." if said else "Nothing found: all is well."


def _reach(app: Any) -> list[Finding]:
    """Whether broker and results can be reached now."""
    found = []
    try:
        app.broker.connect()
    except (CeleryError, OSError) as error:
        found.append(Finding("error", "broker_url", f"the broker cannot be used: {error}", ""))
    store = app.store
    if store is not None:
        try:
            store.get([app.backend.get_key_for_task("is-the-store-there")])
        except (CeleryError, OSError) as error:
            found.append(Finding("error", "result_backend", f"the result backend cannot be used: {error}", ""))
    return found
