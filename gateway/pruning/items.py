"""What is pruned: messages, tool results, checkpoints, memories and files, each a frozen item.

Pure. `metadata` carries what the rules of protection need to know, under these keys: `role`,
`turn_id`, `tool_calls` (ids of calls an item makes), `tool_call_id` (the call it answers). Under
`pruning` stand the marks that pruning itself leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from gateway.errors import BadRequestError
from gateway.pruning.units import MAX_SIZE_BYTES, instant_text, parse_instant

PairKey: TypeAlias = tuple[str, str, str]
"""Names one tool call: session id, turn id (may be empty), call id."""
Position: TypeAlias = tuple[datetime, str]
"""Where an item stands among all, the oldest first: when it was made, and its id for ties."""

MARKS: Final = "pruning"
"""The key of the metadata that holds the marks."""
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class ItemType(StrEnum):
    """The kinds of items."""

    MESSAGE = "message"
    TOOL_RESULT = "tool_result"
    CHECKPOINT = "checkpoint"
    MEMORY = "memory"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class PrunableItem:
    """One stored thing."""

    id: str
    session_id: str
    type: ItemType
    created_at: datetime
    """Timezone-aware."""
    size_bytes: int
    tokens: int | None = None
    """None counts as 0."""
    content: str | None = None
    """None where there is none, or where a store has left it out."""
    metadata: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    pinned: bool = False
    version: int = 1
    """Grows with every change; a plan holds for the version that it saw."""

    @property
    def position(self) -> Position:
        """Where it stands among all, the oldest first."""
        return self.created_at, self.id

    @property
    def token_count(self) -> int:
        """The tokens, 0 where nobody counted."""
        return self.tokens or 0

    @property
    def turn_id(self) -> str:
        """The turn it belongs to; empty where nobody says."""
        return str(self.metadata.get("turn_id") or "")


@dataclass(frozen=True, slots=True)
class Marks:
    """What pruning has already done to an item."""

    rule_id: str = ""
    """The rule that made it shorter, or tried to, last."""
    at: datetime | None = None
    """When."""
    summary: str = ""
    """`made`: the content is a summary. `refused`: one was made and not smaller. Else empty."""
    ratio: float | None = None
    """What part of its content is left after compaction."""
    content_bytes: int | None = None
    """How long the content was before it was first compacted."""
    restored_at: datetime | None = None
    """When it last came back from the archive."""

    def plain(self) -> dict[str, Any]:
        """Return the marks as they stand in the metadata."""
        values = {
            "rule_id": self.rule_id or None,
            "at": instant_text(self.at) if self.at else None,
            "summary": self.summary or None,
            "ratio": self.ratio,
            "content_bytes": self.content_bytes,
            "restored_at": instant_text(self.restored_at) if self.restored_at else None,
        }
        return {name: value for name, value in values.items() if value is not None}


NO_MARKS: Final = Marks()


def marks_of(item: PrunableItem) -> Marks:
    """Return what pruning has already done to an item.

    Raises:
        ValueError: the marks are not ours to read.
    """
    found = item.metadata.get(MARKS)
    if found is None:
        return NO_MARKS

    if not isinstance(found, Mapping):
        raise ValueError(f"its metadata has no table under {MARKS}")  # noqa: TRY004 - bad data

    at, restored_at = found.get("at"), found.get("restored_at")
    return Marks(
        rule_id=str(found.get("rule_id", "")),
        at=None if at is None else parse_instant(at),
        summary=str(found.get("summary", "")),
        ratio=None if found.get("ratio") is None else float(found["ratio"]),
        content_bytes=None if found.get("content_bytes") is None else int(found["content_bytes"]),
        restored_at=None if restored_at is None else parse_instant(restored_at),
    )


def with_marks(item: PrunableItem, marks: Marks) -> PrunableItem:
    """Return the item with these marks in place of its own."""
    return replace(item, metadata=MappingProxyType({**item.metadata, MARKS: marks.plain()}))


def calls_of(item: PrunableItem) -> list[PairKey]:
    """Return the tool calls that an item makes."""
    calls = item.metadata.get("tool_calls") or ()
    return [(item.session_id, item.turn_id, str(call)) for call in calls]


def answer_of(item: PrunableItem) -> PairKey | None:
    """Return the tool call that an item answers, if it does."""
    call = item.metadata.get("tool_call_id")
    return (item.session_id, item.turn_id, str(call)) if call else None


def pair_keys(item: PrunableItem) -> list[PairKey]:
    """Return the tool calls that an item makes or answers."""
    if not item.metadata:
        return []

    answer = answer_of(item)
    return calls_of(item) + ([] if answer is None else [answer])


def content_bytes(text: str) -> int:
    """Return the length of a text in UTF-8; lone surrogates count as three bytes."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def checked(item: PrunableItem) -> PrunableItem:
    """Return the item with its instant in UTC, and nothing in it that the caller could change.

    Raises:
        BadRequestError: a field is of no use; every such field is named.
    """
    if not _is_plain(item):
        problems = [f"{item.id!r}: {text}" for text in _problems(item)]
        if problems:
            raise BadRequestError("\n".join(problems))

        item = replace(item, type=ItemType(item.type), created_at=item.created_at.astimezone(UTC))
    if not item.metadata:
        return item

    return replace(item, metadata=MappingProxyType(deepcopy(dict(item.metadata))))


def _is_plain(item: PrunableItem) -> bool:
    """Return whether nothing is wrong with an item, as far as that is quick to see."""
    fields: tuple[object, ...] = (
        item.id,
        item.session_id,
        item.content,
        item.tokens,
        item.pinned,
    )
    return (
        type(item.type) is ItemType
        and type(item.created_at) is datetime
        and item.created_at.tzinfo is UTC
        and item.metadata is _NOTHING
        and all(map(_is_count, (item.size_bytes, item.version, item.token_count)))
        and tuple(map(type, fields)) in _PLAIN_TYPES
        and bool(item.id and item.session_id)
    )


_PLAIN_TYPES: Final = {
    (str, str, content, tokens, bool)
    for content in (str, type(None))
    for tokens in (int, type(None))
}


def _problems(item: PrunableItem) -> list[str]:
    created_at: object = item.created_at
    metadata: object = item.metadata
    calls = metadata.get("tool_calls") if isinstance(metadata, Mapping) else None
    wrong = {
        "id is no text of at least one character": not _is_text(item.id),
        "session_id is no text of at least one character": not _is_text(item.session_id),
        f"type is none of {', '.join(ItemType)}": item.type not in list(ItemType),
        "created_at is no datetime with a time zone": not isinstance(created_at, datetime)
        or created_at.tzinfo is None,
        "size_bytes is no whole number from 0": not _is_count(item.size_bytes),
        "tokens is no whole number from 0": item.tokens is not None and not _is_count(item.tokens),
        "content is no text": not isinstance(item.content, str | None),
        "metadata is no table": not isinstance(metadata, Mapping),
        "metadata.tool_calls is no list of ids": not isinstance(calls, list | tuple | None),
        f"metadata.{MARKS} holds no marks": not _has_marks(item),
        "pinned is no truth value": not isinstance(item.pinned, bool),
        "version is no whole number from 0": not _is_count(item.version),
    }
    return [text for text, is_so in wrong.items() if is_so]


def _has_marks(item: PrunableItem) -> bool:
    try:
        marks_of(item)
    except (AttributeError, TypeError, ValueError):
        return False

    return True


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_SIZE_BYTES
