"""`gateway context`: what is sent to the model, and old turns summarised by hand."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.options import ConfigOption, JsonOption, KeyArgument, StateDirOption, Where
from gateway.cli.output import Screen, local_time, reporting

if TYPE_CHECKING:
    from gateway.cli.client import Api

app = typer.Typer(
    help="See what is sent to the model; have old turns summarised.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def context() -> None:
    """See what is sent to the model; have old turns summarised."""


@app.command()
def show(
    key: KeyArgument,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what a pruning round would do now, too.")
    ] = False,
    text: Annotated[
        bool, typer.Option("--text", help="Show the beginning of each message.")
    ] = False,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what would be sent of a session, message by message.

    The message to come is not counted. Nothing is changed, nor by --dry-run.
    """
    with reporting(as_json=as_json) as screen:
        from gateway.cli.client import call

        work = partial(_get, key=key, dry_run=dry_run, text=text)
        shown = call(Where(config, state_dir), work)
        if as_json:
            screen.document(shown)
        else:
            _show_messages(screen, shown, dry_run=dry_run, text=text)
            screen.facts([pair for pair in _facts(shown) if pair[1]])


@app.command()
def compact(
    key: KeyArgument,
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let the agent summarise the old turns of a session.

    Only the summary is sent of them then. The latest turns stay whole, and the transcript keeps
    every word. Needs a running gateway.
    """
    with reporting(as_json=as_json) as screen:
        from gateway.cli.client import call

        done = call(Where(config, state_dir), partial(_compact, key=key), offline=False)
        if as_json:
            screen.document(done)
        elif not done["compacted"]:
            screen.note(f"nothing was changed: {done['why_not']}")
        else:
            screen.facts(_compacted(done["summary"]))
            screen.line("")
            screen.line(done["summary"]["text"])
        if not done["compacted"]:
            raise typer.Exit(1)


async def _compact(api: Api, *, key: str) -> dict[str, Any]:
    from gateway.cli.sessions import path_of

    done: dict[str, Any] = await api.post(f"{path_of(key)}/context/compact")
    return done


def _compacted(summary: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("summarised", _oldest(summary["turns"])),
        ("by", f"{summary['agent']} ({summary['model']})"),
        ("size before", f"{_counted(summary['tokens_before'], 'token')}, estimated"),
        ("size after", f"{_counted(summary['tokens_after'], 'token')}, estimated"),
    ]


async def _get(api: Api, *, key: str, dry_run: bool, text: bool) -> dict[str, Any]:
    from gateway.cli.sessions import path_of

    asked = {name: "true" for name, wanted in (("dry_run", dry_run), ("text", text)) if wanted}
    shown: dict[str, Any] = await api.get(f"{path_of(key)}/context", **asked)
    return shown


def _show_messages(screen: Screen, shown: dict[str, Any], *, dry_run: bool, text: bool) -> None:
    if not shown["messages"]:
        screen.note("nothing was said yet")
        return

    if shown["messages_not_listed"]:
        more = shown["messages_not_listed"]
        verb = "is" if more == 1 else "are"
        screen.note(f"{_counted(more, 'earlier message')} {verb} not listed")
    columns = ["NO", "ROLE", "TOOL", "SAID", "SENT", "STATE", "WHY"]
    if dry_run:
        columns.append("NEXT")
    if text:
        columns.append("TEXT")
    rows = [_row(message, dry_run=dry_run) for message in shown["messages"]]
    screen.table(columns, rows)
    screen.line("")


def _row(message: dict[str, Any], *, dry_run: bool) -> list[str]:
    protected = "protected: " if message["protected"] else ""
    cells = [
        str(message["number"]),
        message["role"],
        message["tool_name"] or "-",
        str(message["said_chars"]),
        str(message["sent_chars"]),
        message["state"],
        f"{protected}{message['why']}" or "-",
    ]
    if dry_run:
        after = message["next_state"]
        cells.append(f"{after} ({message['next_chars']})" if after else "-")
    if message["text"] is not None:
        cells.append(message["text"])
    return cells


def _facts(shown: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what is said below the messages; an empty value is left out."""
    size, agent = shown["size"], shown["agent"]
    overhead = size["overhead_tokens"]
    model = f", model {agent['model']}" if agent["configured"] else ", not configured"
    sent = (
        f"{size['sent_messages']} of {_counted(size['said_messages'], 'message')}, "
        f"{size['sent_chars']} of {_counted(size['said_chars'], 'character')}"
    )
    estimated = _counted(size["estimated_tokens"], "token")
    return [
        ("session", f"{shown['session_id']}{', busy' if shown['busy'] else ''}"),
        ("agent", f"{agent['id']}{model}"),
        ("sent", sent),
        ("pruned", _pruned(size["pruned_messages"])),
        ("left out", _left_out(size)),
        ("estimated", f"{estimated}, measured overhead of {overhead:+d} included"),
        ("window", _window(size)),
        ("measured", _measured(shown["measured"])),
        ("cache", _cache(shown["cache"])),
        ("last request", _last_request(shown["cache"], size)),
        ("pruned so far", _account(shown["account"])),
        ("next round", _next_round(shown["next_round"], shown["account"])),
    ]


def _pruned(messages: int) -> str:
    return f"{_counted(messages, 'message')}, not in the transcript any more" if messages else ""


def _left_out(size: dict[str, Any]) -> str:
    summarised, left_out = size["summarised_turns"], size["left_out_turns"]
    if not summarised:
        return _oldest(left_out) if left_out else "no turns"
    if not left_out:
        return f"{_oldest(summarised)} summarised, none left out"

    # Turns may have left before the first summary, and after the last.
    return f"{_counted(summarised, 'turn')} summarised, {left_out} left out"


def _window(size: dict[str, Any]) -> str:
    if size["window_tokens"] is None:
        return "unknown: there is no such agent"

    return f"{_counted(size['window_tokens'], 'token')}, {size['window_share']:.1%} filled"


def _measured(measured: dict[str, Any]) -> str:
    if measured["source"] == "unknown":
        return "not yet"

    at = local_time(measured["measured_at"])
    return f"{_counted(measured['tokens'], 'token')} by {measured['source']}, {at}"


def _cache(cache: dict[str, Any]) -> str:
    expires_at = cache["expires_at"]
    until = ""
    if expires_at and cache["state"] == "warm":
        until = f" until {local_time(expires_at)}"
    elif expires_at and cache["state"] == "cold":
        until = f" (it lived until {local_time(expires_at)})"
    return f"{cache['state']}{until}: {cache['why']}"


def _last_request(cache: dict[str, Any], size: dict[str, Any]) -> str:
    if cache["last_request_at"] is None:
        forgotten = cache["last_model"] and size["summarised_turns"]
        return "none since old turns were summarised" if forgotten else "none"

    verdict = cache["last_verdict"] or "not counted"
    at = local_time(cache["last_request_at"])
    return f"{at}, {cache['age_s']:.0f} s ago, by {cache['last_model']}; cache: {verdict}"


def _account(account: dict[str, Any]) -> str:
    rounds, trimmed = _counted(account["rounds"], "round"), _counted(account["trimmed"], "result")
    saved = _counted(account["saved_tokens"], "token")
    text = f"{rounds}, {trimmed} trimmed, {account['cleared']} cleared, {saved} saved"
    return f"{text}, {_money(account['saved_usd'], account)}"


def _next_round(planned: dict[str, Any] | None, account: dict[str, Any]) -> str:
    if planned is None:
        return ""
    if planned["decision"] not in {"prune", "forced"}:
        left_out = planned.get("left_out_turns")
        more = f"; {_counted(left_out, 'turn')} would leave for want of room" if left_out else ""
        return f"none ({planned['decision'] or 'unknown'}): {planned['why']}{more}"

    left_out = planned["left_out_turns"]
    more = f", {_counted(left_out, 'turn')} would leave for want of room" if left_out else ""
    return (
        f"{_counted(planned['trimmed'], 'result')} trimmed, {planned['cleared']} cleared{more}, "
        f"{planned['tokens_before']} -> {_counted(planned['tokens_after'], 'token')}, "
        f"{_money(planned['saved_usd'], account)} ({planned['decision']}: {planned['why']})"
    )


def _oldest(turns: int) -> str:
    return "the oldest turn" if turns == 1 else f"the {turns} oldest turns"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _money(usd: float | None, account: dict[str, Any]) -> str:
    if usd is not None:
        # A round at a warm cache may cost more than it saves at once.
        return f"{usd:.6f} USD saved" if usd >= 0 else f"{-usd:.6f} USD lost"

    return "no money told" if account["price_configured"] else "no price configured"
