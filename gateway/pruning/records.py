"""What a run did: a record an item, the sums, and the events on the way. Frozen, without contents.

Pure. `freed` is always measured: what an item took before, minus what is in its place after.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from gateway.pruning.conditions import Observation, Totals
from gateway.pruning.items import ItemType
from gateway.pruning.plan import PruningFailure, SkippedItem
from gateway.pruning.rules import Action

DRY_RUN: Final = " (dry run)"


class Event(StrEnum):
    """What a manager tells of."""

    START = "start"
    """With a `RunStarted`, before anything is done."""
    PROGRESS = "progress"
    """With a `PruningProgress`, after each unit, and where the rest of the plan is left."""
    ITEM_PRUNED = "item-pruned"
    """With a `PrunedItem`; never in a dry run."""
    ITEM_SKIPPED = "item-skipped"
    """With a `SkippedItem`, for each that is listed."""
    ERROR = "error"
    """With a `PruningFailure`."""
    COMPLETE = "complete"
    """With the `PruningResult`."""


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run begins."""

    run_id: str
    started_at: datetime
    trigger: str
    dry_run: bool
    force: bool
    session_id: str | None


@dataclass(frozen=True, slots=True)
class PruningProgress:
    """How far a run is."""

    scanned: int
    """Items that the rules were held against."""
    current: int
    """Items of the plan that were dealt with; what is left because the run ends is not."""
    total: int
    """Items of the plan."""

    @property
    def percent(self) -> int:
        """How much of the plan was dealt with, rounded down; 100 of an empty one."""
        return self.current * 100 // self.total if self.total else 100


@dataclass(frozen=True, slots=True)
class PrunedItem:
    """What was done to one item, or in a dry run would be."""

    run_id: str
    item_id: str
    session_id: str
    type: ItemType
    rule_id: str
    rule_name: str
    action: Action
    reason: str
    """Each condition with what it saw and its threshold."""
    observed: tuple[Observation, ...]
    before: Totals
    after: Totals
    at: datetime
    dry_run: bool = False

    @property
    def freed_bytes(self) -> int:
        """Bytes before minus bytes after; in a dry run as far as they can be known."""
        return self.before.size_bytes - self.after.size_bytes

    @property
    def freed_tokens(self) -> int:
        """Tokens before minus tokens after; in a dry run as far as they can be known."""
        return self.before.tokens - self.after.tokens


@dataclass(frozen=True, slots=True)
class Tally:
    """What one rule, or one kind of action, did."""

    count: int = 0
    freed_bytes: int = 0
    freed_tokens: int = 0

    def with_one(self, record: PrunedItem) -> Tally:
        """Return the tally with one more item."""
        return Tally(
            self.count + 1,
            self.freed_bytes + record.freed_bytes,
            self.freed_tokens + record.freed_tokens,
        )


@dataclass(frozen=True, slots=True)
class PruningStats:
    """The sums of one run."""

    scanned_count: int = 0
    pruned_count: int = 0
    skipped_count: int = 0
    error_count: int = 0
    freed_bytes: int = 0
    """Of deleted, archived and shortened items; `by_action` tells them apart."""
    freed_tokens: int = 0
    duration_ms: float = 0.0
    by_rule: Mapping[str, Tally] = field(default_factory=lambda: MappingProxyType({}))
    """By rule id."""
    by_action: Mapping[str, Tally] = field(default_factory=lambda: MappingProxyType({}))
    """`delete`: space given back. `archive`: moved. `summarize`, `compact`: made shorter."""
    skipped_by_reason: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))


class RunStatus(StrEnum):
    """How a run ended."""

    OK = "ok"
    PARTIAL = "partial"
    """Items failed, or it ended before all of its plan was done."""
    REFUSED = "refused"
    """Nothing was done: it would take too much, or pruning is switched off."""


@dataclass(frozen=True, slots=True)
class PruningResult:
    """One run."""

    id: str
    plan_id: str
    trigger: str
    """`apply`: somebody asked for it, with or without a plan. `due`: the rules were."""
    started_at: datetime
    completed_at: datetime
    dry_run: bool
    """Whether nothing was changed, only told."""
    force: bool
    session_id: str | None
    status: RunStatus
    detail: str
    """Why it was refused or ended early; else empty."""
    pruned_items: tuple[PrunedItem, ...]
    skipped_items: tuple[SkippedItem, ...]
    """The first of them; `stats.skipped_count` counts all."""
    errors: tuple[PruningFailure, ...]
    """The first of them; `stats.error_count` counts all."""
    stats: PruningStats
    more: int = 0
    """Items that the rules would take and the plan had no room for; they are for later runs."""

    @property
    def success(self) -> bool:
        """Whether all of the plan was done and nothing failed."""
        return self.status is RunStatus.OK
