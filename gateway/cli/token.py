"""`gateway token`: tokens of clients of the OpenAI-compatible API, made, listed and revoked."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from gateway.cli.options import ConfigOption, JsonOption, StateDirOption, Where
from gateway.cli.output import Screen, local_time, reporting

if TYPE_CHECKING:
    from gateway.cli.client import Api

app = typer.Typer(
    help="Make, list and revoke tokens of OpenAI-compatible clients.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="What the token is called; its sessions are under it.")
]


@app.callback()
def token() -> None:
    """Make, list and revoke tokens of OpenAI-compatible clients."""


@app.command()
def create(
    name: NameArgument,
    *,
    again: Annotated[
        bool, typer.Option("--again", help="Take the name of a revoked token, and its sessions.")
    ] = False,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token and write it to standard output, this once.

    Only a hash of it is kept.
    """
    with reporting(as_json=as_json) as screen:
        from gateway.cli.client import call

        body = {"name": name, "again": again}
        made = call(Where(config, state_dir), partial(_create, body=body))
        if as_json:
            screen.document(made)
        else:
            screen.line(made["token"])
            screen.note("it is shown this once; the base URL of clients ends in /v1")


@app.command("list")
def list_tokens(
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """List all tokens by name, revoked ones included.

    The tokens themselves are known to nobody.
    """
    with reporting(as_json=as_json) as screen:
        from gateway.cli.client import call

        listed = call(Where(config, state_dir), _get)
        if as_json:
            screen.document(listed)
        else:
            _show(screen, listed["tokens"])


@app.command()
def revoke(
    name: NameArgument,
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a token at once. Its sessions stay, and its name stays taken."""
    with reporting(as_json=as_json) as screen:
        from gateway.cli.client import call

        ended = call(Where(config, state_dir), partial(_revoke, name=name))
        if as_json:
            screen.document(ended)
        else:
            screen.line(f"revoked {ended['name']}")


async def _create(api: Api, *, body: dict[str, object]) -> dict[str, Any]:
    made: dict[str, Any] = await api.post("/v1/tokens", body)
    return made


async def _get(api: Api) -> dict[str, Any]:
    listed: dict[str, Any] = await api.get("/v1/tokens")
    return listed


async def _revoke(api: Api, *, name: str) -> dict[str, Any]:
    ended: dict[str, Any] = await api.delete(f"/v1/tokens/{quote(name, safe='')}")
    return ended


def _show(screen: Screen, tokens: list[dict[str, Any]]) -> None:
    if not tokens:
        screen.note("there are no tokens")
        return

    rows = [
        [
            one["name"],
            local_time(one["created_at"]),
            _last_used(one),
            local_time(one["revoked_at"]) if one["revoked_at"] else "-",
        ]
        for one in tokens
    ]
    screen.table(["NAME", "CREATED", "LAST USED (HOUR)", "REVOKED"], rows)


def _last_used(token: dict[str, Any]) -> str:
    """Return when a token was last used, by the hour: no earlier than it was made."""
    instants = [token["created_at"], token["last_used_at"]]
    return local_time(max(instants, key=datetime.fromisoformat)) if instants[1] else "-"
