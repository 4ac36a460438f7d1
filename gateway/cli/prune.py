"""`gateway prune`: what the rules would take of what sessions store, done, explained, given back.

At a terminal it speaks to people; elsewhere, and with `--json`, it writes one JSON document.
"""

from __future__ import annotations

import signal
import sys
import termios
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway.cli import prune_shown as shown
from gateway.cli.options import ConfigOption, JsonOption, StateDirOption, Where
from gateway.cli.output import REFUSED, reporting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.cli.client import Api
    from gateway.cli.output import Screen

MAX_ITEMS: Final = 1_000
"""The most items in one answer of the API."""

app = typer.Typer(
    help="See what the rules of [pruning] take, do it, give it back.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

ForceOption = Annotated[
    bool, typer.Option("--force", help="Of exempt sessions as well; nothing else is overridden.")
]
SessionOption = Annotated[
    str | None,
    typer.Option("--session", metavar="KEY|ID", help="Only of this session, or conversation."),
]
ItemArgument = Annotated[
    str, typer.Argument(metavar="ITEM", help="As the plan and the history show it.")
]


@app.callback()
def prune() -> None:
    """See what the rules of [pruning] take, do it, give it back."""


@app.command()
def plan(
    *,
    items: Annotated[bool, typer.Option("--items", help="Show every item, and why.")] = False,
    force: ForceOption = False,
    session: SessionOption = None,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a run would do now; nothing is changed."""
    plain = _plain(as_json)
    with reporting(as_json=plain) as screen:
        from gateway.cli.client import call

        work = partial(_plan, body=_asked(force=force, session=session), items=items)
        planned = call(Where(config, state_dir), work)
        if plain:
            screen.document(planned)
        else:
            shown.plan(screen, planned, items=items)


@app.command()
def apply(
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    confirmed: Annotated[
        bool,
        typer.Option("--confirmed", help="Also where it takes more than max_share of everything."),
    ] = False,
    force: ForceOption = False,
    session: SessionOption = None,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a run would do, ask, and do it.

    With --yes it does not ask. What rules take can be given back with restore as long as its grace
    lasts (a week, unless configured otherwise), and from the archive.
    """
    plain = _plain(as_json)
    with reporting(as_json=plain) as screen:
        asks = not yes
        if asks and (plain or not sys.stdin.isatty()):
            raise typer.BadParameter("it needs --yes where nobody can be asked.")

        from gateway.cli.client import call

        body = _asked(force=force, session=session, confirmed=confirmed)
        ask = partial(_ask, confirmed=confirmed) if asks else None
        planned: dict[str, Any] = {}
        work = partial(
            _apply, screen=screen, body=body, ask=ask, planned=None if plain else planned
        )
        try:
            result = call(Where(config, state_dir), work)
        except KeyboardInterrupt:
            screen.note(
                "no longer waiting: a gateway that runs goes on with it; "
                "what was done stands in: gateway prune history"
            )
            raise

        if result is None:
            screen.note("nothing was changed")
            raise typer.Exit(REFUSED)
        if not result:
            return

        if plain:
            screen.document(result)
        else:
            shown.result(screen, result, planned)
        if not result["success"]:
            raise typer.Exit(REFUSED)


@app.command()
def explain(
    item: ItemArgument,
    *,
    force: ForceOption = False,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show why an item stays or goes, and when it is due.

    Every rule and every protection is told.
    """
    plain = _plain(as_json)
    with reporting(as_json=plain) as screen:
        from gateway.cli.client import call

        explained = call(Where(config, state_dir), partial(_explain, item=item, force=force))
        if plain:
            screen.document(explained)
        else:
            shown.explanation(screen, explained)


@app.command()
def restore(
    items: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ITEM]...", help="As the history shows them."),
    ] = None,
    *,
    run: Annotated[
        str | None, typer.Option(metavar="ID", help="Everything that one run took.")
    ] = None,
    session: Annotated[
        str | None,
        typer.Option(metavar="KEY|ID", help="Everything that was taken of one session."),
    ] = None,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give back what rules took.

    In its grace that is in the database, else in the archive. For a day, unless configured
    otherwise, no rule takes it again.
    """
    plain = _plain(as_json)
    with reporting(as_json=plain) as screen:
        given = {"items": items or None, "run": run, "session": session}
        body = {name: value for name, value in given.items() if value is not None}
        if len(body) != 1:
            raise typer.BadParameter("accepted is one of: ITEM..., --run ID, --session KEY.")

        from gateway.cli.client import call

        restored = call(Where(config, state_dir), partial(_restore, body=body))
        if plain:
            screen.document(restored)
        else:
            shown.restored(screen, restored)
        if restored["refused_count"]:
            raise typer.Exit(REFUSED)


@app.command()
def retry(
    items: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ITEM]...", help="As the plan shows them; left out: all."),
    ] = None,
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let items be tried again that failed three times.

    They are left alone since. A running gateway knows them; a restart tries them again by itself.
    """
    plain = _plain(as_json)
    with reporting(as_json=plain) as screen:
        from gateway.cli.client import call

        done = call(Where(config, state_dir), partial(_retry, items=items or []))
        if plain:
            screen.document(done)
        else:
            screen.line(f"{done['retried_count']} items are tried again")


@app.command()
def history(
    *,
    item: Annotated[
        str | None, typer.Option(metavar="ITEM", help="What was done to one item.")
    ] = None,
    run: Annotated[str | None, typer.Option(metavar="ID", help="What one run took.")] = None,
    session: Annotated[
        str | None, typer.Option(metavar="KEY|ID", help="What was taken of one session.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=MAX_ITEMS, metavar="NUMBER", help="How many.")
    ] = 100,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show runs, the newest first, or what was taken and where it is.

    What was taken is that of an item, a run or a session. The cause of a run is `apply` where
    somebody asked for it, `due` where the rules were, and `retention` where conversations had ended
    long ago. Of the id of a run or a conversation the start is enough, as it is shown.
    What is held can be given back from the database, what is archived from the archive; what is
    purged is gone.
    """
    plain = _plain(as_json)
    with reporting(as_json=plain) as screen:
        from gateway.cli.client import call

        filters = {"item": item, "run": run, "session": session}
        asked = {name: value for name, value in filters.items() if value is not None}
        told = call(Where(config, state_dir), partial(_history, asked=asked, limit=limit))
        if plain:
            screen.document(told)
        elif asked:
            shown.items(screen, told)
        else:
            shown.runs(screen, told)


def _plain(as_json: bool) -> bool:  # noqa: FBT001 - the value of an option
    """Return whether a program reads the output."""
    return as_json or not sys.stdout.isatty()


def _asked(*, force: bool, session: str | None, **flags: bool) -> dict[str, object]:
    """Return what is asked for: only what differs from its default."""
    body: dict[str, object] = {name: True for name, on in flags.items() if on}
    if force:
        body["force"] = True
    if session is not None:
        body["session"] = session
    return body


def _ask(planned: dict[str, Any], *, confirmed: bool) -> bool:
    """Return whether a plan is to be done."""
    question = f"Prune {shown.counted(planned['planned_count'], 'item')}?"
    if planned["breaker"] and not confirmed:
        question = f"{question} It is more than max_share allows."
    # What was typed before the question was shown is no answer to it.
    termios.tcflush(sys.stdin, termios.TCIFLUSH)
    # The event loop has nothing else to do meanwhile; its own handler of Ctrl-C would wait for it.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:
        return False
    finally:
        signal.signal(signal.SIGINT, handler)


async def _plan(api: Api, *, body: Mapping[str, object], items: bool) -> dict[str, Any]:
    limit = MAX_ITEMS if items else 0
    planned: dict[str, Any] = await api.post(f"/v1/pruning/plan?limit={limit}", body)
    while items and planned["next_cursor"] is not None:
        page = await api.get(
            f"/v1/pruning/plans/{planned['id']}/items",
            cursor=planned["next_cursor"],
            limit=MAX_ITEMS,
        )
        planned["items"] += page["items"]
        planned["next_cursor"] = page["next_cursor"]
    return planned


async def _apply(
    api: Api,
    *,
    screen: Screen,
    body: dict[str, object],
    ask: Callable[[dict[str, Any]], bool] | None,
    planned: dict[str, Any] | None,
) -> dict[str, Any] | None:
    """Return what was done; nothing where nothing is due, None where it is not to be done.

    Args:
        api: The gateway.
        screen: Where the plan is shown.
        body: What is asked for.
        ask: Tells whether the plan is to be done; None: it is.
        planned: Takes the plan, which is shown; None: nobody looks.
    """
    from gateway.errors import UnavailableError

    if planned is not None:
        wanted: dict[str, object] = {
            name: body.pop(name) for name in ("force", "session") if name in body
        }
        planned |= await _plan(api, body=wanted, items=False)
        if ask is None:
            shown.brief_plan(screen, planned)
        else:
            shown.plan(screen, planned, items=False)
        if not planned["planned_count"]:
            return {}

        if not planned["enabled"] or not (ask is None or ask(planned)):
            return None

        body["plan"] = planned["id"]
        if ask is not None:
            body["confirmed"] = bool(planned["breaker"])
    with shown.progress(screen) as advance:
        async for event in api.stream(f"/v1/pruning/apply?limit={MAX_ITEMS}", body):
            if event.name == "progress":
                advance(event.data)
            elif event.name == "result":
                return event.data

    raise UnavailableError("the answer broke off; what was done stands in: gateway prune history")


async def _explain(api: Api, *, item: str, force: bool) -> dict[str, Any]:
    from urllib.parse import quote

    from gateway.model import clean_text

    params = {"force": "true"} if force else {}
    path = f"/v1/pruning/items/{quote(clean_text(item), safe='')}"
    explained: dict[str, Any] = await api.get(path, **params)
    return explained


async def _restore(api: Api, *, body: Mapping[str, object]) -> dict[str, Any]:
    restored: dict[str, Any] = await api.post("/v1/pruning/restore", body)
    return restored


async def _retry(api: Api, *, items: list[str]) -> dict[str, Any]:
    done: dict[str, Any] = await api.post("/v1/pruning/retry", {"items": items} if items else {})
    return done


async def _history(api: Api, *, asked: dict[str, str], limit: int) -> dict[str, Any]:
    from gateway.model import clean_text

    clean = {name: clean_text(value) for name, value in asked.items()}
    path = "/v1/pruning/history" if asked else "/v1/pruning/runs"
    told: dict[str, Any] = await api.get(path, limit=limit, **clean)
    if "run" in asked:
        told["run"] = await _run(api, clean["run"])
    return told


async def _run(api: Api, run: str) -> dict[str, Any] | None:
    """Return a run; None where nothing is known of it but what it took."""
    from urllib.parse import quote

    from gateway.cli.output import ProblemError

    try:
        found: dict[str, Any] = await api.get(f"/v1/pruning/runs/{quote(run, safe='')}")
    except ProblemError as error:
        if error.status == 404:  # noqa: PLR2004 - HTTP
            return None
        raise
    return found
