"""`celery schedule`: the periodic tasks that beats share in the store: look at them, change them, run one now."""

from __future__ import annotations

import copy
import heapq
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from celery.beat import ScheduleEntry, StoreScheduler
from celery.beat.codec import read_entry, write_entry
from celery.beat.entry import check_entry, describe_call
from celery.beat.policy import check_policies, next_after
from celery.beat.shared import Note
from celery.bin.base import JSON_ARRAY, JSON_OBJECT, CeleryCommand, CeleryOption, CommandError, age, table
from celery.schedules import clocked, crontab, rrule, solar
from celery.schedules import schedule as interval
from celery.utils import uuid

PLAN, TASK, POLICY = "When", "What", "Policies"
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
JSON = click.option("-j", "--json", "as_json", cls=CeleryOption, is_flag=True, help="As JSON.")


@click.group()
def schedule() -> None:
    """Periodic tasks in the store: list, add, pause or run them (for beats with -S store)."""


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What `add` and `edit` take."""
    options = (
        click.option("--every", cls=CeleryOption, help_group=PLAN, help="Interval: 30, 30s, 5m, 1h30m, 2d."),
        click.option("--cron", cls=CeleryOption, help_group=PLAN, help="Crontab: '30 8 * * mon-fri', @daily."),
        click.option(
            "--rrule", "rule", cls=CeleryOption, help_group=PLAN, help="Recurrence rule: 'FREQ=DAILY;BYHOUR=9'."
        ),
        click.option("--solar", "event", cls=CeleryOption, help_group=PLAN, help="Solar event: sunrise, sunset, …"),
        click.option("--at", cls=CeleryOption, help_group=PLAN, help="Once, at this time in ISO 8601."),
        click.option("--tz", cls=CeleryOption, help_group=PLAN, help="Zone of --cron, --rrule and --at."),
        click.option("--lat", cls=CeleryOption, type=float, help_group=PLAN, help="Latitude for --solar."),
        click.option("--lon", cls=CeleryOption, type=float, help_group=PLAN, help="Longitude for --solar."),
        click.option("-a", "--args", cls=CeleryOption, type=JSON_ARRAY, help_group=TASK, help="Arguments, as JSON."),
        click.option("-k", "--kwargs", cls=CeleryOption, type=JSON_OBJECT, help_group=TASK, help="By name, as JSON."),
        click.option("--queue", cls=CeleryOption, help_group=TASK, help="Queue it is sent to."),
        click.option("--priority", cls=CeleryOption, type=int, help_group=TASK, help="Priority of its messages."),
        click.option("--expires", cls=CeleryOption, type=float, help_group=TASK, help="Seconds it is wanted for."),
        click.option("--options", "more", cls=CeleryOption, type=JSON_OBJECT, help_group=TASK, help="More, as JSON."),
        click.option("--missed", cls=CeleryOption, help_group=POLICY, help="skip, one, all, or so many at most."),
        click.option("--overlap", cls=CeleryOption, help_group=POLICY, help="allow, or skip while the last one runs."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@schedule.command("list", cls=CeleryCommand)
@JSON
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List the entries, with when they are due next."""
    beat = _open(ctx)
    facts = [_facts(beat, name) for name in sorted(beat.schedule)]
    if as_json:
        ctx.obj.echo(json.dumps(facts))
    elif not facts:
        ctx.obj.echo("There is no entry: celery schedule add NAME TASK --every 30s")
    else:
        now = time.time()
        rows = [
            (
                each["name"], each["schedule"], each["task"],
                "paused" if each["paused"] else _in(each["next"], now), _ago(each["ran"], now), each["count"],
                each["from"],
            )
            for each in facts
        ]  # fmt: skip
        ctx.obj.echo(table(rows, ("name", "schedule", "task", "next", "last run", "runs", "from")))


@schedule.command(cls=CeleryCommand)
@click.argument("name")
@click.pass_context
def show(ctx: click.Context, name: str) -> None:
    """Show all there is to know of an entry, as JSON."""
    beat = _open(ctx)
    _known(beat, [name])
    ctx.obj.echo(json.dumps(_facts(beat, name), indent=4))


@schedule.command(cls=CeleryCommand)
@click.argument("name")
@click.argument("task")
@_options
@click.pass_context
def add(ctx: click.Context, /, name: str, task: str, **given: Any) -> None:
    """Add an entry NAME that runs TASK."""
    beat = _open(ctx)
    if name in beat.schedule:
        raise CommandError(f"There is an entry {name!r} already: change it with celery schedule edit {name}.")
    plan = _plan(ctx, given)
    if plan is None:
        raise click.UsageError("Say when: --every, --cron, --rrule, --solar or --at.", ctx)
    _write(ctx, beat, name, {"task": task, "schedule": plan, **_what(given, {})})
    ctx.obj.echo(f"Added {name}.{_warning(beat)}")


@schedule.command(cls=CeleryCommand)
@click.argument("name")
@click.option("--task", cls=CeleryOption, help_group=TASK, help="Another task.")
@_options
@click.pass_context
def edit(ctx: click.Context, /, name: str, task: str | None, **given: Any) -> None:
    """Change what is said of an entry; the rest stays."""
    beat = _open(ctx)
    _known(beat, [name])
    definition = beat.book.definitions().get(name)
    if definition is None:
        raise CommandError(f"{name} is defined by the application: change it there (it can be paused here).")
    before = read_entry(definition)
    plan = _plan(ctx, given)
    after = {**before, **_what(given, before.get("options") or {})}
    _write(ctx, beat, name, {**after, "task": task or before["task"], "schedule": plan or before["schedule"]})
    ctx.obj.echo(f"Changed {name}.{_warning(beat)}")


@schedule.command(cls=CeleryCommand)
@click.argument("names", nargs=-1, required=True)
@click.pass_context
def remove(ctx: click.Context, names: Sequence[str]) -> None:
    """Remove entries, and what is known of their runs."""
    beat = _open(ctx)
    known = {*beat.book.definitions(), *beat.book.states()}
    for name in names:
        if name in ctx.obj.app.conf.beat_schedule:
            raise CommandError(f"{name} is defined by the application: remove it there, or pause it here.")
        if name not in known:
            raise CommandError(f"There is no entry {name!r}. Nothing was removed.")
    beat.book.define(dict.fromkeys(names))
    ctx.obj.echo(f"Removed {', '.join(names)}.")


@schedule.command(cls=CeleryCommand)
@click.argument("names", nargs=-1, required=True)
@click.pass_context
def pause(ctx: click.Context, names: Sequence[str]) -> None:
    """Have entries rest, also those of the application. What passes meanwhile does not count as missed."""
    beat = _open(ctx)
    _known(beat, names)
    beat.book.pause(names, paused=True)
    ctx.obj.echo(f"Paused {', '.join(names)}.")


@schedule.command(cls=CeleryCommand)
@click.argument("names", nargs=-1, required=True)
@click.pass_context
def resume(ctx: click.Context, names: Sequence[str]) -> None:
    """Have entries go on."""
    beat = _open(ctx)
    _known(beat, names)
    beat.book.pause(names, paused=False)
    ctx.obj.echo(f"Resumed {', '.join(names)}.{_warning(beat)}")


@schedule.command("run-now", cls=CeleryCommand)
@click.argument("name")
@click.pass_context
def run_now(ctx: click.Context, name: str) -> None:
    """Send the task of an entry now, beside its schedule; prints its id."""
    beat = _open(ctx)
    _known(beat, [name])
    entry, now = copy.copy(beat.schedule[name]), time.time()
    task_id = uuid()
    headers = {"periodic_task_name": name, **(entry.options.get("headers") or {})}
    entry.options = {**entry.options, "task_id": task_id, "headers": headers}
    beat.apply_async(entry, advance=False)
    beat.book.note(name, msgspec.json.encode(Note(now, now, "by hand", task_id)))
    ctx.obj.echo(task_id)


@schedule.command("next", cls=CeleryCommand)
@click.argument("names", nargs=-1)
@click.option(
    "-n", "--number", cls=CeleryOption, type=click.IntRange(min=1), default=10, show_default=True, help="So many."
)
@JSON
@click.pass_context
def next_(ctx: click.Context, names: Sequence[str], number: int, as_json: bool) -> None:
    """Show the next runs, soonest first."""
    beat = _open(ctx)
    _known(beat, names)
    streams = [_ticks(beat, name) for name in names or beat.schedule if name not in beat.paused_names]
    found = [tick for tick, _ in zip(heapq.merge(*streams), range(number), strict=False)]
    if as_json:
        ctx.obj.echo(
            json.dumps([{"at": _iso(at), "name": name, "task": beat.schedule[name].task} for at, name in found])
        )
    elif not found:
        ctx.obj.echo("Nothing is due any more.")
    else:
        rows = [(_iso(at), name, beat.schedule[name].task) for at, name in found]
        ctx.obj.echo(table(rows, ("at", "name", "task")))


@schedule.command(cls=CeleryCommand)
@click.argument("name")
@JSON
@click.pass_context
def history(ctx: click.Context, name: str, as_json: bool) -> None:
    """Show the latest ticks of an entry: sent, missed, overlapped, failed or by hand."""
    beat = _open(ctx)
    _known(beat, [name])
    notes = [msgspec.json.decode(raw, type=Note) for raw in beat.book.history(name)]
    rows = [(_iso(note.tick), note.what, f"{max(0.0, note.at - note.tick):.3f}", note.task_id) for note in notes]
    if as_json:
        keys = ("tick", "what", "late", "task_id")
        ctx.obj.echo(json.dumps([dict(zip(keys, row, strict=True)) for row in rows]))
    elif not rows:
        ctx.obj.echo(f"{name} has not run yet.")
    else:
        ctx.obj.echo(table(rows, ("tick", "what", "late (s)", "task id")))


@schedule.command(cls=CeleryCommand)
@JSON
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Show which beat leads, and what is due next."""
    beat = _open(ctx)
    lead, upcoming = beat.book.lead("", 0), beat.upcoming()
    facts = {
        "leader": lead.leader or None, "lease": round(lead.left, 3), "entries": len(beat.schedule),
        "paused": sorted(beat.paused_names), "next": [{"at": _iso(at), "name": name} for at, name in upcoming[:10]],
    }  # fmt: skip
    if as_json:
        ctx.obj.echo(json.dumps(facts))
        return
    ctx.obj.echo(
        f"leader: {lead.leader} (for {lead.left:.1f} s unless it says more)" if lead.leader else "leader: none"
    )
    ctx.obj.echo(f"entries: {len(beat.schedule)}, {len(beat.paused_names)} of them paused")
    for at, name in upcoming[:10]:
        ctx.obj.echo(f"  {_iso(at)}  {name}")


# -- reading ---------------------------------------------------------------------------------------------------------


def _open(ctx: click.Context) -> StoreScheduler:
    """The schedule as a beat would read it, without leading."""
    app = ctx.obj.app
    app.loader.import_default_modules()
    beat = StoreScheduler(app)
    beat.load()
    return beat


def _known(beat: StoreScheduler, names: Sequence[str]) -> None:
    for name in names:
        if name not in beat.schedule:
            raise CommandError(f"There is no entry {name!r}: celery schedule list shows those that are there.")


def _facts(beat: StoreScheduler, name: str) -> dict[str, Any]:
    entry, state = beat.schedule[name], beat.state_of(name)
    return {
        "name": name, "task": entry.task, "schedule": _plain(entry.schedule),
        "call": describe_call(entry.task, entry.args, entry.kwargs),
        "options": json.loads(json.dumps(entry.options, default=repr)),
        "missed": entry.missed or beat.app.conf.beat_missed, "overlap": entry.overlap or "allow",
        "paused": name in beat.paused_names, "from": "application" if beat.is_from_conf(name) else "store",
        "next": _iso(state.next) if state and state.next else None, "last": _iso(state.last) if state else None,
        "ran": _iso(state.ran) if state and state.ran else None, "count": state.count if state else 0,
        "task_id": state.task_id or None if state else None,
    }  # fmt: skip


def _plain(plan: Any) -> str:
    """A schedule for people: without the brackets of its repr."""
    return re.sub(r"^<(?:freq|crontab|solar|rrule|clocked|called): (.*?)(?: \(m/h/dM/MY/d\))?>$", r"\1", repr(plan))


def _ticks(beat: StoreScheduler, name: str) -> Iterator[tuple[float, str]]:
    state, plan = beat.state_of(name), beat.schedule[name].schedule
    tick = state.next if state else next_after(plan, time.time())
    while tick is not None:
        yield tick, name
        tick = next_after(plan, tick)


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")


def _in(moment: str | None, now: float) -> str:
    if moment is None:
        return "-"
    seconds = datetime.fromisoformat(moment).timestamp() - now
    return f"in {age(seconds)}" if seconds > 0 else "due"


def _ago(moment: str | None, now: float) -> str:
    return "-" if moment is None else f"{age(max(0.0, now - datetime.fromisoformat(moment).timestamp()))} ago"


def _warning(beat: StoreScheduler) -> str:
    return (
        "" if beat.book.lead("", 0).leader else " No beat keeps this schedule now: start one with celery beat -S store."
    )


# -- writing ---------------------------------------------------------------------------------------------------------


def _plan(ctx: click.Context, given: dict[str, Any]) -> Any:
    """The schedule that the options say; None if they say none."""
    chosen = [name for name in ("every", "cron", "rule", "event", "at") if given[name] is not None]
    if len(chosen) > 1:
        raise click.UsageError("Say only one of --every, --cron, --rrule, --solar and --at.", ctx)
    if not chosen:
        return None
    app, tz = ctx.obj.app, given["tz"]
    try:
        if chosen == ["every"]:
            return interval(_seconds(given["every"]), app=app)
        if chosen == ["cron"]:
            return crontab.from_string(given["cron"], app=app, tz=tz)
        if chosen == ["rule"]:
            return rrule(given["rule"], app=app, tz=tz)
        if chosen == ["event"]:
            return solar(given["event"], given["lat"], given["lon"], app=app)
        return clocked(given["at"], app=app, tz=tz)
    except Exception as error:
        raise click.BadParameter(str(error), ctx, param_hint=f"--{chosen[0]}") from error


def _seconds(text: str) -> float:
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?", text)
    if not parts or re.sub(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*", "", text):
        raise ValueError(f"{text!r} is no interval: write 30, 30s, 5m, 1h30m or 2d.")
    return sum(float(number) * UNITS[unit or "s"] for number, unit in parts)


def _what(given: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """What the options say of the task and the policies."""
    said = {name: given[name] for name in ("queue", "priority", "expires") if given[name] is not None}
    found = {name: given[name] for name in ("args", "kwargs", "missed", "overlap") if given[name] is not None}
    if str(found.get("missed", "")).isdecimal():
        found["missed"] = int(found["missed"])
    return {**found, "options": {**options, **said, **(given["more"] or {})}}


def _write(ctx: click.Context, beat: StoreScheduler, name: str, definition: dict[str, Any]) -> None:
    """Check an entry as a beat would, and write it."""
    try:
        entry = ScheduleEntry(name, app=ctx.obj.app, **definition)
        check_entry(entry)
        check_policies(entry.missed, entry.overlap)
        if next_after(entry.schedule, time.time()) is None:
            raise ValueError("it would never run: its time has passed")
        written = write_entry(entry)
    except (TypeError, ValueError) as error:
        raise CommandError(f"{name}: {error}.") from error
    beat.book.define({name: written})
