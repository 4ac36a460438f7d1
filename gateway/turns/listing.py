"""A transcript beside what is sent of it, message by message, for people to look at.

Finds each message among those that are sent and says why one is not. It plans nothing and reads
nothing: above it is the view of a context, which gives it both.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from gateway.context.counted import is_silent
from gateway.context.estimate import message_chars
from gateway.context.mending import Mend
from gateway.model import Message, Role

if TYPE_CHECKING:
    from gateway.context.counted import CountedContext
    from gateway.model import TurnId

MAX_LINES: Final = 5_000
"""The most messages that are listed, the newest, beside a summary; sums are of all. To encode them
takes 4 ms."""
PREVIEW_CHARS: Final = 80


class LineState(StrEnum):
    """What of a message is sent."""

    KEPT = "kept"
    TRIMMED = "trimmed"
    CLEARED = "cleared"
    LEFT_OUT = "left_out"
    SUMMARY = "summary"
    """Nobody said it: it stands for turns that are left out."""
    PRUNED = "pruned"
    """Nobody said it: it stands for a tool's result that is gone from the transcript."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextLine:
    """One message of the transcript, and what of it is sent."""

    number: int
    """From 1, in the order in which things were said; notices have none, what nobody said has 0."""
    role: Role
    tool_name: str
    said_chars: int
    """As it was said."""
    sent_chars: int
    """As it is sent; 0 where it is left out."""
    state: LineState
    protected: bool
    """Whether no round touches it."""
    why: str
    """Why it is protected, or left out; empty for neither."""
    next_state: LineState | None
    """What the next request makes of it; None where it stays, or where nobody asked."""
    next_chars: int | None
    text: str | None
    """Its beginning on one line, as it is sent; None where nobody asked."""


@dataclass(slots=True)
class SentMessage:
    """A message that is sent, as it is sent; the rest is as in `ContextLine`."""

    message: Message
    chars: int
    state: LineState
    protection: str
    """Why no round touches it; empty where one may."""
    next_state: LineState | None = None
    next_chars: int | None = None


class Listing:
    """Goes through a transcript, and finds what of it is sent."""

    def __init__(
        self,
        sent: list[SentMessage],
        counted: CountedContext,
        summarised: TurnId | None,
        *,
        text: bool,
    ) -> None:
        """Begin before the first message.

        Args:
            sent: What is sent, a summary first; may change until it is listed.
            counted: The same context; it may change afterwards.
            summarised: The newest turn in the transcript that the summary covers; None: none is.
            text: Whether to tell the beginning of each message.
        """
        self.said_messages = 0
        self.said_chars = 0
        self._rows: deque[tuple[int, ContextLine]] = deque(maxlen=MAX_LINES)
        """With the number of its turn where it is left out, unless the turn is summarised, for the
        reason that it has; else 0."""
        self._sent = sent
        self._place = self._begins = counted.begins
        self._summarised = summarised
        self._summarised_turns = counted.summarised_turns
        self._skipped = counted.skipped_turns
        self._turns = 0
        self._turn_id: TurnId | None = None
        self._has_question = False
        """Whether the turn's question was among its messages so far."""
        self._through = 0
        """Number of the last turn that the summary covers; 0 before it has come."""
        self._text = text

    def take(self, message: Message, mend: Mend = Mend.KEPT) -> bool:
        """List the next message; False where it cannot belong to this context."""
        is_sent = mend.is_sent and self._is_next(message)
        if mend is Mend.ADDED:
            if is_sent:
                self._add_pruned(self._next())
            return True

        self.said_messages += 1
        self.said_chars += message_chars(message)
        self._count_turn(message, mend)
        if is_sent:
            one = self._next()
            self._add(message, one, one.protection)
            return True

        left_out = SentMessage(message, 0, LineState.LEFT_OUT, "")
        if message.turn_id in self._skipped:
            self._add(message, left_out, "refused: no window has room for it")
            return True

        if self._place > self._begins:
            # Within what is sent only a silent answer after a silent one is missing besides.
            self._add(message, left_out, mend.value or "repeats an answer that says nothing")
            return bool(mend.value) or is_silent(message)

        why = "no room in the window" if self._has_question else Mend.NO_QUESTION.value
        self._add(message, left_out, mend.value or why, turn=self._turns)
        return True

    def is_whole(self, unsent_turns: int) -> bool:
        """Return whether everything that is sent was found, and nothing else left out."""
        found_all = self._place == len(self._sent)
        return found_all and bool(self._sent or unsent_turns or not self.said_messages)

    def lines(self) -> list[ContextLine]:
        """Return what is listed, once all was taken; a summary stands first."""
        first = self._sent[: self._begins]
        lead = [self._line(one.message, 0, 0, one, one.protection) for one in first]
        return lead + [
            replace(line, why="summarised") if self._is_summarised(turn) else line
            for turn, line in self._rows
        ]

    def _is_next(self, message: Message) -> bool:
        """Return whether a message is the next one of those that are sent."""
        sent, place = self._sent, self._place
        return place < len(sent) and _is_same(message, sent[place].message)

    def _next(self) -> SentMessage:
        self._place += 1
        return self._sent[self._place - 1]

    def _count_turn(self, message: Message, mend: Mend) -> None:
        turn_id = message.turn_id
        if turn_id != self._turn_id:
            self._turns += 1
            self._has_question = False
        self._has_question |= message.role is Role.USER and mend.is_sent
        self._turn_id = turn_id
        if turn_id == self._summarised:
            self._through = self._turns

    def _is_summarised(self, turn: int) -> bool:
        """Return whether a turn before the first that is sent is summarised; 0 is none."""
        return max(0, self._through - self._summarised_turns) < turn <= self._through

    def _add_pruned(self, one: SentMessage) -> None:
        state = LineState.PRUNED if one.state is LineState.KEPT else one.state
        line = self._line(one.message, 0, 0, one, one.protection or Mend.ADDED.value)
        self._rows.append((0, replace(line, state=state)))

    def _add(self, message: Message, one: SentMessage, why: str, *, turn: int = 0) -> None:
        line = self._line(message, self.said_messages, message_chars(message), one, why)
        self._rows.append((turn, line))

    def _line(
        self, message: Message, number: int, said_chars: int, one: SentMessage, why: str
    ) -> ContextLine:
        return ContextLine(
            number=number,
            role=message.role,
            tool_name=message.tool_name,
            said_chars=said_chars,
            sent_chars=one.chars,
            state=one.state,
            protected=bool(one.protection),
            why=why,
            next_state=one.next_state,
            next_chars=one.next_chars,
            text=_preview(one.message) if self._text else None,
        )


def _is_same(said: Message, sent: Message) -> bool:
    """Return whether a message of the transcript is one that is sent, made shorter or not."""
    if (said.turn_id, said.role, said.tool_call_id) != (sent.turn_id, sent.role, sent.tool_call_id):
        return False

    return said.role is Role.TOOL or (said.text, said.tool_calls) == (sent.text, sent.tool_calls)


def _preview(message: Message) -> str:
    calls = [f"calls {call.name} {call.arguments[:PREVIEW_CHARS]}" for call in message.tool_calls]
    images = [f"[image: {image.media_type}]" for image in message.images]
    beginning = message.text[: 4 * PREVIEW_CHARS]
    line = " ".join(" ".join((beginning, *calls, *images)).split())
    cut = len(line) > PREVIEW_CHARS or len(beginning) < len(message.text)
    return line[:PREVIEW_CHARS] + ("..." if cut else "")
