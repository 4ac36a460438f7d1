"""Rows of `messages` as items of the rules, queries as choices of rows, records as plain values.

Pure. A row that cannot be read as an item is none: its role is unknown, its instant is not as the
gateway writes instants, its marks or tool calls are no JSON of their kind, or one of
its texts is no UTF-8.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from gateway.errors import BadRequestError
from gateway.model import Role
from gateway.pruning.items import MARKS, NO_MARKS, ItemType, PrunableItem, marks_of
from gateway.pruning.loading import plain_action
from gateway.sessions.history import stamp
from gateway.transcripts.items import Choice, ItemRow, item_id, position_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.pruning.conditions import Totals
    from gateway.pruning.items import Position
    from gateway.pruning.records import PrunedItem
    from gateway.pruning.store import ItemQuery

STORED_TYPES: Final = frozenset({ItemType.MESSAGE, ItemType.TOOL_RESULT})
_SECOND: Final = len("2026-01-01T00:00:00")
_AFTER_ALL: Final = "["
"""Comes after the `Z` at the end of an instant."""
_ROLES: Final = frozenset(role.value for role in Role)
_TOOL: Final = Role.TOOL.value
_MARK: Final = "\n"
"""Stands in a cursor between the text of an instant and a position; in no id."""
_NO_TIME: Final = datetime.min.replace(tzinfo=UTC)
_LOST: Final = "?"
_REMEMBERED: Final = 1_000
"""Instants that are not read or written again; the rows of a turn have the same."""


class UnreadableItemError(ValueError):
    """A row cannot be read as an item; says why, and cites nothing of it."""


class Cursor(NamedTuple):
    """After which row a page goes on."""

    created_at: str
    position: int
    since: datetime | None
    """Items made before this are left out as well."""


def item_id_of(text: str) -> str:
    """Return the id of an item as it is stored, of one as people type it.

    Raises:
        BadRequestError: that is no id of an item.
    """
    position = position_of(text)
    if position is None:
        raise BadRequestError(f"{text[:40]!r} is no id of an item, accepted is a whole number")

    return item_id(position)


def item_of(row: ItemRow, calls: str | None) -> PrunableItem:
    """Return a row as an item.

    Args:
        row: The row.
        calls: The tool calls that it makes, as they are stored.

    Raises:
        UnreadableItemError: it cannot be read.
    """
    (
        position,
        session_id,
        turn_id,
        role,
        size_bytes,
        tokens,
        answered,
        created_at,
        version,
        marks,
        text,
        is_damaged,
    ) = row
    if is_damaged:
        raise UnreadableItemError("its texts are not all UTF-8")
    if role not in _ROLES:
        raise UnreadableItemError("its role is unknown")

    metadata: dict[str, Any] = {"role": role, "turn_id": turn_id}
    if calls is not None:
        metadata["tool_calls"] = _call_ids(calls)
    if answered is not None:
        metadata["tool_call_id"] = answered
    item = PrunableItem(
        item_id(position),
        session_id,
        ItemType.TOOL_RESULT if role == _TOOL else ItemType.MESSAGE,
        instant_of(created_at),
        size_bytes,
        tokens,
        text,
        metadata,
        version=version,
    )
    return item if marks is None else _with_marks(item, marks)


def lost_half(like: PrunableItem, calls: Iterable[str]) -> PrunableItem:
    """Return what stands for rows of an item's turn that cannot be read.

    It makes all calls of the turn and one that nobody answers, so that nothing of it goes.
    """
    return PrunableItem(
        id=like.id + _LOST,
        session_id=like.session_id,
        type=ItemType.MESSAGE,
        created_at=like.created_at,
        size_bytes=0,
        metadata={"turn_id": like.turn_id, "tool_calls": [*calls, _LOST]},
    )


@lru_cache(maxsize=_REMEMBERED)
def stamp_of(at: datetime) -> str:
    """Return an instant as `stamp` writes it."""
    return stamp(at)


@lru_cache(maxsize=_REMEMBERED)
def instant_of(text: str) -> datetime:
    """Return the instant that `stamp` wrote.

    Raises:
        UnreadableItemError: it did not write that.
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = _NO_TIME
    if stamp(at) != text:
        raise UnreadableItemError("its instant is not as the gateway writes it")

    return at


def choice_of(query: ItemQuery) -> Choice | None:
    """Return which rows a query means, and those of the second in which its age ends.

    None: no row can be of its types.
    """
    types = STORED_TYPES if query.types is None else query.types & STORED_TYPES
    if not types:
        return None

    before = query.created_before
    return Choice(
        session_id=query.session_id,
        excluded=query.excluded,
        before=None if before is None else second_of(stamp(before)) + _AFTER_ALL,
        size_over_bytes=query.size_over_bytes,
        tokens_over=query.tokens_over,
        results=None if types == STORED_TYPES else ItemType.TOOL_RESULT in types,
        with_text=query.with_content,
    )


def second_of(created_at: str) -> str:
    """Return the part of an instant that is the same within a second."""
    return created_at[:_SECOND]


def cursor_of(after: Position | None) -> Cursor:
    """Return after which row to go on: one of `position_after`, an item's place, or an instant."""
    if after is None:
        return Cursor("", 0, None)

    at, name = after
    if not name:
        return Cursor(second_of(stamp(at)), 0, at)

    created_at, mark, position = name.rpartition(_MARK)
    if not mark:
        return Cursor(stamp_of(at), int(position), None)

    return Cursor(created_at, int(position), None if at == _NO_TIME else at)


def position_after(row: ItemRow, since: datetime | None) -> Position:
    """Return where to go on after a row, whether or not it can be read."""
    return since or _NO_TIME, f"{row.created_at}{_MARK}{row.position}"


def plain_record(record: PrunedItem, after: Totals) -> dict[str, Any]:
    """Return what was done to an item as plain values that JSON has; no contents are in it.

    Args:
        record: What was done.
        after: What is in the place of the item, as it is stored.
    """
    return {
        "item_id": record.item_id,
        "type": record.type.value,
        "rule_id": record.rule_id,
        "rule_name": record.rule_name,
        "action": plain_action(record.action),
        "reason": record.reason,
        "observed": [
            {
                "condition": one.condition,
                "observed": one.observed,
                "threshold": one.threshold,
                "of": one.of,
            }
            for one in record.observed
        ],
        "before": _plain_totals(record.before),
        "after": _plain_totals(after),
        "at": stamp(record.at),
    }


def _plain_totals(totals: Totals) -> dict[str, int]:
    return {"items": totals.items, "size_bytes": totals.size_bytes, "tokens": totals.tokens}


def _call_ids(text: str) -> tuple[str, ...]:
    try:
        calls = orjson.loads(text)
        if isinstance(calls, list):
            return tuple(str(call["call_id"]) for call in calls)
    except (KeyError, TypeError, ValueError):
        pass
    raise UnreadableItemError("its tool calls are not as the gateway writes them")


def _with_marks(item: PrunableItem, text: str) -> PrunableItem:
    try:
        marked = replace(item, metadata={**item.metadata, MARKS: orjson.loads(text)})
        if marks_of(marked) is not NO_MARKS:
            return marked
    except (AttributeError, TypeError, ValueError):
        pass
    raise UnreadableItemError("its marks are not as pruning writes them")
