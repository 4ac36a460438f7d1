"""`gateway webhook`: events for webhooks that wait, or were given up."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.options import ConfigOption, JsonOption, StateDirOption, Where
from gateway.cli.output import Screen, local_time, reporting

if TYPE_CHECKING:
    from gateway.cli.client import Api

app = typer.Typer(
    help="See events for webhooks, and have them posted again.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def webhook() -> None:
    """See events for webhooks, and have them posted again."""


@app.command("list")
def list_events(
    *,
    queued: Annotated[
        bool, typer.Option("--queued", help="Events that wait; default: dead letters.")
    ] = False,
    name: Annotated[
        str | None, typer.Option("--webhook", metavar="NAME", help="Only those of one webhook.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, metavar="NUMBER", help="How many.")] = 100,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the webhooks, and events that are dead or wait."""
    with reporting(as_json=as_json) as screen:
        from gateway.cli.client import call

        asked: dict[str, str | int] = {"state": "queued" if queued else "dead", "limit": limit}
        if name is not None:
            asked["webhook"] = name
        listed = call(Where(config, state_dir), partial(_get, asked=asked))
        if as_json:
            screen.document(listed)
        else:
            _show(screen, listed)


@app.command()
def retry(
    events: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID...]", help="As `gateway webhook list` shows them."),
    ] = None,
    *,
    name: Annotated[
        str | None,
        typer.Option("--all", metavar="NAME", help="All events of a webhook instead."),
    ] = None,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have events posted again, under the same ids.

    They have all their tries anew. Where no gateway runs, the next start posts them.
    """
    if bool(events) == bool(name):
        raise typer.BadParameter("Accepted are ids, or --all with the name of a webhook.")

    with reporting(as_json=as_json) as screen:
        from gateway.cli.client import call

        body: dict[str, object] = {"webhook": name} if name else {"ids": events}
        done = call(Where(config, state_dir), partial(_retry, body=body))
        if as_json:
            screen.document(done)
        else:
            number = done["retried"]
            screen.line(f"{number} event{'' if number == 1 else 's'} will be posted again")


async def _get(api: Api, *, asked: dict[str, str | int]) -> dict[str, Any]:
    listed: dict[str, Any] = await api.get("/v1/webhooks", **asked)
    return listed


async def _retry(api: Api, *, body: dict[str, object]) -> dict[str, Any]:
    done: dict[str, Any] = await api.post("/v1/webhooks/retry", body)
    return done


def _show(screen: Screen, listed: dict[str, Any]) -> None:
    if listed["webhooks"]:
        screen.table(
            ["WEBHOOK", "STATE", "QUEUED", "DEAD", "URL"],
            [
                [one["webhook"], one["state"], str(one["queued"]), str(one["dead"]), one["url"]]
                for one in listed["webhooks"]
            ],
        )
    else:
        screen.note("there are no webhooks")
    if not listed["events"]:
        screen.note("no such events")
        return

    screen.line("")
    waits = listed["events"][0]["due_at"] is not None
    screen.table(
        ["ID", "WEBHOOK", "TYPE", "HAPPENED", "TRIES", *(["NEXT TRY"] if waits else []), "WHY"],
        [
            [
                *(one["id"], one["webhook"], one["type"], local_time(one["created_at"])),
                *(str(one["attempts"]), *([local_time(one["due_at"])] if waits else [])),
                one["error"] or "-",
            ]
            for one in listed["events"]
        ],
    )
    if listed["next_cursor"] is not None:
        screen.note(f"there are more than {len(listed['events'])} (--limit)")
