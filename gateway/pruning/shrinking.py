"""What is left of an item that is made shorter, or gone; and whether that was done before.

Pure. Made shorter is the content alone: what else an item takes stays. A compacted content is its
beginning, cut where no character people see is cut in two, and measured by what the content was
before the first compaction, so that doing it again changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gateway.pruning.conditions import NO_TOTALS, Totals
from gateway.pruning.items import Marks, content_bytes, marks_of, with_marks
from gateway.pruning.plan import SkipReason
from gateway.pruning.rules import CompactAction, SummarizeAction
from gateway.text import whole

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.pruning.items import PrunableItem
    from gateway.pruning.rules import Action


@dataclass(frozen=True, slots=True)
class ItemSummary:
    """What a summarizer made of an item."""

    content: str
    tokens: int | None = None
    """What a tokenizer counts; None: as many as the content is shorter by."""


def done_before(action: Action, item: PrunableItem) -> SkipReason | None:
    """Return why an item cannot be made shorter in this way any more; None where it can."""
    if action.removes:
        return None

    marks = marks_of(item)
    if isinstance(action, SummarizeAction) and marks.summary:
        return SkipReason.ALREADY_APPLIED if marks.summary == "made" else SkipReason.NO_GAIN
    if isinstance(action, CompactAction) and marks.ratio is not None:
        return SkipReason.ALREADY_APPLIED if marks.ratio <= action.ratio else None

    return None


def expected_after(action: Action, item: PrunableItem) -> Totals:
    """Return what an item will come to, as far as it can be known before."""
    if action.removes:
        return NO_TOTALS

    if isinstance(action, CompactAction):
        marks = marks_of(item)
        length = _length(item)
        target = int((marks.content_bytes or length) * action.ratio)
        return _totals(item, length, min(length, target))

    target_tokens = action.target_tokens if isinstance(action, SummarizeAction) else None
    tokens = item.token_count
    left = min(tokens, target_tokens) if target_tokens else tokens // 2
    size_bytes = item.size_bytes * left // tokens if tokens else item.size_bytes // 2
    return Totals(1, size_bytes, left)


def compacted(
    action: CompactAction, item: PrunableItem, rule_id: str, at: datetime
) -> PrunableItem:
    """Return an item with the beginning of its content alone; it has one."""
    content = item.content or ""
    marks = marks_of(item)
    length = content_bytes(content)
    original = marks.content_bytes or length
    short = _beginning(content, int(original * action.ratio))
    left = _totals(item, length, content_bytes(short))
    shorter = replace(
        item,
        content=short,
        size_bytes=left.size_bytes,
        tokens=None if item.tokens is None else left.tokens,
    )
    return with_marks(
        shorter,
        replace(marks, rule_id=rule_id, at=at, ratio=action.ratio, content_bytes=original),
    )


def summarized(
    item: PrunableItem, summary: ItemSummary, rule_id: str, at: datetime
) -> PrunableItem | None:
    """Return an item with a summary as its content; None where it would not be smaller."""
    text = summary.content.strip()
    before, after = content_bytes(item.content or ""), content_bytes(text)
    left = _totals(item, before, after)
    tokens = left.tokens if summary.tokens is None else summary.tokens
    if after >= before or (item.tokens is not None and tokens > item.tokens):
        return None

    # Tokens that nobody counted before stay uncounted, or the item would seem to have grown.
    shorter = replace(
        item,
        content=text,
        size_bytes=left.size_bytes,
        tokens=None if item.tokens is None else tokens,
    )
    marks = Marks(rule_id, at, "made", restored_at=marks_of(item).restored_at)
    return with_marks(shorter, marks)


def marked_as_is(action: Action, item: PrunableItem, rule_id: str, at: datetime) -> PrunableItem:
    """Return an item marked so that nobody tries again to make it shorter in this way."""
    marks = replace(marks_of(item), rule_id=rule_id, at=at)
    if isinstance(action, CompactAction):
        original = marks.content_bytes or content_bytes(item.content or "")
        marks = replace(marks, ratio=action.ratio, content_bytes=original)
    else:
        marks = replace(marks, summary="refused")
    return with_marks(item, marks)


def _length(item: PrunableItem) -> int:
    """Return how long the content is, in bytes; without it, as long as the item."""
    return item.size_bytes if item.content is None else content_bytes(item.content)


def _totals(item: PrunableItem, before: int, after: int) -> Totals:
    """Return what an item comes to whose content gets shorter; tokens in proportion, rounded up."""
    size_bytes = max(0, item.size_bytes - (before - after))
    tokens = -(-item.token_count * after // before) if before else item.token_count
    return Totals(1, size_bytes, tokens)


def _beginning(text: str, limit_bytes: int) -> str:
    """Return the longest beginning within a number of bytes that cuts no character."""
    if text.isascii():
        end = limit_bytes
    else:
        encoded = text.encode("utf-8", "surrogatepass")[:limit_bytes]
        # A byte of the form 10xxxxxx goes on with a character; the one before all such begins it.
        start = len(encoded)
        while start and encoded[start - 1] & 0xC0 == 0x80:  # noqa: PLR2004 - the form itself
            start -= 1
        try:
            end = len(encoded.decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError:
            end = len(encoded[: max(0, start - 1)].decode("utf-8", "surrogatepass"))
    return text[: whole(text, end)] if end < len(text) else text
