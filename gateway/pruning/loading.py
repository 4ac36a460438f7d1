"""Rules as plain tables, and back: what TOML holds, what is checked, what a version is made of.

Pure. There is one way in: rules made in Python are written down as tables and read again, so they
are held to the same. Refused are, all at once and each with its place: conditions that are empty
without `match_all`, unknown types, functions and keys, numbers out of range, ids that stand twice,
a summary where there is nobody to write one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from gateway.pruning.conditions import (
    AgeCondition,
    Condition,
    CountCondition,
    CustomCondition,
    SizeCondition,
    TokensCondition,
    TotalSizeCondition,
    TotalTokensCondition,
    TypeCondition,
)
from gateway.pruning.items import ItemType
from gateway.pruning.rules import (
    Action,
    ArchiveAction,
    CompactAction,
    DeleteAction,
    Protection,
    Protections,
    PruningBudgets,
    PruningConfig,
    PruningRule,
    RuleScope,
    SessionPruningConfig,
    SessionThresholds,
    SummarizeAction,
)
from gateway.pruning.tables import KeyPath, PruningConfigError, RuleProblem, Table
from gateway.pruning.units import MAX_SIZE_BYTES

_DEFAULTS: Final = PruningConfig()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What rules may name that is not in them."""

    functions: Collection[str] = ()
    """Names of the registered functions."""
    summarizer: bool = False
    """Whether there is somebody to write summaries."""
    types: Collection[ItemType] = tuple(ItemType)
    """What is stored."""
    destinations: Collection[str] | None = None
    """The archives there are; None: any name will do."""
    problems: list[RuleProblem] = field(default_factory=list)
    """What was found so far."""


def read_config(
    tree: Mapping[str, Any],
    *,
    functions: Collection[str] = (),
    summarizer: bool = False,
    types: Collection[ItemType] = tuple(ItemType),
    destinations: Collection[str] | None = None,
    bare: bool = True,
    where: KeyPath = (),
) -> PruningConfig:
    """Return the configuration that a table holds.

    Args:
        functions: The names of functions that `custom` conditions may ask.
        summarizer: Whether there is somebody to write summaries.
        types: The types of items that are stored: rules may name no other.
        destinations: The archives that rules may name; None: any.
        bare: Whether problems offer keys that name their unit (`max_age_s`) beside those whose
            value has one (`max_age`); both are accepted.
        where: The path of the table, for the problems.

    Raises:
        PruningConfigError: something is refused; it names every problem and its place.
    """
    around = Surroundings(functions, summarizer, types, destinations)
    config = _config(Table(tree, where, around.problems, bare=bare), around)
    if around.problems:
        raise PruningConfigError(around.problems)

    return config


def checked_config(
    config: PruningConfig, *, functions: Collection[str] = (), summarizer: bool = False
) -> PruningConfig:
    """Return the configuration as it is understood.

    Raises:
        PruningConfigError: something is refused; it names every problem and its place.
    """
    return read_config(plain_config(config), functions=functions, summarizer=summarizer)


def plain_config(config: PruningConfig) -> dict[str, Any]:
    """Return a configuration as a table of plain values."""
    protections, budgets = config.protections, config.budgets
    return _present(
        {
            "enabled": config.enabled,
            "dry_run": config.dry_run,
            "check_interval_s": config.check_interval_s,
            "min_prune_interval_s": config.min_prune_interval_s,
            "max_share": config.max_share,
            "evaluator_timeout_s": config.evaluator_timeout_s,
            "summarizer_timeout_s": config.summarizer_timeout_s,
            "protections": _present(
                {name: getattr(protections, name) for name in type(protections).__slots__}
            ),
            "budgets": _present({name: getattr(budgets, name) for name in type(budgets).__slots__}),
            "rules": [plain_rule(rule) for rule in config.rules],
            "sessions": {
                session_id: {
                    "exempt": one.exempt,
                    "rules": [plain_rule(rule) for rule in one.rules],
                    "thresholds": _present(
                        {
                            name: getattr(one.thresholds, name)
                            for name in type(one.thresholds).__slots__
                        }
                    ),
                }
                for session_id, one in config.session_configs.items()
            },
        }
    )


def plain_rule(rule: PruningRule) -> dict[str, Any]:
    """Return a rule as a table of plain values."""
    return {
        "id": rule.id,
        "name": rule.name,
        "priority": rule.priority,
        "enabled": rule.enabled,
        "scope": str(rule.scope),
        "match_all": rule.match_all,
        "ignore_protections": sorted(map(str, rule.ignore_protections)),
        "conditions": [_plain_part(one) for one in rule.conditions],
        "action": plain_action(rule.action),
    }


def plain_action(action: Action) -> dict[str, Any]:
    """Return an action as a table of plain values."""
    return _plain_part(action)


def read_action(tree: object) -> Action:
    """Return the action that a table holds.

    Raises:
        PruningConfigError: it is none.
    """
    problems: list[RuleProblem] = []
    action = _action(Table(tree, (), problems), Surroundings(summarizer=True, problems=problems))
    if problems:
        raise PruningConfigError(problems)

    return action


def _plain_part(part: object) -> dict[str, Any]:
    """Return a condition or an action; of something else no more than that it is none."""
    values: dict[str, Any] = {"type": getattr(part, "kind", type(part).__name__)}
    for name in getattr(type(part), "__slots__", ()):
        value = getattr(part, name)
        if isinstance(value, frozenset):
            value = sorted(map(str, value))
        elif isinstance(value, Mapping):
            value = dict(value)
        if value is not None and value != []:
            values[name] = value
    return values


def _present(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _config(table: Table, around: Surroundings) -> PruningConfig:
    config = PruningConfig(
        enabled=table.flag("enabled", _DEFAULTS.enabled),
        dry_run=table.flag("dry_run", _DEFAULTS.dry_run),
        check_interval_s=table.duration_s("check_interval", _DEFAULTS.check_interval_s, above=0),
        min_prune_interval_s=table.duration_s("min_prune_interval", _DEFAULTS.min_prune_interval_s),
        max_share=table.share("max_share", one=True) if table.has("max_share") else None,
        evaluator_timeout_s=table.duration_s(
            "evaluator_timeout", _DEFAULTS.evaluator_timeout_s, above=0
        ),
        summarizer_timeout_s=table.duration_s(
            "summarizer_timeout", _DEFAULTS.summarizer_timeout_s, above=0
        ),
        protections=_protections(table.table("protections")),
        budgets=_budgets(table.table("budgets")),
        rules=_rules(table, around),
        session_configs={
            name: _session(one, around) for name, one in table.named_tables("sessions").items()
        },
    )
    table.done()
    return config


def _protections(table: Table) -> Protections:
    default = Protections()
    protections = Protections(
        keep_newest=table.whole("keep_newest", default.keep_newest),
        min_age_s=table.duration_s("min_age", default.min_age_s),
        restored_s=table.duration_s("restored", default.restored_s),
        settle_s=table.duration_s("settle", default.settle_s),
    )
    table.done()
    return protections


def _budgets(table: Table) -> PruningBudgets:
    budgets = PruningBudgets(
        max_items=table.maybe("max_items", low=1),
        max_bytes=table.maybe_size_bytes("max_size", "max_bytes"),
        max_duration_s=table.maybe_duration_s("max_duration"),
        max_summaries=table.maybe("max_summaries"),
    )
    table.done()
    return budgets


def _session(table: Table, around: Surroundings) -> SessionPruningConfig:
    thresholds = table.table("thresholds")
    config = SessionPruningConfig(
        exempt=table.flag("exempt", default=False),
        rules=_rules(table, around, of_session=True),
        thresholds=SessionThresholds(
            max_age_s=thresholds.maybe_duration_s("max_age"),
            max_size_bytes=thresholds.maybe_size_bytes("max_size", "max_size_bytes"),
            max_tokens=thresholds.maybe("max_tokens"),
            max_count=thresholds.maybe("max_count"),
            max_total_tokens=thresholds.maybe("max_total_tokens"),
            max_total_bytes=thresholds.maybe_size_bytes("max_total_size", "max_total_bytes"),
        ),
    )
    thresholds.done()
    table.done()
    return config


def _rules(
    table: Table, around: Surroundings, *, of_session: bool = False
) -> tuple[PruningRule, ...]:
    tables = table.tables("rules")
    found = [_rule(one, around, of_session=of_session) for one in tables]
    ids = Counter(rule.id for rule in found if rule.id)
    for one, rule in zip(tables, found, strict=True):
        if ids[rule.id] > 1:
            one.problem(f'"{rule.id}" stands twice, accepted is an id of its own', "id")
    return tuple(found)


def _rule(table: Table, around: Surroundings, *, of_session: bool) -> PruningRule:
    rule_id = table.text("id")
    rule = PruningRule(
        id=rule_id,
        name=table.text("name", rule_id),
        priority=table.whole("priority", 0, low=-MAX_SIZE_BYTES),
        enabled=table.flag("enabled", default=True),
        scope=table.choice("scope", RuleScope, RuleScope.SESSION),
        match_all=table.flag("match_all", default=False),
        ignore_protections=table.choices("ignore_protections", Protection),
        conditions=tuple(_condition(one, around) for one in table.tables("conditions")),
        action=_action(table.table("action"), around),
    )
    given = table.value("conditions")
    if not given and not rule.match_all and isinstance(given, list | tuple | None):
        table.problem(
            "has no conditions, accepted is at least one; match_all = true takes every item",
            "conditions",
        )
    if given and rule.match_all:
        table.problem("stands beside conditions, accepted is one of the two", "match_all")
    if of_session and rule.scope is not RuleScope.SESSION:
        table.problem('"all" is of no use in a rule of one session', "scope")
    table.done()
    return rule


def _condition(table: Table, around: Surroundings) -> Condition:
    kind = table.value("type")
    read = _CONDITIONS.get(kind) if isinstance(kind, str) else None
    if read is None:
        # Where there is nobody to ask, there is no such condition.
        offered = (one for one in _CONDITIONS if one != "custom" or around.functions)
        table.unknown("type", f"accepted are {', '.join(offered)}")
        return AgeCondition(0)

    condition = read(table, around)
    table.done()
    return condition


def _type(table: Table, around: Surroundings) -> TypeCondition:
    condition = TypeCondition(
        include=table.choices("include", ItemType, around.types),
        exclude=table.choices("exclude", ItemType, around.types),
    )
    if table.has("include") == table.has("exclude"):
        table.problem("has to have one of include and exclude")
    elif not (table.value("include") or table.value("exclude")):
        table.problem(f"names no type, accepted are {', '.join(sorted(around.types))}")
    for key, named in (("include", condition.include), ("exclude", condition.exclude)):
        for one in sorted(named.difference(around.types)):
            known = ", ".join(sorted(around.types))
            table.problem(f'"{one}" is a type that is not stored here, accepted are {known}', key)
    return condition


def _custom(table: Table, around: Surroundings) -> CustomCondition:
    function = table.text("function")
    params = table.value("params") if table.has("params") else {}
    if not isinstance(params, Mapping):
        table.problem("is no table", "params")
        params = {}
    if function and function not in around.functions:
        known = ", ".join(sorted(around.functions)) or "none, for none is registered"
        table.problem(f'"{function}" is no registered function, accepted are {known}', "function")
    return CustomCondition(function, MappingProxyType(dict(params)))


def _low_water(table: Table) -> float:
    return table.share("low_water_ratio", 1.0, one=True)


_CONDITIONS: Final[dict[str, Callable[[Table, Surroundings], Condition]]] = {
    "age": lambda table, _: AgeCondition(table.duration_s("max_age")),
    "size": lambda table, _: SizeCondition(table.size_bytes("max_size", "max_size_bytes")),
    "tokens": lambda table, _: TokensCondition(table.whole("max_tokens")),
    "type": _type,
    "custom": _custom,
    "count": lambda table, _: CountCondition(table.whole("max_count"), _low_water(table)),
    "total_tokens": lambda table, _: TotalTokensCondition(
        table.whole("max_total_tokens"), _low_water(table)
    ),
    "total_size": lambda table, _: TotalSizeCondition(
        table.size_bytes("max_total_size", "max_total_bytes"), _low_water(table)
    ),
}


def _action(table: Table, around: Surroundings) -> Action:
    kind = table.value("type")
    action: Action = DeleteAction()
    match kind:
        case "delete":
            pass
        case "archive":
            action = ArchiveAction(table.text("destination", "default"))
            if around.destinations is not None and action.destination not in around.destinations:
                known = ", ".join(sorted(around.destinations))
                table.unknown("destination", f"accepted is {known}, or nothing")
        case "summarize":
            action = SummarizeAction(table.maybe("target_tokens", low=1))
            if not around.summarizer:
                table.problem("asks for summaries, and there is no summarizer", "type")
        case "compact":
            action = CompactAction(table.share("ratio", one=False))
        case _:
            summarize = ", summarize" if around.summarizer else ""
            table.unknown("type", f"accepted are delete, archive{summarize} and compact")
            return action
    table.done()
    return action
