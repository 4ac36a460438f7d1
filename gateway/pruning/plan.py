"""A plan: what a run would do to which items and why, before anything is done. Plain to store.

Pure. A plan is made for the versions that the items had; `apply` looks at each again. Units hold
actions that are done together or not at all: a tool call and its results.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from gateway.errors import BadRequestError
from gateway.pruning.conditions import NO_TOTALS, Observation, Totals
from gateway.pruning.items import ItemType
from gateway.pruning.loading import plain_action, read_action
from gateway.pruning.rules import Action
from gateway.pruning.tables import PruningConfigError
from gateway.pruning.units import instant_text, parse_instant

MAX_PLANNED: Final = 100_000
"""Units that a plan holds at most; what the rules take beside is counted only."""
FORMAT: Final = 1
"""The form of a stored plan; others are refused."""
MAX_LISTED: Final = 10_000
"""Skipped items that are listed; beyond they are counted only."""


class SkipReason(StrEnum):
    """Why an item stays that a rule would take. The first ones are protections."""

    EXEMPT = "exempt"
    PINNED = "pinned"
    SYSTEM = "system"
    LIVE_TURN = "live_turn"
    YOUNG = "young"
    NEWEST = "newest"
    TOOL_PAIR = "tool_pair"
    RESTORED = "restored"
    QUARANTINED = "quarantined"
    """It failed too often, and waits to be retried on request."""
    FAILED = "failed"
    """A function that a rule asks failed for it, so that no rule takes it in this run."""
    SETTLING = "settling"
    """A rule that comes before has just made it shorter."""
    ALREADY_APPLIED = "already_applied"
    """It was made shorter in this way before."""
    NO_CONTENT = "no_content"
    """There is nothing to make shorter."""
    NO_GAIN = "no_gain"
    """What would take its place is not smaller."""
    BUDGET_ITEMS = "budget_items"
    BUDGET_BYTES = "budget_bytes"
    BUDGET_SECONDS = "budget_seconds"
    BUDGET_SUMMARIES = "budget_summaries"
    BREAKER = "breaker"
    """The run was stopped, for its rules would take too much."""
    CHANGED = "changed"
    """It is not as it was when the plan was made, or something it goes together with is not."""
    GONE = "gone"
    """It is no more."""
    SPARED = "spared"
    """The rules do not take it any more as the plan says: what is left of its set is within the
    limit, something protects it since, a function says no, or another rule comes first."""
    STOPPED = "stopped"
    """The manager was stopped, or the storage takes no changes at present."""
    SUMMARIZER = "summarizer"
    """The summarizer failed several times in a row, and is left alone for the rest of the run."""
    DISABLED = "disabled"
    """Pruning is switched off."""


@dataclass(frozen=True, slots=True)
class Cause:
    """What takes items: the same for all that a rule takes of one set."""

    rule_id: str
    rule_name: str
    action: Action
    asked: tuple[tuple[str, float | str, str], ...]
    """Of each condition its kind, its threshold, and for a set whose sum it is; none where the rule
    takes every item."""


class PlannedAction(NamedTuple):
    """What happens to one item. A tuple, for there may be very many."""

    item_id: str
    session_id: str
    type: ItemType
    version: int
    """The version that it must still have."""
    size_bytes: int
    tokens: int
    after: Totals
    """What is left in the place of the item, as far as it can be known before it is done."""
    seen: tuple[float | str, ...]
    """What each condition saw that the cause names."""
    cause: Cause

    @property
    def rule_id(self) -> str:
        """The rule that takes it."""
        return self.cause.rule_id

    @property
    def rule_name(self) -> str:
        """What people call the rule."""
        return self.cause.rule_name

    @property
    def action(self) -> Action:
        """What is done."""
        return self.cause.action

    @property
    def before(self) -> Totals:
        """What the item comes to."""
        return Totals(1, self.size_bytes, self.tokens)

    @property
    def observed(self) -> tuple[Observation, ...]:
        """What each condition of the rule saw; none where the rule takes every item."""
        asked = zip(self.seen, self.cause.asked, strict=True)
        return tuple(Observation(kind, seen, limit, of) for seen, (kind, limit, of) in asked)

    @property
    def reason(self) -> str:
        """Why, in words: each condition with what it saw and its threshold."""
        return reason_of(self.observed)


def reason_of(observed: Iterable[Observation]) -> str:
    """Return in words why a rule takes an item."""
    return "; ".join(one.text for one in observed) or "the rule takes every item"


@dataclass(frozen=True, slots=True)
class SkippedItem:
    """An item that a rule would take, and that stays."""

    item_id: str
    session_id: str
    rule_id: str
    reason: SkipReason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class PruningFailure:
    """Something that went wrong with one item; the run went on."""

    item_id: str
    session_id: str
    rule_id: str
    error: str
    """What failed: never what anybody wrote."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do."""

    id: str
    """Names exactly this plan: one made of the same items at the same time has the same."""
    made_at: datetime
    config_version: str
    """Of the rules it was made by."""
    force: bool
    """Whether exempt sessions are taken from as well."""
    session_id: str | None
    """The one session it is for; None: all."""
    scanned: Totals
    """All items that the rules were held against."""
    units: tuple[tuple[PlannedAction, ...], ...]
    """In the order in which they are done; the actions of one unit are done together."""
    skipped: tuple[SkippedItem, ...] = ()
    """The first of what is skipped."""
    skipped_by_reason: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """How many are, the unlisted among them."""
    failures: tuple[PruningFailure, ...] = ()
    """The first of what went wrong with items."""
    failed: int = 0
    """How many failed, the unlisted among them."""
    unlisted: tuple[PruningFailure, ...] = ()
    """Of the failures those that come next, for the quarantine; not part of the plain values."""
    selected: Totals = NO_TOTALS
    """What the rules would take, budgets aside."""
    more: int = 0
    """How many items of that are neither planned nor skipped, for the plan is full; they are for
    the plans after it."""
    cursor: str = ""
    """The session that is served last; the next plan begins after it."""
    breaker: str = ""
    """Why the plan is not carried out without being confirmed; empty: it is."""

    @property
    def actions(self) -> tuple[PlannedAction, ...]:
        """All actions, in order."""
        return tuple(action for unit in self.units for action in unit)

    @property
    def freed(self) -> Totals:
        """What would be freed, as far as it can be known before."""
        actions = self.actions
        return Totals(
            sum(1 - one.after.items for one in actions),
            sum(one.size_bytes - one.after.size_bytes for one in actions),
            sum(one.tokens - one.after.tokens for one in actions),
        )

    def plain(self) -> dict[str, Any]:
        """Return the plan as plain values that JSON has; `read_plan` makes it of them again."""
        return {
            "format": FORMAT,
            "id": self.id,
            "made_at": instant_text(self.made_at),
            "config_version": self.config_version,
            "force": self.force,
            "session_id": self.session_id,
            "scanned": _plain_totals(self.scanned),
            "units": [[_plain_planned(one) for one in unit] for unit in self.units],
            "skipped": [
                [one.item_id, one.session_id, one.rule_id, str(one.reason), one.detail]
                for one in self.skipped
            ],
            "skipped_by_reason": dict(self.skipped_by_reason),
            "failures": [
                [one.item_id, one.session_id, one.rule_id, one.error] for one in self.failures
            ],
            "failed": self.failed,
            "selected": _plain_totals(self.selected),
            "more": self.more,
            "cursor": self.cursor,
            "breaker": self.breaker,
        }


def read_plan(tree: Mapping[str, Any]) -> Plan:
    """Return the plan that was written as plain values.

    Raises:
        BadRequestError: it is none, or of another form.
    """
    if tree.get("format") != FORMAT:
        raise BadRequestError(f"the plan is of an unknown format, accepted is {FORMAT}")

    causes: dict[Cause, Cause] = {}
    try:
        return Plan(
            id=_text(tree["id"]),
            made_at=parse_instant(tree["made_at"]),
            config_version=_text(tree["config_version"]),
            force=_flag(tree["force"]),
            session_id=None if tree["session_id"] is None else _text(tree["session_id"]),
            scanned=_totals(tree["scanned"]),
            units=tuple(tuple(_planned(one, causes) for one in unit) for unit in tree["units"]),
            skipped=tuple(
                SkippedItem(
                    _text(item), _text(session), _text(rule), SkipReason(reason), _text(detail)
                )
                for item, session, rule, reason, detail in tree["skipped"]
            ),
            skipped_by_reason=MappingProxyType(
                {_text(name): _whole(number) for name, number in tree["skipped_by_reason"].items()}
            ),
            failures=tuple(PruningFailure(*map(_text, one)) for one in tree["failures"]),
            failed=_whole(tree["failed"]),
            selected=_totals(tree["selected"]),
            more=_whole(tree["more"]),
            cursor=_text(tree["cursor"]),
            breaker=_text(tree["breaker"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, PruningConfigError) as error:
        raise BadRequestError(f"the plan cannot be read: {error!r}") from error


def _plain_totals(totals: Totals) -> list[int]:
    return [totals.items, totals.size_bytes, totals.tokens]


def _plain_planned(one: PlannedAction) -> dict[str, Any]:
    return {
        "item_id": one.item_id,
        "session_id": one.session_id,
        "type": str(one.type),
        "version": one.version,
        "rule_id": one.rule_id,
        "rule_name": one.rule_name,
        "action": plain_action(one.action),
        "observed": [
            [seen.condition, seen.observed, seen.threshold, seen.of] for seen in one.observed
        ],
        "before": _plain_totals(one.before),
        "after": _plain_totals(one.after),
        "reason": one.reason,
    }


def _planned(tree: Mapping[str, Any], causes: dict[Cause, Cause]) -> PlannedAction:
    observed = [Observation(*seen) for seen in tree["observed"]]
    cause = Cause(
        rule_id=_text(tree["rule_id"]),
        rule_name=_text(tree["rule_name"]),
        action=read_action(tree["action"]),
        asked=tuple((one.condition, one.threshold, one.of) for one in observed),
    )
    before = _totals(tree["before"])
    return PlannedAction(
        item_id=_text(tree["item_id"]),
        session_id=_text(tree["session_id"]),
        type=ItemType(tree["type"]),
        version=_whole(tree["version"]),
        size_bytes=before.size_bytes,
        tokens=before.tokens,
        after=_totals(tree["after"]),
        seen=tuple(one.observed for one in observed),
        cause=causes.setdefault(cause, cause),
    )


def _totals(values: Sequence[Any]) -> Totals:
    items, size_bytes, tokens = values
    return Totals(_whole(items), _whole(size_bytes), _whole(tokens))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} stands where a text belongs")

    return value


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{type(value).__name__} stands where a whole number belongs")

    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{type(value).__name__} stands where a truth value belongs")

    return value
