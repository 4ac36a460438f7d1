"""`gateway run`: the daemon."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.options import ConfigOption, JsonOption, StateDirOption, Where
from gateway.cli.output import reporting


def run(
    *,
    config: ConfigOption = None,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="The address to listen on.")
    ] = None,
    port: Annotated[
        str | None,
        typer.Option(metavar="NUMBER", help="The port to listen on; 0 takes a free one."),
    ] = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the gateway.

    Ctrl-C or SIGTERM ends it; SIGHUP makes it read the configuration again.
    """
    with reporting(as_json=as_json):
        given = {"http.host": host, "http.port": port, "log.format": "json" if as_json else None}
        others = {key: value for key, value in given.items() if value is not None}
        where = Where(config, state_dir, others)
        loaded = where.load()

        from gateway import daemon

        raise typer.Exit(daemon.run(loaded, reload=where.load))
