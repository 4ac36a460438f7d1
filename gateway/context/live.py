"""The tool results of a turn that runs, made shorter where the turn alone fills the window.

A last resort: a round never touches the turn that runs. The oldest results are cleared first, the
newest, which the model has not read yet, are cut to what fits. What is done is frozen.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.context.estimate import estimate_context_chars, message_chars
from gateway.context.projection import NOTE_CHARS, project, tool_item
from gateway.model import Message, Projection, ProjectionMode, Role

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gateway.context.settings import PruningSettings


def shown(messages: Sequence[Message], made: Mapping[str, Projection]) -> list[Message]:
    """Return the messages of a turn as they are sent.

    Args:
        messages: As they were said.
        made: What was made of tool results, by item.
    """
    if not made:
        return list(messages)

    sent = list(messages)
    for place, item in _results(messages):
        if item in made:
            sent[place] = project(messages[place], made[item])
    return sent


def shrink(
    messages: Sequence[Message],
    made: Mapping[str, Projection],
    most_chars: int,
    settings: PruningSettings,
) -> dict[str, Projection]:
    """Return what to make of a turn's tool results for the turn to fit, as far as that can be.

    Args:
        messages: Of the turn, as they were said.
        made: What was made of its results before; it stays.
        most_chars: What the turn may take.
        settings: What a placeholder says.
    """
    sent, found = shown(messages, made), dict(made)
    chars = estimate_context_chars(sent)
    results = [(place, item) for place, item in _results(messages) if not _is_cleared(made, item)]
    read = max((place for place, one in enumerate(messages) if one.tool_calls), default=0)
    for place, item in results:
        if chars <= most_chars or place > read:
            break
        cleared = Projection(
            item, ProjectionMode.CLEAR, placeholder=settings.hard_clear.placeholder
        )
        chars += _change(sent, found, place, messages[place], cleared)
    unread = [(place, item) for place, item in results if place > read and item not in found]
    if unread and chars > most_chars:
        sizes = [message_chars(sent[place]) for place, _ in unread]
        share = _share(sizes, most_chars - chars + sum(sizes))
        for (place, item), size in zip(unread, sizes, strict=True):
            if size > share:
                _change(sent, found, place, messages[place], _cut(item, messages[place], share))
    return found


def _share(sizes: Sequence[int], room: int) -> int:
    """Return how many characters the longest may have for all to fit; the others stay whole."""
    share = room
    for done, size in enumerate(sorted(sizes)):
        share = room // (len(sizes) - done)
        if size > share:
            break
        room -= size
    return max(0, share)


def _cut(item: str, said: Message, share: int) -> Projection:
    """Return what leaves both ends of a result, with all else of it in so many characters."""
    bare = project(replace(said, text=""), Projection(item, ProjectionMode.TRIM))
    most_chars = max(0, share - message_chars(bare) - bool(said.images))
    ends = max(0, most_chars - NOTE_CHARS) // 2
    return Projection(item, ProjectionMode.TRIM, most_chars, ends, ends)


def _results(messages: Sequence[Message]) -> Iterator[tuple[int, str]]:
    """Yield the place and the name of each tool result."""
    calls: Counter[str] = Counter()
    for place, message in enumerate(messages):
        if message.role is Role.TOOL:
            call_id = message.tool_call_id
            yield place, tool_item(message.turn_id, call_id, calls[call_id])
            calls[call_id] += 1


def _is_cleared(made: Mapping[str, Projection], item: str) -> bool:
    return item in made and made[item].mode is ProjectionMode.CLEAR


def _change(
    sent: list[Message],
    found: dict[str, Projection],
    place: int,
    said: Message,
    projection: Projection,
) -> int:
    """Put a shorter result in place, if it is shorter; return by how many characters it grew."""
    projected = project(said, projection)
    grown = message_chars(projected) - message_chars(sent[place])
    if grown >= 0:
        return 0

    sent[place], found[projection.item] = projected, projection
    return grown
