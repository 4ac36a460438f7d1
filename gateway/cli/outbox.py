"""`gateway outbox`: replies to channels that are not sent, or were given up."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote

import typer

from gateway.cli.options import ConfigOption, JsonOption, StateDirOption, Where
from gateway.cli.output import Screen, flat_facts, local_time, reporting
from gateway.transcripts.outbox import RETRACTED
from gateway.transcripts.outbox_rows import OutboxState

if TYPE_CHECKING:
    from gateway.cli.client import Api

_COLUMNS: Final = ("ID", "CHANNEL", "CHAT", "ANSWERED", "TRIES", "WHY")
_RETRACTED: Final = "its message was taken back: nothing was sent"
app = typer.Typer(
    help="See replies to channels, and decide what becomes of them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
IdsArgument = Annotated[
    list[str], typer.Argument(metavar="ID...", help="As `gateway outbox list` shows them.")
]


def _state(text: str) -> OutboxState:
    try:
        return OutboxState(text)
    except ValueError:
        *others, last = OutboxState
        accepted = f"{', '.join(others)} or {last}"
        raise typer.BadParameter(f"{text!r} is unknown, accepted is {accepted}.") from None


@app.callback()
def outbox() -> None:
    """See replies to channels, and decide what becomes of them."""


@app.command("list")
def list_replies(
    *,
    state: Annotated[
        OutboxState | None,
        typer.Option(
            metavar="|".join(OutboxState),
            parser=_state,
            help="Which replies; default: those that are dead, then those that are owed.",
        ),
    ] = None,
    session: Annotated[
        str | None, typer.Option(metavar="KEY", help="Only those of one session.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, metavar="NUMBER", help="How many.")] = 100,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """List replies to channels: dead ones, then those that wait."""
    with reporting(as_json=as_json) as screen:
        from gateway.cli.client import call

        # Dead ones first: they need a decision, and must not hide behind those that wait.
        states = [OutboxState.DEAD, OutboxState.OWED] if state is None else [state]
        work = partial(_pages, states=states, session=session, limit=limit)
        listed = call(Where(config, state_dir), work)
        if as_json:
            screen.document(listed)
        else:
            _show_list(screen, listed)


@app.command()
def show(
    reply: Annotated[str, typer.Argument(metavar="ID", help="As `gateway outbox list` shows it.")],
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show everything that is known of a reply, its text too."""
    with reporting(as_json=as_json) as screen:
        from gateway.cli.client import call

        shown = call(Where(config, state_dir), partial(_get, reply=reply))
        if as_json:
            screen.document(shown)
        else:
            text = shown.pop("text")
            screen.facts(flat_facts(shown))
            screen.line("")
            screen.line(text)


@app.command()
def retry(
    replies: IdsArgument,
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have replies sent that wait or are dead, with all tries anew.

    Where no gateway runs, the next start sends them.
    """
    with reporting(as_json=as_json) as screen:
        from gateway.cli.client import call

        done = call(Where(config, state_dir), partial(_retry, replies=replies))
        if as_json:
            screen.document({"replies": done})
        else:
            for one in done:
                screen.line(f"{one['id']}  is owed again to {_channel(one)}")


@app.command()
def drop(
    replies: IdsArgument,
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give up replies that wait; delete those that are dead."""
    with reporting(as_json=as_json) as screen:
        from gateway.cli.client import call

        done = call(Where(config, state_dir), partial(_drop, replies=replies))
        if as_json:
            screen.document({"replies": done})
        else:
            for one in done:
                said = "deleted" if one["deleted"] else "is dead; dropped again it is deleted"
                screen.line(f"{one['id']}  {said}")


async def _pages(
    api: Api, *, states: list[OutboxState], session: str | None, limit: int
) -> dict[str, Any]:
    from gateway.model import clean_text

    listed: dict[str, Any] = {"replies": [], "more": False}
    for state in states:
        asked: dict[str, str | int] = {"state": state.value, "limit": limit}
        if session is not None:
            asked["session_key"] = clean_text(session)
        page = await api.get("/v1/outbox", **asked)
        listed["replies"] += page["replies"]
        listed["more"] |= page["next_cursor"] is not None
    listed["more"] |= len(listed["replies"]) > limit
    del listed["replies"][limit:]
    return listed


async def _get(api: Api, *, reply: str) -> dict[str, Any]:
    shown: dict[str, Any] = await api.get(_path(reply))
    return shown


async def _retry(api: Api, *, replies: list[str]) -> list[dict[str, Any]]:
    return [await api.post(f"{_path(reply)}/retry") for reply in replies]


async def _drop(api: Api, *, replies: list[str]) -> list[dict[str, Any]]:
    return [await api.delete(_path(reply)) for reply in replies]


def _path(reply: str) -> str:
    from gateway.model import clean_text

    return f"/v1/outbox/{quote(clean_text(reply), safe='')}"


def _show_list(screen: Screen, listed: dict[str, Any]) -> None:
    rows = listed["replies"]
    if not rows:
        screen.note("no such replies")
        return

    screen.table(["STATE", *_COLUMNS], [_row(one) for one in rows])
    if listed["more"]:
        screen.note(f"there are more than {len(rows)} (--limit)")


def _row(one: dict[str, Any]) -> list[str]:
    chat = one["chat_id"] or one["user_id"]
    thread = f" ({one['thread_id']})" if one["thread_id"] else ""
    cells = (one["id"], _channel(one), f"{chat}{thread}", local_time(one["created_at"]))
    why = _RETRACTED if one["status"] == RETRACTED else one["error"] or "-"
    return [one["state"], *cells, str(one["attempts"]), why]


def _channel(one: dict[str, Any]) -> str:
    return f"{one['platform']}/{one['account']}" if one["account"] else str(one["platform"])
