"""`gateway transcript`: what was said."""

from __future__ import annotations

from collections import deque
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.options import ConfigOption, JsonOption, KeyArgument, StateDirOption, Where
from gateway.cli.output import Screen, json_text, local_time, reporting, safe, safe_name, write

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from gateway.cli.client import Api

app = typer.Typer(help="Read what was said.", no_args_is_help=True, rich_markup_mode=None)

SessionIdOption = Annotated[
    str | None,
    typer.Option(metavar="ID", help="An earlier conversation of the key; default: the latest."),
]


@app.command()
def show(
    key: KeyArgument,
    *,
    session_id: SessionIdOption = None,
    limit: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="How many messages.")] = 50,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the latest messages, both sides."""
    with reporting(as_json=as_json) as screen:
        from gateway.cli.client import call

        work = partial(_latest, key=key, session_id=session_id, limit=limit)
        transcript = call(Where(config, state_dir), work)
        if as_json:
            screen.document(transcript)
        else:
            _show(screen, transcript)


@app.command()
def export(
    key: KeyArgument,
    *,
    session_id: SessionIdOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write here, readable by you alone."),
    ] = None,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a whole conversation as JSON lines.

    Each message is a line, on standard output or in a file.
    """
    with reporting(as_json=as_json) as screen:
        from gateway.cli.client import call

        where = Where(config, state_dir)
        if output is None:
            call(where, partial(_copy, key=key, session_id=session_id, take=write))
            return

        from gateway.durable.files import Replacement

        file = Replacement(output.absolute())
        try:
            take = partial(_write_bytes, file)
            count = call(where, partial(_copy, key=key, session_id=session_id, take=take))
            file.commit()
        finally:
            file.discard()
        if as_json:
            screen.document({"path": str(output), "messages": count})
        else:
            screen.note(f"wrote {count} messages to {output}")


async def _latest(api: Api, *, key: str, session_id: str | None, limit: int) -> dict[str, Any]:
    messages: deque[dict[str, Any]] = deque(maxlen=limit)
    read = 0
    head: dict[str, Any] = {}
    async for page in _pages(api, key, session_id):
        head = head or {
            name: page[name] for name in ("session_key", "session_id", "pruned_messages")
        }
        messages.extend(page["messages"])
        read += len(page["messages"])
    return {**head, "messages": list(messages), "earlier_messages": read - len(messages)}


async def _copy(api: Api, *, key: str, session_id: str | None, take: Callable[[str], None]) -> int:
    count = 0
    async for page in _pages(api, key, session_id):
        for message in page["messages"]:
            take(json_text(message) + "\n")
            count += 1
    return count


async def _pages(api: Api, key: str, session_id: str | None) -> AsyncGenerator[dict[str, Any]]:
    from gateway.cli.client import PAGE
    from gateway.cli.sessions import path_of
    from gateway.model import clean_text

    params: dict[str, str | int] = {"limit": PAGE}
    if session_id is not None:
        params["session_id"] = clean_text(session_id)
    while True:
        page = await api.get(f"{path_of(key)}/transcript", **params)
        yield page
        if page["next_after"] is None:
            return

        # Later pages stay in the conversation of the first, whatever is reset meanwhile.
        params |= {"after": page["next_after"], "session_id": page["session_id"]}


def _show(screen: Screen, transcript: dict[str, Any]) -> None:
    if transcript["earlier_messages"]:
        screen.note(f"{transcript['earlier_messages']} earlier messages are left out (--limit)")
    if transcript["pruned_messages"]:
        screen.note(f"{transcript['pruned_messages']} messages were pruned: gateway prune history")
    for message in transcript["messages"]:
        who = safe_name(" ".join(filter(None, (message["role"], message.get("tool_name")))))
        shortened = f"  [{message['shortened']}]" if message["shortened"] else ""
        write(f"{local_time(message['created_at'])}  {who}{shortened}\n")
        for call in message.get("tool_calls") or ():
            write(f"  calls {safe_name(call['name'])} {safe_name(call['arguments'])}\n")
        for line in safe(message["text"]).splitlines():
            write(f"  {line}".rstrip() + "\n")


def _write_bytes(file: Any, text: str) -> None:  # noqa: ANN401 - a Replacement, imported when needed
    file.write(text.encode())
