"""`gateway store`: the state directory itself, while no daemon runs on it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.options import ConfigOption, JsonOption, StateDirOption, Where
from gateway.cli.output import reporting

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.sessions.adopting import Adopted

app = typer.Typer(
    help="Mend the state directory of a stopped gateway.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def store() -> None:
    """Mend the state directory of a stopped gateway."""


@app.command()
def adopt(
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take sessions.json as the truth; what the session log knows besides goes to quarantine."""
    with reporting(as_json=as_json) as screen:
        import anyio

        from gateway.cli.client import check_is_state

        path = Where(config, state_dir).load().config.state_dir
        check_is_state(path)
        if not yes:
            question = f"Take {path / 'sessions.json'} as the truth and set the session log aside?"
            typer.confirm(question, abort=True, err=True)
        adopted = anyio.run(_adopt, path)
        if as_json:
            screen.document(asdict(adopted))
        else:
            screen.line(
                f"{adopted.entries} entries adopted; {adopted.log_rows_set_aside} rows of the "
                "session log were set aside. The next start reads the file."
            )


async def _adopt(path: Path) -> Adopted:
    from gateway.clock import SystemClock
    from gateway.durable.database import Database
    from gateway.durable.directory import hold
    from gateway.sessions.adopting import adopt as adopt_file

    clock = SystemClock()
    with hold(path, started_at=clock.now()) as directory:
        async with Database.open(path / "gateway.db", clock) as database:
            return await adopt_file(directory, database, clock.now())
