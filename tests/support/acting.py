"""Pretended models that act: they use tools of `tests.support.mcp_server`.

What `model` does in a turn goes by the number in the user's message; it writes summaries too. All
that is said and returned can be computed, so that a transcript can be compared with it. `obedient`
uses the one tool that the user names, and answers with what it returned.
Knows no daemon: each is a step of `tests.support.upstream`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from gateway.model import ToolCall, clean_text
from tests.support.answers import Answer, Json
from tests.support.mcp_server import ODD_TEXT, page_of

if TYPE_CHECKING:
    from collections.abc import Iterator


SERVER: Final = "box"
"""What the server of tools is called in the configuration."""
NAMES: Final = tuple(f"{SERVER}_{tool}" for tool in ("add", "echo", "error", "odd", "page"))
"""What `model` calls."""
SUMMARY: Final = "Summary of turns"
"""How a summary begins."""
_ASKS_FOR_SUMMARY: Final = "Write a summary of this conversation"
_ODD: Final = "e\u0301 \U0001f468\u200d\U0001f469 \u202eback\u202c \u65e5\u672c, "


@dataclass(frozen=True, slots=True)
class Use:
    """One call of a tool, and what comes of it."""

    tool: str
    arguments: Json
    result: str
    """As the transcript has it."""

    @property
    def name(self) -> str:
        """What the model calls it."""
        return f"{SERVER}_{self.tool}"

    def call(self, call_id: str) -> ToolCall:
        """Return it as a model calls it."""
        return ToolCall(call_id, self.name, orjson.dumps(self.arguments).decode())


def said_by_user(turn: int) -> str:
    """Return what the user says in a turn, 10 to 900 characters."""
    return f"turn {turn}: {_text(turn, 30 * (turn % 7) ** 2 // 2)}".strip()


def steps_of(turn: int) -> tuple[tuple[Use, ...], ...]:
    """Return what the model uses in a turn: nothing each seventh, else 1 to 3 calls at once.

    Each fourth turn it looks once more after it has read the first results.
    """
    if turn % 7 == 0:
        return ()

    first = (_page(turn, 0), _small(turn), _page(turn, 1))[: 1 + turn % 3]
    return (first, (_page(turn, 2),)) if turn % 4 == 0 else (first,)


def words_beside(turn: int, step: int) -> str:
    """Return what the model says with its calls; nothing in most turns."""
    return f"I look, {turn}." if turn % 5 == 0 and not step else ""


def answer_of(turn: int) -> str:
    """Return what the model says at the end of a turn, 10 to 1,300 characters."""
    return f"Answer {turn}. {_text(turn, 100 * (turn % 13))}".strip()


def reply_of(turn: int) -> str:
    """Return what the user reads of a turn."""
    beside = [words_beside(turn, step) for step in range(len(steps_of(turn)))]
    return "\n\n".join(filter(None, (*beside, answer_of(turn))))


def model(body: Json) -> Answer:
    """Answer a request of either wire."""
    asked, step = _newest(body)
    if asked.startswith(_ASKS_FOR_SUMMARY):
        assert _choice(body) == "none", "a summary is asked for while tools may be called"
        return Answer(summary_of(body))

    found = re.match(r"turn (\d+):", asked)
    assert found is not None, asked[:80]
    turn = int(found[1])
    steps = steps_of(turn)
    if step >= len(steps):
        return Answer(answer_of(turn))

    calls = enumerate(steps[step])
    made = tuple(use.call(f"call-{turn}-{step}-{place}") for place, use in calls)
    return Answer(words_beside(turn, step), tool_calls=made)


def obedient(body: Json) -> Answer:
    """Answer `use NAME {...}` with that call and then with its result, all else with `pong`."""
    asked, step = _newest(body)
    found = re.fullmatch(r"use (\w+) ?(\{.*\})?", asked)
    if found is None:
        return Answer("pong")

    if step:
        *_, result = (text for who, text in said_in(body) if who == "tool")
        return Answer(f"It said: {result[:200]}")

    call = ToolCall(f"call-{len(body['messages'])}", found[1], found[2] or "{}")
    return Answer("", tool_calls=(call,))


def is_for_summary(body: Json) -> bool:
    """Return whether a request asks for a summary."""
    return _newest(body)[0].startswith(_ASKS_FOR_SUMMARY)


def summary_of(body: Json) -> str:
    """Return the summary that the model writes for a request; it names the turns that it read."""
    turns = sorted({int(number) for number in re.findall(r"(?:^|\n)turn (\d+):", _all_said(body))})
    before = re.search(rf"{SUMMARY} (\d+) to (\d+)", _all_said(body))
    first = int(before[1]) if before else turns[0]
    last = max([*turns, *([int(before[2])] if before else [])])
    facts = " ".join(f"In turn {turn} the user wanted page {turn}." for turn in turns)
    return f"{SUMMARY} {first} to {last}. {facts}"[:2_500].strip()


def said_in(body: Json) -> Iterator[tuple[str, str]]:
    """Yield who says what, text by text, in the order of the wire; after calls also `calls`."""
    for message in body["messages"]:
        content: Any = message.get("content") or ""
        whole = {"type": "text", "text": content}
        blocks: list[Any] = [whole] if isinstance(content, str) else content
        for block in blocks:
            if block["type"] == "text":
                yield message["role"], block["text"]
            elif block["type"] == "tool_result":
                parts = block.get("content", ())
                yield "tool", "".join(part.get("text", "") for part in parts)
        if message.get("tool_calls") or any(block["type"] == "tool_use" for block in blocks):
            yield "calls", ""


def _newest(body: Json) -> tuple[str, int]:
    """Return the last message of the user, and how many answers with calls followed it."""
    text, calls = "", 0
    for who, said in said_in(body):
        if who == "user":
            text, calls = said, 0
        calls += who == "calls"
    return text, calls


def _all_said(body: Json) -> str:
    return "\n".join(text for who, text in said_in(body) if who == "user")


def _choice(body: Json) -> str:
    chosen = body.get("tool_choice", "")
    return chosen if isinstance(chosen, str) else str(chosen["type"])


def _page(turn: int, place: int) -> Use:
    number, chars = 10 * turn + place, 200 + (turn * 937 + place * 1_811) % 5_801
    arguments = {"number": number, "chars": chars}
    return Use("page", arguments, clean_text(page_of(number, chars)))


def _small(turn: int) -> Use:
    """Return a call whose result is short, strange or an error."""
    text = _text(turn, 40)
    uses = (
        Use("add", {"a": turn, "b": 1_000}, str(turn + 1_000)),
        Use("echo", {"text": text}, clean_text(text)),
        Use("odd", {}, clean_text(ODD_TEXT)),
        Use("error", {}, "[The tool reports an error.]\nError executing tool error"),
    )
    return uses[turn // 3 % len(uses)]


def _text(seed: int, chars: int) -> str:
    piece = f"{seed} {_ODD}and so on, "
    return (piece * (chars // len(piece) + 1))[:chars]
