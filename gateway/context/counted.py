"""A session's context with its sizes, kept from turn to turn: only what is new is counted.

Holds messages as they are sent: projected, notices and repeated silent answers left out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Final

from gateway.context.estimate import message_chars
from gateway.context.projection import project, tool_item
from gateway.model import ProjectionMode, Role

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
    ) -> None:
        """Start empty.

        Args:
            projections: What was made of tool results that will be added, by item.
            left_out_turns: Turns before the first message that are not sent.
            after_answer: What the agent said last in them.
        """
        self.messages: list[Message] = []
        self.sizes: list[int] = []
        """Characters of each message."""
        self.chars = 0
        self.assistants: list[int] = []
        """Places of assistant messages."""
        self.results: list[int] = []
        """Places of tool results that are not cleared."""
        self.untrimmed: list[int] = []
        """Places of tool results that were neither trimmed nor cleared."""
        self.looked_at: tuple[object, int] = (None, 0)
        """Settings, and the place before which they trim no result: for the next round alone."""
        self.first_user: int | None = None
        """Place of the first user message."""
        self.left_out_turns = left_out_turns
        """Turns before the first message that are not sent."""
        self._projections = dict(projections or {})
        self._items: dict[int, str] = {}
        self._turn: TurnId | None = None
        self._calls: Counter[str] = Counter()
        """Results to each call in the turn that was added last."""
        self._was_silent = after_answer is not None and is_silent(after_answer)

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
                    self.left_out_turns += 1
                    continue
                if self.first_user is None:
                    self.first_user = len(kept)
            size = message_chars(message)
            kept.append(message)
            sizes.append(size)
            self.chars += size

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
        self.messages[place], self.sizes[place] = message, size
        _drop(self.untrimmed, place)
        if projection.mode is ProjectionMode.CLEAR:
            _drop(self.results, place)

    def skip(self, projection: Projection) -> None:
        """Never send the user's message of a turn that will be added."""
        self._projections[projection.item] = projection

    def leave_out(self, count: int, turns: int) -> None:
        """Drop the first messages, which are those of the first turns."""
        self.chars -= sum(self.sizes[:count])
        del self.messages[:count], self.sizes[:count]
        for places in (self.assistants, self.results, self.untrimmed):
            places[:] = [place - count for place in places if place >= count]
        # Projections of results that are not added yet stay.
        for place in [place for place in self._items if place < count]:
            self._projections.pop(self._items.pop(place), None)
        self._items = {place - count: one for place, one in self._items.items()}
        self.looked_at = (None, 0)
        self.first_user = next(
            (place for place, one in enumerate(self.messages) if one.role is Role.USER), None
        )
        self.left_out_turns += turns

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


def _drop(places: list[int], place: int) -> None:
    at = bisect_left(places, place)
    if places[at : at + 1] == [place]:
        del places[at]
