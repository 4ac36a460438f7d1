"""What is sent of a conversation that rules took messages from: what every provider takes.

Rules may take any message of a transcript. Providers refuse a conversation that begins with an
answer, a tool's result without the call, a call without its result, and an empty message. What is
left is mended for the request alone; the transcript stays as it is.

Left out is what cannot be understood any more: answers before the first question, results whose
call is gone, messages with nothing in them. An answer amid the conversation stays although its
question is gone: it says something, and providers take it. A call stays although its result is
gone, and `GONE` stands for that, the one thing here that nobody said: without the call, a model
might do once more what was done already.

Deterministic and idempotent, and what no rule has touched stays as it was said but for empty
messages. The wires of agents (`gateway.agents`) rely on this: they name calls anew, but neither add
nor leave out a result.
"""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from gateway.model import Message, Role

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

GONE: Final = "[This result is no longer kept. The tool was called and may have done its work.]"
"""Stands for the result of a call whose result was taken away."""


class Mend(StrEnum):
    """What becomes of a message; the value tells people why."""

    KEPT = ""
    """It is sent as it was said."""
    ADDED = "stands for a result that is not there"
    """Nobody said it; it is sent."""
    NO_QUESTION = "what it answers was pruned"
    """Left out, as are the next two."""
    NO_CALL = "its tool call was pruned"
    EMPTY = "nothing is left of it"

    @property
    def is_sent(self) -> bool:
        """Whether a model is given the message."""
        return self is Mend.KEPT or self is Mend.ADDED


def mended(
    messages: Iterable[Message], *, leads: bool, skipped: Container[str] = ()
) -> Iterator[tuple[Message, Mend]]:
    """Yield messages with what becomes of each, in their order.

    Args:
        messages: What is left of whole turns, as it stands in the transcript.
        leads: Whether a request begins with them: no summary is in front of them, and no turn.
        skipped: Turns whose question is never sent.
    """
    caller: Message | None = None
    waiting: Counter[str] = Counter()
    for message in messages:
        role = message.role
        if role is Role.NOTICE:
            yield message, Mend.KEPT
        elif leads and role in _ANSWERING:
            yield message, Mend.NO_QUESTION
        elif role is Role.TOOL:
            answers = _answers(message, caller) and waiting[message.tool_call_id] > 0
            waiting[message.tool_call_id] -= answers
            yield message, Mend.KEPT if answers else Mend.NO_CALL
        else:
            if caller is not None:
                yield from _missing(caller, waiting)
            caller = message if message.tool_calls else None
            if caller is not None:
                waiting = Counter(call.call_id for call in caller.tool_calls)
            if _is_empty(message):
                yield message, Mend.EMPTY
            else:
                leads = leads and (role is not Role.USER or message.turn_id in skipped)
                yield message, Mend.KEPT
    if caller is not None:
        yield from _missing(caller, waiting)


def sent(messages: Iterable[Message], *, leads: bool) -> Iterator[Message]:
    """Yield what a model is given of messages; see `mended`."""
    return (message for message, mend in mended(messages, leads=leads) if mend.is_sent)


_ANSWERING: Final = frozenset({Role.ASSISTANT, Role.TOOL})


def _answers(message: Message, caller: Message | None) -> bool:
    return caller is not None and message.turn_id == caller.turn_id


def _missing(caller: Message, waiting: Counter[str]) -> Iterator[tuple[Message, Mend]]:
    """Yield what stands for the results that did not come, in the order of their calls."""
    for call in caller.tool_calls:
        if waiting[call.call_id] > 0:
            waiting[call.call_id] -= 1
            result = Message(Role.TOOL, GONE, (), call.call_id, call.name, caller.turn_id)
            yield result, Mend.ADDED


def _is_empty(message: Message) -> bool:
    return not (message.text.strip() or message.tool_calls or message.images)
