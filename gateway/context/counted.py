"""A session's context with its sizes, kept from turn to turn: only what is new is counted.

Holds messages as they are sent: projected, notices and repeated silent answers left out. A summary
of earlier turns may stand in front; it is none of the turns' messages.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Final

from gateway.context.estimate import message_chars
from gateway.context.projection import project, tool_item
from gateway.context.summary import summary_message
from gateway.model import ProjectionMode, Role

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gateway.context.summary import CompactionPlan
    from gateway.model import Message, Projection, TurnId

SILENT: Final = "NO_REPLY"
"""What an agent answers that has nothing to say."""


def is_silent(message: Message) -> bool:
    """Return whether an assistant's message says that there is nothing to say."""
    return message.text.strip() == SILENT and not message.tool_calls


class CountedContext:
    """The messages of a session that are sent, oldest first, without the turn that runs."""

    def __init__(
        self,
        projections: Mapping[str, Projection] | None = None,
        *,
        left_out_turns: int = 0,
        after_answer: Message | None = None,
        summary: Message | None = None,
        summarised_turns: int = 0,
    ) -> None:
        """Start with a summary alone, or empty.

        Args:
            projections: What was made of tool results that will be added, by item.
            left_out_turns: Turns before the first message that are not sent.
            after_answer: What the agent said last in them.
            summary: What stands in front; see `gateway.context.summary.summary_message`.
            summarised_turns: How many turns it covers.
        """
        self.messages: list[Message] = []
        self.sizes: list[int] = []
        """Characters of each message."""
        self.chars = 0
        self.image_chars = 0
        """Characters that the images take in memory, in base64; `chars` does not have them."""
        self.assistants: list[int] = []
        """Places of assistant messages."""
        self.results: list[int] = []
        """Places of tool results that are not cleared."""
        self.untrimmed: list[int] = []
        """Places of tool results that were neither trimmed nor cleared."""
        self.looked_at: tuple[object, int] = (None, 0)
        """Settings, and the place before which they trim no result: for the next round alone."""
        self.first_user: int | None = None
        """Place of the first user message; a summary is one."""
        self.left_out_turns = left_out_turns
        """Turns before the first message that are not sent, summarised or not."""
        self.summary: Message | None = None
        """What stands in front in place of turns; None: nothing does."""
        self.summarised_turns = summarised_turns
        """How many of the turns that are not sent the summary covers."""
        self.dropped: list[str] = []
        """Items of turns that have left, whose projections are of no use any more: who stores that
        they left deletes them, and empties this."""
        self._projections = dict(projections or {})
        self._items: dict[int, str] = {}
        self._skipped: dict[TurnId, int] = {}
        """Places before which turns stand that are never sent."""
        self._turn: TurnId | None = None
        self._calls: Counter[str] = Counter()
        """Results to each call in the turn that was added last."""
        self._was_silent = after_answer is not None and is_silent(after_answer)
        if summary is not None:
            self._lead_with(summary)

    @property
    def begins(self) -> int:
        """Place of the first message that is not the summary."""
        return int(self.summary is not None)

    def extend(self, messages: Iterable[Message]) -> None:
        """Add what was said next, as it stands in the transcript."""
        kept, sizes = self.messages, self.sizes
        for message in messages:
            role = message.role
            if role is Role.TOOL:
                message = self._add_result(len(kept), message)  # noqa: PLW2901 - as it is sent
            elif role is Role.ASSISTANT:
                silent = is_silent(message)
                if silent and self._was_silent:
                    continue
                self._was_silent = silent
                self.assistants.append(len(kept))
            elif role is Role.NOTICE:
                continue
            elif role is Role.USER:
                if message.turn_id in self._projections:
                    self._skipped[message.turn_id] = len(kept)
                    self.left_out_turns += 1
                    continue
                if self.first_user is None:
                    self.first_user = len(kept)
            size = message_chars(message)
            kept.append(message)
            sizes.append(size)
            self.chars += size
            if message.images:
                self.image_chars += image_chars(message)

    @property
    def skipped_turns(self) -> frozenset[TurnId]:
        """Turns after the first message that are never sent, for their message was refused."""
        return frozenset(self._skipped)

    def item(self, place: int) -> str:
        """Return the name of the tool result at a place; see `tool_item`."""
        return self._items[place]

    def projection(self, place: int) -> Projection | None:
        """Return what was made of the tool result at a place."""
        return self._projections.get(self._items.get(place, ""))

    def replace(self, place: int, projection: Projection, message: Message, size: int) -> None:
        """Put a projected message in place of a tool result.

        Args:
            place: Where it stands.
            projection: What was made of it.
            message: The result of that.
            size: Its characters.
        """
        self._projections[projection.item] = projection
        self.chars += size - self.sizes[place]
        self.image_chars += image_chars(message) - image_chars(self.messages[place])
        self.messages[place], self.sizes[place] = message, size
        _drop(self.untrimmed, place)
        if projection.mode is ProjectionMode.CLEAR:
            _drop(self.results, place)

    def expect(self, projection: Projection) -> None:
        """Send a message that will be added as this makes it, or not at all."""
        self._projections[projection.item] = projection

    def expected(self, turn_id: TurnId) -> dict[str, Projection]:
        """Return what was made of the results of a turn, by item."""
        return {
            item: one for item, one in self._projections.items() if item.startswith(f"{turn_id}/")
        }

    def ends_with(self, turn_id: TurnId) -> bool:
        """Return whether the newest message is of a turn."""
        return bool(self.messages) and self.messages[-1].turn_id == turn_id

    def drop_unused(self, live_turn: TurnId | None) -> None:
        """Note what was made of messages that are gone in `dropped`, once all were added.

        Args:
            live_turn: Its messages are still to come; None: no turn runs.
        """
        used = {*self._items.values(), *self._skipped}
        for item in [*self._projections]:
            if item not in used and item.partition("/")[0] != live_turn:
                del self._projections[item]
                self.dropped.append(item)

    def leave_out(self, count: int, turns: int) -> list[str]:
        """Drop the first messages, which are those of the first turns; a summary stays in front.

        Returns:
            What `dropped` has got more.
        """
        first = self.begins
        end = first + count
        self.chars -= sum(self.sizes[first:end])
        self.image_chars -= sum(map(image_chars, self.messages[first:end]))
        del self.messages[first:end], self.sizes[first:end]
        # Projections of results that are not added yet stay.
        gone = [self._items.pop(place) for place in [*self._items] if place < end]
        gone += [turn for turn, place in self._skipped.items() if place < end]
        dropped = [item for item in gone if self._projections.pop(item, None) is not None]
        self._skipped = {turn: one for turn, one in self._skipped.items() if one >= end}
        self._move(-count, end)
        self.looked_at = (None, 0)
        self.first_user = next(
            (place for place, one in enumerate(self.messages) if one.role is Role.USER), None
        )
        self.left_out_turns += turns
        self.dropped += dropped
        return dropped

    def summarise(self, plan: CompactionPlan, text: str) -> list[str]:
        """Put a summary in place of the one before and of the first turns.

        Args:
            plan: What it covers.
            text: As `gateway.context.compaction.check_summary` returned it.

        Returns:
            What `dropped` has got more.
        """
        dropped = self.leave_out(plan.messages, plan.turns)
        self.summarised_turns += plan.turns
        self._lead_with(summary_message(text, plan.last_turn))
        return dropped

    def _lead_with(self, summary: Message) -> None:
        if self.summary is None:
            self._move(1, 0)
            self.messages.insert(0, summary)
            self.sizes.insert(0, 0)
        size = message_chars(summary)
        self.chars += size - self.sizes[0]
        self.messages[0], self.sizes[0] = summary, size
        self.summary, self.first_user = summary, 0

    def _move(self, by: int, first: int) -> None:
        """Let all that is known of places follow the messages; those before the first are gone."""
        for places in (self.assistants, self.results, self.untrimmed):
            places[:] = [place + by for place in places if place >= first]
        self._items = {place + by: item for place, item in self._items.items()}
        self._skipped = {turn: place + by for turn, place in self._skipped.items()}

    def _add_result(self, place: int, message: Message) -> Message:
        if message.turn_id != self._turn:
            self._turn = message.turn_id
            self._calls.clear()
        occurrence = self._calls[message.tool_call_id]
        self._calls[message.tool_call_id] += 1
        item = self._items[place] = tool_item(message.turn_id, message.tool_call_id, occurrence)
        projection = self._projections.get(item)
        if projection is None:
            self.untrimmed.append(place)
            self.results.append(place)
            return message

        if projection.mode is ProjectionMode.TRIM:
            self.results.append(place)
        return project(message, projection)


def image_chars(message: Message) -> int:
    """Return how many characters the images of a message take in memory."""
    return sum(len(image.data) for image in message.images)


def _drop(places: list[int], place: int) -> None:
    at = bisect_left(places, place)
    if places[at : at + 1] == [place]:
        del places[at]
