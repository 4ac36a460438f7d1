"""`gateway pairing`: who asked to be paired, who is, a code approved, a pairing ended."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.options import ConfigOption, JsonOption, StateDirOption, Where
from gateway.cli.output import Screen, local_time, reporting

if TYPE_CHECKING:
    from gateway.cli.client import Api

app = typer.Typer(
    help="See and decide who may talk in direct chats.", no_args_is_help=True, rich_markup_mode=None
)


@app.callback()
def pairing() -> None:
    """See and decide who may talk in direct chats."""


@app.command("list")
def list_pairing(
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """List who waits with a code, and who is paired. The codes are known to the users alone."""
    with reporting(as_json=as_json) as screen:
        from gateway.cli.client import call

        listed = call(Where(config, state_dir), _get)
        if as_json:
            screen.document(listed)
        else:
            _show(screen, listed)


@app.command()
def approve(
    code: Annotated[str, typer.Argument(metavar="CODE", help="What the user was told.")],
    *,
    platform: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only who writes on this platform.")
    ] = None,
    account: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only who writes to this account of yours.")
    ] = None,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let whoever got a code talk in direct chats.

    Five wrong codes in a row lock this for an hour: on the account that is named, or on all on
    which somebody waits.
    """
    with reporting(as_json=as_json) as screen:
        from gateway.cli.client import call

        asked = {"code": code, "platform": platform, "account": account}
        body = {name: value for name, value in asked.items() if value}
        paired = call(Where(config, state_dir), partial(_post, verb="approve", body=body))
        if as_json:
            screen.document(paired)
        else:
            screen.line(f"paired {_user(paired)}  {paired['user_name']}".rstrip())


@app.command()
def revoke(
    user: Annotated[
        str,
        typer.Argument(
            metavar="PLATFORM:USER",
            help="As `gateway pairing list` shows it; PLATFORM/ACCOUNT:USER for one account.",
        ),
    ],
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a pairing: the user's next message is a stranger's."""
    with reporting(as_json=as_json) as screen:
        body = _parsed(user)

        from gateway.cli.client import call

        ended = call(Where(config, state_dir), partial(_post, verb="revoke", body=body))
        if as_json:
            screen.document(ended)
        else:
            for one in ended["revoked"]:
                screen.line(f"revoked {_user(one)}  {one['user_name']}".rstrip())


def _parsed(user: str) -> dict[str, str]:
    where, colon, user_id = user.partition(":")
    platform, _, account = where.partition("/")
    if not (colon and platform and user_id):
        raise typer.BadParameter("accepted is PLATFORM:USER such as telegram:12345.")

    body = {"platform": platform, "user_id": user_id}
    return body | ({"account": account} if account else {})


async def _get(api: Api) -> dict[str, Any]:
    listed: dict[str, Any] = await api.get("/v1/pairing")
    return listed


async def _post(api: Api, *, verb: str, body: dict[str, str]) -> dict[str, Any]:
    done: dict[str, Any] = await api.post(f"/v1/pairing/{verb}", body)
    return done


def _show(screen: Screen, listed: dict[str, Any]) -> None:
    pending, paired = listed["pending"], listed["paired"]
    if pending:
        rows = [
            [*_named(one), local_time(one["asked_at"]), local_time(one["expires_at"])]
            for one in pending
        ]
        screen.table(["WAITS", "NAME", "ASKED", "EXPIRES"], rows)
    else:
        screen.note("nobody waits")
    if pending and paired:
        screen.line("")
    if paired:
        rows = [[*_named(one), local_time(one["paired_at"])] for one in paired]
        screen.table(["PAIRED", "NAME", "SINCE"], rows)
    else:
        screen.note("nobody is paired")
    places: dict[str, list[str]] = {}
    for lock in listed["locked"]:
        places.setdefault(local_time(lock["locked_until"]), []).append(_place(lock))
    for until, where in places.items():
        on = ", ".join(where)
        screen.note(f"nothing is approved on {on} until {until}: too many wrong codes")


def _named(one: dict[str, Any]) -> list[str]:
    return [_user(one), one["user_name"] or "-"]


def _user(one: dict[str, Any]) -> str:
    return f"{_place(one)}:{one['user_id']}"


def _place(one: dict[str, Any]) -> str:
    account = one["account"]
    return f"{one['platform']}/{account}" if account else str(one["platform"])
