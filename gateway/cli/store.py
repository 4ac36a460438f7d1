"""`gateway store`: whether a state directory is whole, and what can be done where it is not."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.cli.options import ConfigOption, JsonOption, StateDirOption, Where
from gateway.cli.output import Screen, reporting, safe_name
from gateway.errors import ExitCode

if TYPE_CHECKING:
    from gateway.sessions.adopting import Adopted
    from gateway.upkeep.salvage import Salvaged

_ROWS: Final = {
    "sessions": "sessions that run or ended",
    "messages": "messages",
    "model_calls": "model calls",
    "projections": "shortened tool results",
    "context_accounts": "accounts of contexts",
    "summaries": "summaries of old turns",
    "session_users": "names of users of sessions",
    "usage": "sums of what was used",
    "inbox": "messages that the next start answers",
    "outbox": "stored replies",
    "outbox_chats": "chats that replies are owed to",
    "pairing_requests": "people who wait to be paired",
    "pairing_locks": "counts of wrong pairing codes",
    "paired_users": "paired users",
    "pruning_runs": "runs of pruning",
    "pruned_items": "items that pruning took",
    "pruned_originals": "items that pruning holds to be restored",
    "archives": "files of the archive",
    "api_tokens": "tokens of clients",
}
app = typer.Typer(
    help="Check and mend a state directory.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def store() -> None:
    """Check and mend a state directory."""


@app.command()
def check(
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that everything is whole and fits together; change nothing.

    A gateway may run meanwhile. The exit status is 65 where something is damaged, 78 where others
    can read or change the files.
    """
    with reporting(as_json=as_json) as screen:
        from gateway.cli.client import check_is_state
        from gateway.upkeep.checking import check_store

        settings = Where(config, state_dir).load().config
        check_is_state(settings.state_dir)
        report = check_store(settings.state_dir, dashboard=bool(settings.store.dashboard_group))
        code = report.exit_code()
        if as_json:
            screen.document({"ok": not code, **asdict(report)})
        else:
            for finding in report.findings:
                text = f"{finding.level:<8} {finding.check:<18} {finding.text}"
                screen.line(safe_name(text))
        if code == ExitCode.DAMAGED_DATA and not as_json:
            screen.note(
                "where a start is refused: put a backup in its place; or, with the gateway "
                "stopped, write a new state directory from what can be read: "
                f"gateway store salvage DIR --state-dir {settings.state_dir}"
            )
        if code:
            raise typer.Exit(code)


@app.command()
def salvage(
    target: Annotated[
        Path, typer.Argument(metavar="DIR", help="A new directory, or an empty one.")
    ],
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a new state directory from what is left of a damaged one.

    The damaged one stays as it is. The exit status is 0 where nothing was given up, and 65 where
    something was: the new directory is there then as well, with a report in salvage.json.
    """
    with reporting(as_json=as_json) as screen:
        import anyio

        from gateway.cli.client import check_is_state
        from gateway.clock import SystemClock
        from gateway.upkeep.salvage import salvage as salvage_to

        path = Where(config, state_dir).load().config.state_dir
        check_is_state(path)
        saved = anyio.run(salvage_to, path, target, SystemClock())
        if as_json:
            screen.document(asdict(saved))
        else:
            _show_salvaged(screen, saved)
        if not saved.complete:
            raise typer.Exit(ExitCode.DAMAGED_DATA)


def _show_salvaged(screen: Screen, saved: Salvaged) -> None:
    rows = ", ".join(f"{count} {_ROWS.get(table, table)}" for table, count in saved.rows.items())
    screen.line(f"{saved.path}: {saved.entries} entries, {rows}")
    for note in saved.notes:
        screen.line(safe_name(f"note      {note}"))
    for loss in saved.given_up:
        examples = f" ({'; '.join(loss.examples[:3])})" if loss.examples else ""
        count = f"{loss.count} " if loss.count > 1 else ""
        screen.line(safe_name(f"given up  {loss.place}: {count}{loss.what}{examples}"))
    if saved.complete:
        screen.line("nothing was given up")
    else:
        screen.note(f"all of this stands in {saved.path}/salvage.json")
    screen.note(f"start from it with: gateway run --state-dir {saved.path}")


@app.command()
def adopt(
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take sessions.json as the truth.

    What the session log knows besides goes to quarantine.
    """
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
