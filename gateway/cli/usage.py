"""`gateway usage`: what model calls have used, and what it cost."""

from __future__ import annotations

from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway.cli.options import ConfigOption, JsonOption, StateDirOption, Where
from gateway.cli.output import Screen, reporting
from gateway.transcripts.usage import UsageBy

if TYPE_CHECKING:
    from gateway.cli.client import Api

_COLUMNS: Final = (
    *("CALLS", "INPUT TOKENS", "CACHE READ", "CACHE WRITTEN", "OUTPUT TOKENS", "ALL TOKENS"),
    *("USD", "UNPRICED CALLS"),
)
_COUNTS: Final = (
    *("calls", "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens"),
    "total_tokens",
)


def _day(text: str) -> str:
    try:
        if date.fromisoformat(text).isoformat() == text:
            return text
    except ValueError:
        pass
    raise typer.BadParameter("accepted is a day as YYYY-MM-DD.")


def _by(text: str) -> UsageBy:
    try:
        return UsageBy(text)
    except ValueError:
        *others, last = UsageBy
        accepted = f"{', '.join(others)} or {last}"
        raise typer.BadParameter(f"{text!r} is unknown, accepted is {accepted}.") from None


def usage(
    *,
    by: Annotated[
        UsageBy,
        typer.Option(metavar="|".join(UsageBy), parser=_by, help="What sums are told apart by."),
    ] = UsageBy.DAY,
    since: Annotated[
        str | None, typer.Option(metavar="DAY", parser=_day, help="The first day, YYYY-MM-DD.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="DAY", parser=_day, help="The last day, YYYY-MM-DD.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, metavar="NUMBER", help="How many.")] = 100,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show tokens and money that model calls have used.

    Days are those of UTC, the newest first; others by their tokens, most first.
    """
    with reporting(as_json=as_json) as screen:
        from gateway.cli.client import call

        asked = {"by": by.value, "since": since, "until": until, "limit": limit}
        given = {name: value for name, value in asked.items() if value is not None}
        shown = call(Where(config, state_dir), partial(_get, asked=given))
        if as_json:
            screen.document(shown)
        else:
            _show(screen, shown)


async def _get(api: Api, *, asked: dict[str, str | int]) -> dict[str, Any]:
    shown: dict[str, Any] = await api.get("/v1/usage", **asked)
    return shown


def _show(screen: Screen, shown: dict[str, Any]) -> None:
    rows, total = shown["rows"], shown["total"]
    if not rows:
        screen.note("nothing was counted")
        return

    readable = _user if shown["by"] == UsageBy.USER else str
    cells = [[readable(row["name"]) or "-", *_cells(row)] for row in rows]
    screen.table([shown["by"].upper(), *_COLUMNS], [*cells, ["all", *_cells(total)]])
    if shown["more"]:
        screen.note(f"there are more than {len(rows)} (--limit); the last line has all of them")
    if total["unpriced_calls"]:
        screen.note(
            f"no price is known of {_calls(total['unpriced_calls'])}, and USD is without them: "
            "input_usd_per_mtok and output_usd_per_mtok of [[context.cache]] tables give it"
        )


def _calls(number: int) -> str:
    return "1 call" if number == 1 else f"{number} calls"


def _user(name: str) -> str:
    """Return a user as the platform writes them; in a key their parts are encoded."""
    from gateway.sessions.key import decode_part

    return ":".join(map(decode_part, name.split(":")))


def _cells(sums: dict[str, Any]) -> list[str]:
    priced = sums["calls"] > sums["unpriced_calls"]
    counts = [str(sums[name]) for name in _COUNTS]
    return [*counts, f"{sums['usd']:.6f}" if priced else "-", str(sums["unpriced_calls"])]
