"""`gateway chat`: talk to an agent from a terminal or a pipe.

A message runs in the daemon: who stops waiting for its answer finds it in the transcript.
"""

from __future__ import annotations

import fcntl
import os
import sys
import termios
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway.cli.options import ConfigOption, JsonOption, StateDirOption, Where
from gateway.cli.output import REFUSED, Screen, exit_status, reporting, safe, write
from gateway.errors import GatewayError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from gateway.cli.client import Api, Event

_UNANSWERED = frozenset({"failed", "deadline", "paused"})
_CUT_OFF: Final = (
    "the gateway's next start runs a turn that its end cut off once more, or tells that there is "
    "no answer, as interrupted of [turns] says; the transcript will have it"
)


@dataclass(frozen=True, slots=True)
class _Talk:
    """Who talks to whom."""

    where: Where
    chat_id: str
    user: str
    user_id: str
    agent: str | None


def chat(
    text: Annotated[
        str | None,
        typer.Argument(metavar="TEXT", help="One message; without it, piped text or a dialogue."),
    ] = None,
    *,
    chat_id: Annotated[
        str | None, typer.Option(metavar="ID", help="The chat; default: terminal-<user>.")
    ] = None,
    user_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Who writes; default: <user>.")
    ] = None,
    agent: Annotated[
        str | None, typer.Option(metavar="NAME", help="The agent; default: as the routes say.")
    ] = None,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Talk to an agent of the running gateway.

    In a dialogue Ctrl-C stops waiting for an answer, and Ctrl-D, /quit or /exit ends; Tab completes
    commands, and /context tells how much of the model's window is in use, as does a line after each
    answer.
    """
    with reporting(as_json=as_json) as screen:
        user = _user()
        chat = chat_id or f"terminal-{user}"
        talk = _Talk(Where(config, state_dir), chat, user, user_id or user, agent)
        if text is None and sys.stdin.isatty():
            _dialogue(screen, talk)
            return

        if text is not None and _is_piped():
            raise typer.BadParameter("text is piped in as well, accepted is TEXT or piped input.")

        reply = _say(screen, talk, _piped() if text is None else text)
        if reply["status"] in _UNANSWERED:
            raise typer.Exit(REFUSED)


def _dialogue(screen: Screen, talk: _Talk) -> None:
    """Answer line by line until the input ends.

    Raises:
        UnavailableError: no gateway runs; nothing is asked for.
        NotFoundError: it has no agent of the name that was given.
    """
    from gateway.cli import chat_lines
    from gateway.cli.client import call

    # What makes a dialogue impossible is told now, not once something is typed.
    status, agents = call(talk.where, _look, offline=False)
    if talk.agent is not None and talk.agent not in agents:
        raise NotFoundError(f"No agent is called {talk.agent}; there are: {', '.join(agents)}.")

    chat_lines.prepare(chat_lines.commands(processes=bool(status.get("processes_enabled"))))
    key = ""
    if not screen.as_json:
        # Which of several it is the routes decide, message by message.
        agent = talk.agent or (agents[0] if len(agents) == 1 else "")
        screen.note(
            f"chat {talk.chat_id}{f' with {agent}' if agent else ''}: Ctrl-C stops waiting for an "
            "answer, Ctrl-D ends, Tab completes commands"
        )
    while True:
        try:
            line = input("> ")
        except EOFError:
            write("\n", error=True)
            return
        except KeyboardInterrupt:
            write("\n", error=True)
            continue

        if not line.strip():
            continue

        chat_lines.remember(line)
        word = line.strip().lower()
        if word in chat_lines.ENDS:
            return

        if word == chat_lines.CONTEXT:
            _answer(screen, partial(_tell_context, screen, talk, key, asked=True))
        else:
            key = _answer(screen, partial(_say_and_tell, screen, talk, line)) or key
            if word == "/help" and not screen.as_json:
                screen.note(chat_lines.HELP)


async def _look(api: Api) -> tuple[dict[str, Any], list[str]]:
    """Return the gateway's state, and the names of its agents."""
    status, models = await api.get("/v1/status"), await api.get("/v1/models")
    return status, [one["id"] for one in models["data"]]


def _answer(screen: Screen, work: Callable[[], str]) -> str:
    """Do what a line says and return the session's key; empty where that is not known."""
    try:
        return work()
    except KeyboardInterrupt:
        screen.note("\nno longer waiting; the answer will be in the transcript")
    except GatewayError as exc:
        # What can be put right by another message does not end the dialogue.
        if exit_status(exc) != REFUSED:
            raise
        screen.note(f"gateway: {exc}")
    return ""


def _say_and_tell(screen: Screen, talk: _Talk, line: str) -> str:
    key: str = _say(screen, talk, line)["session_key"]
    if not screen.as_json:
        _tell_context(screen, talk, key)
    return key


def _tell_context(screen: Screen, talk: _Talk, key: str, *, asked: bool = False) -> str:
    """Tell how much of the window is in use and how that is known; return the key.

    Args:
        screen: Where to.
        talk: Who talks.
        key: The session's; empty: nothing was said since the dialogue began.
        asked: Whether the user asked, and wants to know also that it is not known.
    """
    from gateway.cli.client import call
    from gateway.cli.sessions import path_of

    if not key:
        screen.note("the context is known after the first answer of this dialogue")
        return ""

    try:
        shown = call(talk.where, lambda api: api.get(f"{path_of(key)}/context"), offline=False)
    except NotFoundError:
        # Nobody has said anything but commands.
        shown = None
    if asked and screen.as_json and shown is not None:
        screen.document(shown)
    elif (told := context_text(shown)) or asked:
        screen.note(told or "context: not measured yet")
    return key


def context_text(shown: dict[str, Any] | None) -> str:
    """Return the size of a context and how it was measured; empty where nobody has.

    Args:
        shown: As `/v1/sessions/{key}/context` tells it; None: there is no session.
    """
    measured = {} if shown is None else shown["measured"]
    how = {"usage": "counted", "estimate": "estimated"}.get(measured.get("source", ""))
    if how is None:
        return ""

    return f"context: {_short(measured['tokens'])}/{_short(measured['window_tokens'])}, {how}"


def _short(tokens: int) -> str:
    """Return a number of tokens to be taken in at a glance."""
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if tokens >= size:
            value = f"{tokens / size:.1f}" if tokens < 10 * size else f"{tokens / size:.0f}"
            return value.removesuffix(".0") + unit
    return str(tokens)


def _say(screen: Screen, talk: _Talk, text: str) -> dict[str, Any]:
    from gateway.cli.client import call

    reply = call(talk.where, partial(_send, screen=screen, talk=talk, text=text), offline=False)
    if screen.as_json:
        screen.document(reply)
    else:
        for note in _notes(reply):
            screen.note(note)
    return reply


async def _send(api: Api, *, screen: Screen, talk: _Talk, text: str) -> dict[str, Any]:
    """Return the reply, having shown its text as it came."""
    who = {"user_id": talk.user_id, "user_name": talk.user}
    body = {"chat_id": talk.chat_id, "text": text, **who}
    if talk.agent is not None:
        body["agent"] = talk.agent
    shown = ""
    async for event in _events(api, body):
        if event.name == "queued" and not screen.as_json:
            screen.note(waiting(event.data["ahead"]))
        elif event.name == "delta" and not screen.as_json:
            write(safe(event.data["text"]))
            shown += event.data["text"]
            if event.data.get("question") and sys.stdin.isatty():
                await _answer_question(api, body, event.data["number"])
        elif event.name == "done":
            if not screen.as_json:
                _finish(shown, event.data["reply"])
            return event.data

    raise UnavailableError(f"the answer broke off: {_CUT_OFF}")


async def _events(api: Api, body: dict[str, str]) -> AsyncGenerator[Event]:
    """Yield what answers a message; where the gateway ends meanwhile, say what becomes of it."""
    import httpx2

    try:
        async for event in api.stream("/v1/messages", body):
            yield event
    except UnavailableError as exc:
        # Who was not reached has taken nothing.
        if isinstance(exc.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout):
            raise
        raise UnavailableError(f"{exc}; {_CUT_OFF}") from exc


def waiting(ahead: int) -> str:
    """Return what tells that others are answered first."""
    return f"waiting: {ahead} {'message is' if ahead == 1 else 'messages are'} answered first"


async def _answer_question(api: Api, body: dict[str, str], number: str) -> None:
    """Let the user say yes or no to the question that is on the screen.

    The answer names its number: another question that is open by then is not answered by it.
    """
    from anyio import to_thread

    # What was typed before the question was shown is no answer to it.
    termios.tcflush(sys.stdin, termios.TCIFLUSH)
    answer = ""
    while not answer:
        typed = await to_thread.run_sync(input, "\nyes or no> ", abandon_on_cancel=True)
        answer = _answer_to(number, typed)
    await api.post("/v1/messages", body | {"text": answer})


def _answer_to(number: str, typed: str) -> str:
    """Return what answers a question; empty where what was typed does not."""
    word, _, named = typed.strip().lower().partition(" ")
    answer = {"yes": "yes", "y": "yes", "no": "no", "n": "no"}.get(word)
    return f"{answer} {number}" if answer and named.strip() in {"", number} else ""


def _finish(shown: str, reply: str) -> None:
    """Show what of the reply was not streamed, and end its line."""
    rest = reply[len(shown) :] if reply.startswith(shown) else f"\n{reply}"
    write(safe(rest) + ("" if reply.endswith("\n") else "\n"))


def _notes(reply: dict[str, Any]) -> list[str]:
    """Return what the reply itself does not say."""
    left_out = reply["context"].get("turns_left_out")
    return [f"the {left_out} oldest turns did not fit the model's window"] if left_out else []


def _piped() -> str:
    text = sys.stdin.buffer.read().decode(errors="replace").strip()
    if not text:
        raise typer.BadParameter("there is no text, accepted is TEXT or piped input.")

    return text


def _is_piped() -> bool:
    """Tell whether text waits in standard input; takes nothing of it."""
    try:
        waiting = fcntl.ioctl(sys.stdin.fileno(), termios.FIONREAD, b"\0" * 4)
    except (OSError, ValueError):  # nothing that can be read: /dev/null, or closed
        return False

    return not sys.stdin.isatty() and int.from_bytes(waiting, sys.byteorder) > 0


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in containers
        return str(os.getuid())
