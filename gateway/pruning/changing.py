"""A configuration with one thing changed. Pure; what comes out is not checked yet."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.pruning.rules import SessionPruningConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.pruning.rules import PruningConfig, PruningRule, SessionThresholds


def with_rule(config: PruningConfig, rule: PruningRule) -> PruningConfig:
    """Return it with a rule more, or in the place of the one of the same id."""
    others = (one for one in config.rules if one.id != rule.id)
    return replace(config, rules=(*others, rule))


def without_rule(config: PruningConfig, rule_id: str) -> PruningConfig:
    """Return it without a rule."""
    return replace(config, rules=tuple(one for one in config.rules if one.id != rule_id))


def with_rule_enabled(config: PruningConfig, rule_id: str, *, enabled: bool) -> PruningConfig:
    """Return it with a rule switched on or off."""
    rules = (replace(one, enabled=enabled) if one.id == rule_id else one for one in config.rules)
    return replace(config, rules=tuple(rules))


def with_session(
    config: PruningConfig,
    session_id: str,
    exempt: bool | None,  # noqa: FBT001 - a value, no switch
    rules: Iterable[PruningRule] | None,
    thresholds: SessionThresholds | None,
) -> PruningConfig:
    """Return it with something else for a session; None leaves it as it is."""
    old = config.session_configs.get(session_id, SessionPruningConfig())
    new = SessionPruningConfig(
        exempt=old.exempt if exempt is None else exempt,
        rules=old.rules if rules is None else tuple(rules),
        thresholds=old.thresholds if thresholds is None else thresholds,
    )
    return replace(config, session_configs={**config.session_configs, session_id: new})


def without_session(config: PruningConfig, session_id: str) -> PruningConfig:
    """Return it with nothing else for a session."""
    configs = {name: one for name, one in config.session_configs.items() if name != session_id}
    return replace(config, session_configs=configs)
