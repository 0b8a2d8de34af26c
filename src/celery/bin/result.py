"""`celery result`: what a task returned."""

from __future__ import annotations

import click

from celery.bin.base import CeleryCommand, CeleryOption, CommandError, handle_preload_options

HEADING = "Result Options"


@click.command(cls=CeleryCommand)
@click.argument("task_id")
@click.option(
    "-t", "--task", cls=CeleryOption, help_group=HEADING, help="Name of the task, if it has a backend of its own."
)
@click.option("--traceback", cls=CeleryOption, is_flag=True, help_group=HEADING, help="Print the traceback instead.")
@click.pass_context
@handle_preload_options
def result(ctx: click.Context, task_id: str, task: str | None, traceback: bool) -> None:
    """Wait for the task TASK_ID to end and print what it returned."""
    app = ctx.obj.app
    found = app.tasks[task].AsyncResult(task_id) if task else app.AsyncResult(task_id)
    value = found.traceback if traceback else found.get(propagate=False)
    if not traceback and isinstance(value, BaseException):
        raise CommandError(
            f"The task {task_id} ended as {found.state}: {type(value).__name__}: {value}\n"
            f"Its traceback: celery result --traceback {task_id}"
        )
    ctx.obj.echo(str(value))
