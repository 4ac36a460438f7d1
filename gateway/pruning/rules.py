"""Rules, what protects items from them, and the configuration of a manager; all frozen.

Pure. Nothing here is checked: `gateway.pruning.loading` does that for whatever a manager is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar, Final, TypeAlias

from gateway.pruning.conditions import (
    SET_CONDITIONS,
    AgeCondition,
    Condition,
    CountCondition,
    CustomCondition,
    ItemCondition,
    SetCondition,
    TotalTokensCondition,
    TypeCondition,
)
from gateway.pruning.items import ItemType

DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class DeleteAction:
    """The item goes."""

    kind: ClassVar[str] = "delete"
    removes: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class ArchiveAction:
    """The item moves to the archive, from which it can be restored."""

    kind: ClassVar[str] = "archive"
    removes: ClassVar[bool] = True
    destination: str = "default"


@dataclass(frozen=True, slots=True)
class SummarizeAction:
    """A summary takes the place of the content, once, if it is smaller."""

    kind: ClassVar[str] = "summarize"
    removes: ClassVar[bool] = False
    target_tokens: int | None = None
    """What the summarizer is asked for; None leaves it to the summarizer."""


@dataclass(frozen=True, slots=True)
class CompactAction:
    """The beginning of the content stays, as much as the ratio of its bytes says."""

    kind: ClassVar[str] = "compact"
    removes: ClassVar[bool] = False
    ratio: float


Action: TypeAlias = DeleteAction | ArchiveAction | SummarizeAction | CompactAction


class RuleScope(StrEnum):
    """What the set conditions of a rule add up."""

    SESSION = "session"
    """Each session by itself."""
    ALL = "all"
    """All sessions together, but for those with a rule of the same id of their own."""


class Protection(StrEnum):
    """What keeps an item from a rule that does not say otherwise (`ignore_protections`)."""

    EXEMPT = "exempt"
    """Its session is exempt."""
    PINNED = "pinned"
    SYSTEM = "system"
    """It is a system message."""
    LIVE_TURN = "live_turn"
    """Its turn runs."""
    YOUNG = "young"
    """It is younger than the floor."""
    NEWEST = "newest"
    """It is among the newest of its session."""
    TOOL_PAIR = "tool_pair"
    """Its tool call or result would stay behind, or its call has no result yet."""
    RESTORED = "restored"
    """It came back from the archive a short while ago."""


@dataclass(frozen=True, slots=True)
class PruningRule:
    """What happens to the items for which all conditions hold."""

    id: str
    name: str
    priority: int
    """Higher first; ties go by id."""
    conditions: tuple[Condition, ...]
    action: Action
    enabled: bool = True
    scope: RuleScope = RuleScope.SESSION
    match_all: bool = False
    """Must be set where there are no conditions: the rule then takes every item."""
    ignore_protections: frozenset[Protection] = frozenset()
    """What does not protect an item from this rule."""

    def __post_init__(self) -> None:
        """Take any collection of conditions and protections."""
        object.__setattr__(self, "conditions", tuple(self.conditions))
        object.__setattr__(self, "ignore_protections", frozenset(self.ignore_protections))

    @property
    def item_conditions(self) -> tuple[ItemCondition, ...]:
        """Those that look at an item alone."""
        return tuple(one for one in self.conditions if not isinstance(one, SET_CONDITIONS))

    @property
    def set_conditions(self) -> tuple[SetCondition, ...]:
        """Those that look at a set."""
        return tuple(one for one in self.conditions if isinstance(one, SET_CONDITIONS))

    @property
    def custom_conditions(self) -> tuple[CustomCondition, ...]:
        """Those that ask a function."""
        return tuple(one for one in self.conditions if isinstance(one, CustomCondition))

    @property
    def types(self) -> frozenset[ItemType]:
        """The types that its conditions leave."""
        types = frozenset(ItemType)
        for condition in self.conditions:
            if isinstance(condition, TypeCondition):
                types &= condition.types
        return types

    @property
    def max_age_s(self) -> float | None:
        """The age that an item must exceed; None where any will do."""
        ages = [one.max_age_s for one in self.conditions if isinstance(one, AgeCondition)]
        return max(ages, default=None)


@dataclass(frozen=True, slots=True)
class Protections:
    """What is kept from every rule that does not say otherwise, beside what always is."""

    keep_newest: int = 0
    """So many of the newest items of each session; those dated in the future count for none."""
    min_age_s: float = 0.0
    """Items younger than this."""
    restored_s: float = DAY_S
    """So long an item is left alone after it was restored."""
    settle_s: float = 3_600.0
    """So long a rule leaves an item alone that a rule before it has made shorter."""


@dataclass(frozen=True, slots=True)
class PruningBudgets:
    """What one run does at most; None is no limit."""

    max_items: int | None = None
    max_bytes: int | None = None
    """Counted by what the items take before."""
    max_duration_s: float | None = None
    """Looked at between items; a summary that takes longer is given up."""
    max_summaries: int | None = None

    @property
    def limited(self) -> bool:
        """Whether there is any limit, so that sessions have to share."""
        limits = (self.max_items, self.max_bytes, self.max_duration_s, self.max_summaries)
        return any(limit is not None for limit in limits)


@dataclass(frozen=True, slots=True)
class SessionThresholds:
    """Numbers that take the place of those in the rules, for one session.

    Where no rule of the session has a condition of the kind, what exceeds the number is archived by
    a rule of its own, `session-<kind>`.
    """

    max_age_s: float | None = None
    max_size_bytes: int | None = None
    max_tokens: int | None = None
    max_count: int | None = None
    max_total_tokens: int | None = None
    max_total_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class SessionPruningConfig:
    """What is different for one session."""

    exempt: bool = False
    rules: tuple[PruningRule, ...] = ()
    """Of the same id as one of all: in its place, for this session. Else beside them."""
    thresholds: SessionThresholds = SessionThresholds()

    def __post_init__(self) -> None:
        """Take any collection of rules."""
        object.__setattr__(self, "rules", tuple(self.rules))


@dataclass(frozen=True, slots=True)
class PruningConfig:
    """Everything that a manager goes by."""

    enabled: bool = True
    """While False nothing is changed; plans and explanations are made."""
    rules: tuple[PruningRule, ...] = ()
    check_interval_s: float = 300.0
    """How often is looked whether anything is due."""
    min_prune_interval_s: float = 60.0
    """The shortest time from one run that was due to the next."""
    dry_run: bool = False
    """Runs change nothing, unless they are told to."""
    session_configs: Mapping[str, SessionPruningConfig] = field(default_factory=dict)
    """By session id."""
    protections: Protections = Protections()
    budgets: PruningBudgets = PruningBudgets()
    max_share: float | None = None
    """A run whose rules would take more than this share of the items, or of the bytes, is stopped
    before it begins, unless it is confirmed; None: no such breaker."""
    evaluator_timeout_s: float = 10.0
    """An asynchronous function that takes longer has failed."""
    summarizer_timeout_s: float = 60.0
    """A summary that takes longer has failed."""

    def __post_init__(self) -> None:
        """Take any collections, and share none with the caller."""
        object.__setattr__(self, "rules", tuple(self.rules))
        object.__setattr__(self, "session_configs", MappingProxyType(dict(self.session_configs)))


DEFAULT_PRUNING_CONFIG: Final = PruningConfig(
    rules=(
        PruningRule(
            "default-tokens",
            "Limit the tokens of a session",
            30,
            (TotalTokensCondition(100_000),),
            ArchiveAction(),
        ),
        PruningRule(
            "default-count",
            "Limit the items of a session",
            20,
            (CountCondition(1_000),),
            ArchiveAction(),
        ),
        PruningRule(
            "default-age",
            "Archive what is old",
            10,
            (AgeCondition(DAY_S),),
            ArchiveAction(),
        ),
    ),
)
"""What a manager goes by that is given nothing else: all of it can be given back."""
