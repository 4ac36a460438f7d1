"""Which rule counts where: the rules of all sessions, and what single sessions have instead.

Pure. A rulebook is made of a checked configuration and never changes; its version names exactly
what it says, so that a plan is carried out only under the rules that it was made by.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeAlias

import orjson

from gateway.pruning.conditions import (
    SET_CONDITIONS,
    AgeCondition,
    Condition,
    CountCondition,
    CustomCondition,
    ItemCondition,
    SizeCondition,
    TokensCondition,
    TotalSizeCondition,
    TotalTokensCondition,
    TypeCondition,
)
from gateway.pruning.loading import plain_config
from gateway.pruning.rules import ArchiveAction, PruningRule, RuleScope

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.pruning.rules import PruningConfig, SessionPruningConfig, SessionThresholds

_Kind: TypeAlias = (
    type[AgeCondition]
    | type[SizeCondition]
    | type[TokensCondition]
    | type[CountCondition]
    | type[TotalTokensCondition]
    | type[TotalSizeCondition]
)
_THRESHOLDS: Final[dict[str, _Kind]] = {
    "max_age_s": AgeCondition,
    "max_size_bytes": SizeCondition,
    "max_tokens": TokensCondition,
    "max_count": CountCondition,
    "max_total_tokens": TotalTokensCondition,
    "max_total_bytes": TotalSizeCondition,
}


@dataclass(frozen=True, slots=True)
class ScopedRule:
    """A rule and the sessions it is for."""

    rule: PruningRule
    only: str | None = None
    """The one session; None: all but the excluded."""
    excluded: frozenset[str] = frozenset()
    custom: tuple[CustomCondition, ...] = field(init=False)
    """Its conditions that ask a function."""
    compared: tuple[ItemCondition, ...] = field(init=False)
    """Its other conditions of an item."""
    by_query: bool = field(init=False)
    """Whether a query for its types finds just what meets `compared`."""

    def __post_init__(self) -> None:
        """Sort the conditions once, for each of them is held against very many items."""
        conditions = self.rule.item_conditions
        compared = tuple(one for one in conditions if not isinstance(one, CustomCondition))
        by_query = all(isinstance(one, TypeCondition) for one in compared)
        object.__setattr__(self, "custom", self.rule.custom_conditions)
        object.__setattr__(self, "compared", compared)
        object.__setattr__(self, "by_query", by_query)

    def is_for(self, session_id: str) -> bool:
        """Return whether it counts in a session."""
        if self.only is not None:
            return session_id == self.only

        return session_id not in self.excluded


class Rulebook:
    """The rules in their order: highest priority first, ties by id."""

    def __init__(self, config: PruningConfig) -> None:
        """Order the rules of a checked configuration."""
        self.config = config
        self.version = version_of(config)
        self.rules = tuple(sorted(_scoped(config), key=_order))
        """All, those that are switched off among them."""
        self.exempt = frozenset(
            session_id for session_id, one in config.session_configs.items() if one.exempt
        )
        self._places: dict[str, list[int]] = {}
        for place, scoped in enumerate(self.rules):
            self._places.setdefault(scoped.rule.id, []).append(place)

    def enabled(self, session_id: str | None = None) -> Iterator[tuple[int, ScopedRule]]:
        """Yield the rules that count, with their places; of a session alone, if one is given."""
        for place, scoped in enumerate(self.rules):
            if scoped.rule.enabled and (session_id is None or scoped.is_for(session_id)):
                yield place, scoped

    def place_of(self, rule_id: str, session_id: str) -> int | None:
        """Return the place of a rule that counts in a session; None where none does."""
        for place in self._places.get(rule_id, ()):
            scoped = self.rules[place]
            if scoped.rule.enabled and scoped.is_for(session_id):
                return place
        return None

    def find(self, rule_id: str, session_id: str) -> PruningRule | None:
        """Return a rule that counts in a session; None where none does."""
        place = self.place_of(rule_id, session_id)
        return None if place is None else self.rules[place].rule


def version_of(config: PruningConfig) -> str:
    """Return a short text that differs where anything of a configuration does."""
    plain = orjson.dumps(plain_config(config), option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(plain).hexdigest()[:16]


def _order(scoped: ScopedRule) -> tuple[int, str, str]:
    return -scoped.rule.priority, scoped.rule.id, scoped.only or ""


def _scoped(config: PruningConfig) -> Iterator[ScopedRule]:
    instead: dict[str, set[str]] = {rule.id: set() for rule in config.rules}
    for session_id, session in config.session_configs.items():
        for rule in _rules_of(config, session):
            if rule not in config.rules:
                instead.setdefault(rule.id, set()).add(session_id)
                yield ScopedRule(rule, session_id)
    for rule in config.rules:
        yield ScopedRule(rule, None, frozenset(instead[rule.id]))


def _rules_of(config: PruningConfig, session: SessionPruningConfig) -> Iterator[PruningRule]:
    """Yield the rules as they are for a session that has something of its own."""
    rules = {rule.id: rule for rule in (*config.rules, *session.rules)}
    used: set[str] = set()
    for rule in rules.values():
        yield _with_thresholds(rule, session.thresholds, used)
    for name, kind in _THRESHOLDS.items():
        number = getattr(session.thresholds, name)
        if number is not None and name not in used:
            title = f"Threshold of the session: {kind.kind}"
            yield PruningRule(f"session-{kind.kind}", title, 0, (kind(number),), ArchiveAction())


def _with_thresholds(
    rule: PruningRule, thresholds: SessionThresholds, used: set[str]
) -> PruningRule:
    """Return the rule with the numbers of a session in it; what is used is noted."""
    conditions: list[Condition] = []
    for condition in rule.conditions:
        changed = condition
        for name, kind in _THRESHOLDS.items():
            number = getattr(thresholds, name)
            # What all sessions share is no matter of one.
            of_all = isinstance(condition, SET_CONDITIONS) and rule.scope is RuleScope.ALL
            if number is not None and isinstance(condition, kind) and not of_all:
                changed = replace(condition, **{name: number})
                if rule.enabled:
                    used.add(name)
        conditions.append(changed)
    found = tuple(conditions)
    return rule if found == rule.conditions else replace(rule, conditions=found)
