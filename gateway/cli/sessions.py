"""`gateway sessions`: what sessions there are, and what can be done to one."""

from __future__ import annotations

import math
import sys
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway.cli.options import ConfigOption, JsonOption, KeyArgument, StateDirOption, Where
from gateway.cli.output import Screen, flat_facts, local_time, reporting

if TYPE_CHECKING:
    from gateway.cli.client import Api

MAX_SORTED: Final = 10_000
"""How many sessions a list reads to find the latest."""

app = typer.Typer(help="See and change sessions.", no_args_is_help=True, rich_markup_mode=None)


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = math.nan
    if not math.isfinite(days) or days < 0:
        raise typer.BadParameter("accepted is a number of days from 0, where 0 removes nothing.")

    return days


def path_of(key: str) -> str:
    """Return where the API has a session.

    Raises:
        BadRequestError: it is not a session key.
    """
    from gateway.sessions.key import parse_key

    parse_key(key)  # what parses needs no escaping in a URL
    return f"/v1/sessions/{key}"


@app.command("list")
def list_sessions(
    *,
    platform: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only those of one platform.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=MAX_SORTED, metavar="NUMBER", help="How many.")
    ] = 50,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """List sessions, the most recently used first."""
    with reporting(as_json=as_json) as screen:
        from gateway.cli.client import call

        listed = call(Where(config, state_dir), partial(_latest, platform=platform, limit=limit))
        if as_json:
            screen.document(listed)
        else:
            _show_list(screen, listed)


@app.command()
def show(
    key: KeyArgument,
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show everything that is known of a session."""
    with reporting(as_json=as_json) as screen:
        from gateway.cli.client import call

        entry = call(Where(config, state_dir), partial(_get, key=key))
        if as_json:
            screen.document(entry)
        else:
            screen.facts(flat_facts(entry))


@app.command()
def reset(
    key: KeyArgument,
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Begin a new conversation.

    The one before is kept and can be brought back with undo.
    """
    _change("reset", key, Where(config, state_dir), as_json=as_json)


@app.command()
def undo(
    key: KeyArgument,
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring back the conversation before."""
    _change("undo", key, Where(config, state_dir), as_json=as_json)


@app.command()
def suspend(
    key: KeyArgument,
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pause a session.

    Its messages are answered with how to resume it; nothing is lost.
    """
    _change("suspend", key, Where(config, state_dir), as_json=as_json)


@app.command()
def resume(
    key: KeyArgument,
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a paused session go on."""
    _change("resume", key, Where(config, state_dir), as_json=as_json)


@app.command()
def remove(
    key: KeyArgument,
    *,
    erase: Annotated[
        bool, typer.Option("--erase", help="Erase everything that was said as well, for good.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a session.

    What was said stays, unless --erase is given.
    """
    with reporting(as_json=as_json) as screen:
        path = path_of(key)
        if erase and not yes:
            _confirm_erasing(key)

        from gateway.cli.client import call

        removed = call(Where(config, state_dir), partial(_delete, path=path, erase=erase))
        if as_json:
            screen.document(removed)
        else:
            screen.line(f"{'erased' if erase else 'removed'} {key}")


@app.command()
def prune(
    *,
    max_age_days: Annotated[
        float | None,
        typer.Option(metavar="DAYS", parser=_days, help="Default: the configured age."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove sessions that are too old.

    Those without a message for longer than the age go; what was said stays.
    """
    with reporting(as_json=as_json) as screen:
        from gateway.cli.client import call

        body: dict[str, object] = {"dry_run": dry_run}
        if max_age_days is not None:
            body["max_age_days"] = max_age_days
        report = call(Where(config, state_dir), partial(_prune, body=body))
        if as_json:
            screen.document(report)
        else:
            screen.facts(flat_facts(report))


def _change(verb: str, key: str, where: Where, *, as_json: bool) -> None:
    with reporting(as_json=as_json) as screen:
        path = path_of(key)

        from gateway.cli.client import call

        entry = call(where, partial(_post, path=f"{path}/{verb}"))
        if as_json:
            screen.document(entry)
            return

        paused = ", paused" if entry["suspended_at"] else ""
        screen.line(f"{entry['session_key']}  conversation {entry['session_id']}{paused}")
        if verb == "reset":
            screen.note(f"bring the one before back with: gateway sessions undo {key}")


def _confirm_erasing(key: str) -> None:
    if not sys.stdin.isatty():
        raise typer.BadParameter("--erase needs --yes where nobody can be asked.")

    question = f"Erase everything that was said in {key}? It cannot be brought back."
    typer.confirm(question, abort=True, err=True)


async def _latest(api: Api, *, platform: str | None, limit: int) -> dict[str, Any]:
    """Return the latest sessions, and whether there were more than could be compared."""
    from gateway.cli.client import PAGE
    from gateway.model import clean_text

    params: dict[str, str | int] = {"limit": PAGE}
    if platform is not None:
        params["platform"] = clean_text(platform)
    entries: list[dict[str, Any]] = []
    cursor: str | None = None
    while len(entries) < MAX_SORTED:
        page = await api.get("/v1/sessions", **params)
        entries += page["sessions"]
        cursor = page["next_cursor"]
        if cursor is None:
            break

        params["cursor"] = cursor
    entries.sort(key=lambda entry: datetime.fromisoformat(entry["updated_at"]), reverse=True)
    return {"sessions": entries[:limit], "compared": len(entries), "all_compared": cursor is None}


async def _get(api: Api, *, key: str) -> dict[str, Any]:
    entry: dict[str, Any] = await api.get(path_of(key))
    return entry


async def _post(api: Api, *, path: str) -> dict[str, Any]:
    entry: dict[str, Any] = await api.post(path)
    return entry


async def _delete(api: Api, *, path: str, erase: bool) -> dict[str, Any]:
    removed: dict[str, Any] = await api.delete(path, **({"erase": "true"} if erase else {}))
    return removed


async def _prune(api: Api, *, body: dict[str, object]) -> dict[str, Any]:
    report: dict[str, Any] = await api.post("/v1/prune", body)
    return report


def _show_list(screen: Screen, listed: dict[str, Any]) -> None:
    entries = listed["sessions"]
    if not entries:
        screen.note("no sessions")
        return

    columns = ("KEY", "NAME", "LAST USED", "TURNS", "CONTEXT", "STATE")
    screen.table(columns, [_row(entry) for entry in entries])
    if not listed["all_compared"]:
        screen.note(f"there are more than {listed['compared']}: these are the latest of as many")
    elif listed["compared"] > len(entries):
        screen.note(f"{len(entries)} of {listed['compared']} sessions (--limit)")


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    window = entry["context_window_tokens"]
    return (
        entry["session_key"],
        entry["display_name"],
        local_time(entry["updated_at"]),
        str(entry["turns"]),
        f"{entry['context_tokens']}/{window}" if window else "-",
        _state(entry),
    )


def _state(entry: dict[str, Any]) -> str:
    if entry["suspended_at"]:
        return "paused"

    return "busy" if entry["busy"] else "active"
