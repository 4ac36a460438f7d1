"""All commands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.backup import backup
from gateway.cli.chat import chat
from gateway.cli.config import check_config, init
from gateway.cli.context import app as context
from gateway.cli.outbox import app as outbox
from gateway.cli.pairing import app as pairing
from gateway.cli.processes import app as processes
from gateway.cli.processes import runner
from gateway.cli.prune import app as prune
from gateway.cli.run import run
from gateway.cli.sessions import app as sessions
from gateway.cli.status import status
from gateway.cli.store import app as store
from gateway.cli.token import app as token
from gateway.cli.transcript import app as transcript
from gateway.cli.usage import usage
from gateway.cli.webhook import app as webhook

app = typer.Typer(
    help="A gateway between chat platforms, HTTP clients and LLM agents.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - called by typer with the option's value
    if wanted:
        from gateway import __version__

        typer.echo(f"gateway {__version__}")
        raise typer.Exit


@app.callback()
def root(
    *,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """A gateway between chat platforms, HTTP clients and LLM agents."""


app.command()(run)
app.command()(init)
app.command("check-config")(check_config)
app.command()(status)
app.command()(chat)
app.command()(usage)
app.command()(backup)
app.command()(runner)
app.add_typer(sessions, name="sessions")
app.add_typer(transcript, name="transcript")
app.add_typer(context, name="context")
app.add_typer(pairing, name="pairing")
app.add_typer(token, name="token")
app.add_typer(outbox, name="outbox")
app.add_typer(webhook, name="webhook")
app.add_typer(processes, name="processes")
app.add_typer(prune, name="prune")
app.add_typer(store, name="store")
