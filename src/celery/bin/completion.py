"""`celery completion`: the script by which a shell completes commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from celery.bin.base import CeleryCommand

WHERE = {
    "bash": 'eval "$(celery completion bash)"   in ~/.bashrc',
    "zsh": 'eval "$(celery completion zsh)"    in ~/.zshrc',
    "fish": "celery completion fish > ~/.config/fish/completions/celery.fish",
}


@click.command(cls=CeleryCommand)
@click.argument("shell", type=click.Choice(tuple(WHERE)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script with which SHELL completes commands and options.

    \b
    eval "$(celery completion bash)"    in ~/.bashrc
    eval "$(celery completion zsh)"     in ~/.zshrc
    celery completion fish > ~/.config/fish/completions/celery.fish
    """
    made = get_completion_class(shell)
    assert made is not None
    root = ctx.find_root().command
    click.echo(made(root, {}, "celery", "_CELERY_COMPLETE").source())
