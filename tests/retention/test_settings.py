"""Settings of item pruning: kept as they were written, understood as the rules are."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.pruning import (
    AgeCondition,
    ArchiveAction,
    CompactAction,
    CountCondition,
    ItemType,
    Protection,
    Protections,
    PruningBudgets,
    PruningConfig,
    PruningRule,
    RuleScope,
    SessionPruningConfig,
    SessionThresholds,
    SummarizeAction,
    TotalSizeCondition,
    TypeCondition,
)
from gateway.retention.settings import (
    ItemPruningSettings,
    KeepSettings,
    ProtectionSettings,
    RunBudgetSettings,
    SessionPruningSettings,
    ThresholdSettings,
)

DAY_S = 86_400.0
ANN = "agent:main:telegram::dm:1::"
BOB = "agent:main:telegram::dm:2::"


def rule(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever a file may hold
    return {"id": "r", "match_all": True, "action": {"type": "delete"}, **changes}


def problems_of(tree: dict[str, Any]) -> dict[str, str]:
    """Return what is refused, by path."""
    with pytest.raises(ValidationError) as caught:
        ItemPruningSettings.model_validate(tree)
    return {".".join(map(str, one["loc"])): one["msg"] for one in caught.value.errors()}


def test_without_a_file_there_are_no_rules_and_these_bounds() -> None:
    settings = ItemPruningSettings()

    assert settings.keep == KeepSettings(7 * DAY_S, 365 * DAY_S, 365 * DAY_S, 365 * DAY_S)
    assert settings.to_config({}) == PruningConfig(
        check_interval_s=300,
        min_prune_interval_s=60,
        max_share=0.5,
        protections=Protections(keep_newest=10, min_age_s=3_600, restored_s=DAY_S, settle_s=3_600),
        budgets=PruningBudgets(
            max_items=10_000, max_bytes=None, max_duration_s=30, max_summaries=20
        ),
    )


def test_every_key_reaches_the_rules() -> None:
    settings = ItemPruningSettings.model_validate(
        {
            "enabled": False,
            "check_interval": "1m",
            "min_prune_interval": "0s",
            "max_share": 1,
            "protections": {"keep_newest": 0, "min_age": "0s", "restored": "2d", "settle": "90s"},
            "budgets": {
                "max_items": 1,
                "max_size": "64MiB",
                "max_duration": "1h30m",
                "max_summaries": 0,
            },
            "rules": [
                {
                    "id": "old",
                    "name": "What is old",
                    "priority": 7,
                    "scope": "all",
                    "ignore_protections": ["young"],
                    "conditions": [
                        {"type": "type", "include": ["tool_result"]},
                        {"type": "age", "max_age": "30d"},
                        {"type": "age", "max_age_s": 5},
                        {"type": "total_size", "max_total_size": "2GiB", "low_water_ratio": 0.9},
                    ],
                    "action": {"type": "compact", "ratio": 0.25},
                },
                rule(id="sum", action={"type": "summarize", "target_tokens": 9}, enabled=False),
            ],
        }
    )

    assert settings.to_config({}) == PruningConfig(
        enabled=False,
        check_interval_s=60,
        min_prune_interval_s=0,
        max_share=1.0,
        protections=Protections(keep_newest=0, min_age_s=0, restored_s=2 * DAY_S, settle_s=90),
        budgets=PruningBudgets(1, 67_108_864, 5_400, 0),
        rules=(
            PruningRule(
                "old",
                "What is old",
                7,
                (
                    TypeCondition(include=frozenset({ItemType.TOOL_RESULT})),
                    AgeCondition(30 * DAY_S),
                    AgeCondition(5),
                    TotalSizeCondition(2**31, 0.9),
                ),
                CompactAction(0.25),
                scope=RuleScope.ALL,
                ignore_protections=frozenset({Protection.YOUNG}),
            ),
            PruningRule("sum", "sum", 0, (), SummarizeAction(9), enabled=False, match_all=True),
        ),
    )


def test_a_session_key_counts_for_each_of_its_conversations() -> None:
    settings = ItemPruningSettings.model_validate(
        {
            "sessions": {
                ANN: {
                    "rules": [
                        rule(
                            match_all=False,
                            conditions=[{"type": "count", "max_count": 3}],
                            action={"type": "archive", "destination": "default"},
                        )
                    ],
                    "thresholds": {
                        "max_age": "2d",
                        "max_size": "1kB",
                        "max_tokens": 3,
                        "max_count": 4,
                        "max_total_tokens": 5,
                        "max_total_size": "1MiB",
                    },
                },
                BOB: {"exempt": True},
                "agent:main:telegram::dm:3::": {"exempt": True},
            }
        }
    )
    of_ann = SessionPruningConfig(
        rules=(PruningRule("r", "r", 0, (CountCondition(3),), ArchiveAction()),),
        thresholds=SessionThresholds(2 * DAY_S, 1_000, 3, 4, 5, 1_048_576),
    )

    config = settings.to_config({ANN: ["a1", "a2"], BOB: ["b1"], "another": ["c1"]})

    assert config.session_configs == {
        "a1": of_ann,
        "a2": of_ann,
        "b1": SessionPruningConfig(exempt=True),
    }
    assert settings.to_config({}).session_configs == {}


@pytest.mark.parametrize("key", ["archive", "audit", "removed_sessions"])
def test_a_time_may_be_forever(key: str) -> None:
    settings = ItemPruningSettings.model_validate({f"{key}_keep": "forever"})
    times = {name: getattr(settings.keep, f"{name}_s") for name in ("archive", "audit")}
    times["removed_sessions"] = settings.keep.removed_sessions_s

    assert times == {
        name: None if name == key else 365 * DAY_S
        for name in ("archive", "audit", "removed_sessions")
    }


def test_the_grace_has_an_end() -> None:
    assert ItemPruningSettings(grace="12h").keep.grace_s == DAY_S / 2
    assert ItemPruningSettings(grace="0s").keep.grace_s == 0
    assert problems_of({"grace": "forever"})["grace"].startswith(
        'Value error, "forever" is no duration, accepted is a duration such as 90s'
    )


@pytest.mark.parametrize(
    ("tree", "path", "problem"),
    [
        ({"rules": [rule(action={"type": "x"})]}, "rules.0.action.type", '"x" is unknown'),
        ({"rules": [rule(id="")]}, "rules.0.id", '"" is of no use'),
        ({"rules": [rule(match_all=False)]}, "rules.0.conditions", "has no conditions"),
        (
            {"rules": [rule(action={"type": "archive", "destination": "cold"})]},
            "rules.0.action.destination",
            '"cold" is unknown, accepted is default, or nothing',
        ),
        (
            {"rules": [rule(action={"type": "compact", "ratio": 1})]},
            "rules.0.action.ratio",
            "1 is of no use, accepted is a number above 0 and below 1",
        ),
        ({"rules": ["r"]}, "rules.0", '"r" is no table'),
        ({"rules": [None]}, "rules.0", "nothing is no table"),
        (
            {"sessions": {ANN: {"rules": [rule(scope="all")]}}},
            f"sessions.{ANN}.rules.0.scope",
            '"all" is of no use in a rule of one session',
        ),
        ({"check_interval": "0s"}, "check_interval", "0 seconds are too few"),
        ({"check_interval": 5}, "check_interval", "valid string"),
        ({"max_share": 0}, "max_share", "greater than 0"),
        ({"max_share": float("nan")}, "max_share", "less than or equal to 1"),
        ({"budgets": {"max_items": 0}}, "budgets.max_items", "greater than or equal to 1"),
        ({"budgets": {"max_size": "5"}}, "budgets.max_size", '"5" is no size'),
        ({"budgets": {"max_duration": "-1s"}}, "budgets.max_duration", '"-1s" is no duration'),
        ({"protections": {"keep_newest": 2**63}}, "protections.keep_newest", "less than or equal"),
        ({"protections": {"keep_newest": True}}, "protections.keep_newest", "valid integer"),
        ({"audit_keep": "365"}, "audit_keep", "at most 36525d, or forever"),
        ({"sessions": {"telegram": {}}}, "sessions.telegram.[key]", "is not a session key"),
        ({"dry_run": True}, "dry_run", "Extra inputs"),
    ],
)
def test_what_is_of_no_use_is_refused_at_its_place(
    tree: dict[str, Any], path: str, problem: str
) -> None:
    found = problems_of(tree)

    assert list(found) == [path]
    assert problem in found[path]


def test_rules_of_one_list_have_ids_of_their_own() -> None:
    twice = '"r" stands twice, accepted is an id of its own'
    of_all = problems_of({"rules": [rule(), rule()]})
    of_one = problems_of({"sessions": {ANN: {"rules": [rule(), rule()]}}})

    assert of_all == {"rules.0.id": twice, "rules.1.id": twice}
    assert of_one == {f"sessions.{ANN}.{path}": text for path, text in of_all.items()}
    tree = {"rules": [rule()], "sessions": {ANN: {"rules": [rule()]}, BOB: {"rules": [rule()]}}}
    assert len(ItemPruningSettings.model_validate(tree).rules) == 1


@pytest.mark.parametrize("which", ["include", "exclude"])
@pytest.mark.parametrize("kind", ["checkpoint", "memory", "file"])
def test_rules_name_only_types_that_are_stored(which: str, kind: str) -> None:
    conditions = [{"type": "type", which: ["message", kind]}]
    found = problems_of({"rules": [rule(match_all=False, conditions=conditions)]})

    assert found == {
        f"rules.0.conditions.0.{which}": f'"{kind}" is a type that is not stored here, '
        "accepted are message, tool_result"
    }


def test_rules_ask_no_functions() -> None:
    conditions = [{"type": "custom", "function": "is_dull", "params": {"deep": [[[]]]}}]
    found = problems_of({"rules": [rule(match_all=False, conditions=conditions)]})

    assert found == {
        "rules.0.conditions.0.function": '"is_dull" is no registered function, '
        "accepted are none, for none is registered"
    }


@pytest.mark.parametrize(
    ("condition", "path", "offered"),
    [
        ({"type": "what"}, "type", "accepted are age, size, tokens, type, count, total_tokens"),
        ({"type": "age"}, "max_age", "at most 36525d"),
        ({"type": "age", "max_age": "1d", "old": 1}, "old", "accepted here: max_age, type"),
        ({"type": "type", "include": ["mail"]}, "include", "accepted are message, tool_result"),
    ],
)
def test_what_the_configuration_does_not_know_is_not_offered(
    condition: dict[str, Any], path: str, offered: str
) -> None:
    found = problems_of({"rules": [rule(match_all=False, conditions=[condition])]})

    (problem,) = found.items()
    assert problem[0] == f"rules.0.conditions.0.{path}"
    assert offered in problem[1]
    assert not {"custom", "checkpoint", "max_age_s"} & set(problem[1].replace(",", " ").split())


def test_all_problems_are_told_at_once() -> None:
    found = problems_of(
        {
            "grace": "soon",
            "protections": {"min_age": 1},
            "rules": [rule(action={"type": "x"}), rule(colour="red", scope="both")],
            "sessions": {"nobody": {"exempt": "yes", "rules": [rule(id=1)]}},
        }
    )

    assert set(found) == {
        "grace",
        "protections.min_age",
        "rules.0.action.type",
        "rules.0.id",
        "rules.1.id",
        "rules.1.colour",
        "rules.1.scope",
        "sessions.nobody.[key]",
        "sessions.nobody.exempt",
        "sessions.nobody.rules.0.id",
    }


def test_rules_are_a_copy_without_what_is_not_there() -> None:
    action = {"type": "summarize", "target_tokens": None}
    settings = ItemPruningSettings.model_validate({"rules": [rule(action=action)]})
    action["type"] = "delete"

    assert settings.rules == [rule(action={"type": "summarize"})]
    assert settings.to_config({}).rules[0].action == SummarizeAction()


def test_deep_nonsense_is_refused_like_any_other() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    found = problems_of({"rules": [rule(conditions=deep), rule(id="s", extra=deep)]})

    assert found["rules.1.extra"].startswith("unknown key, accepted here: action, conditions")
    assert found["rules.0.conditions.0"] == "a list is no table"


KEYS: tuple[tuple[str, ...], ...] = tuple(
    (*holder, name)
    for holder, names in (
        ((), ItemPruningSettings.model_fields),
        (("protections",), ProtectionSettings.model_fields),
        (("budgets",), RunBudgetSettings.model_fields),
        (("sessions", ANN), SessionPruningSettings.model_fields),
        (("sessions", ANN, "thresholds"), ThresholdSettings.model_fields),
    )
    for name in names
)
VALUES: tuple[Any, ...] = (
    *("0s", "1ms", "1h30m", "36525d", "36526d", "5", "", "forever", "0B", "1.5kB", "9999999TiB"),
    *(0, 1, -1, 2**62, 2**62 + 1, 0.0, 5e-324, 1.0, 1.5, math.nan, math.inf, True, None),
    *([], {}, [rule()], [{}], {"a": 1}),
)


@pytest.mark.parametrize("key", KEYS, ids=".".join)
def test_what_is_accepted_can_be_used(key: tuple[str, ...]) -> None:
    accepted = []
    for value in VALUES:
        tree: Any = value
        for name in reversed(key):
            tree = {name: tree}
        with contextlib.suppress(ValidationError):
            accepted.append(ItemPruningSettings.model_validate(tree))

    assert 0 < len(accepted) < len(VALUES)
    for settings in accepted:
        assert settings.keep.grace_s >= 0
        assert settings.to_config({ANN: ["a"]}).check_interval_s > 0


@given(st.integers(1, 5_217), st.sampled_from("smhdw"))
def test_durations_and_sizes_stay_as_they_were_written(number: int, unit: str) -> None:
    text = f"{number}{unit}"
    tree = {
        "grace": text,
        "check_interval": text,
        "archive_keep": text,
        "protections": {"min_age": text},
        "budgets": {"max_duration": text, "max_size": f"{number}kB"},
        "rules": [rule(match_all=False, conditions=[{"type": "age", "max_age": text}])],
        "sessions": {ANN: {"thresholds": {"max_age": text, "max_size": f"{number} MiB"}}},
    }
    settings = ItemPruningSettings.model_validate(tree)
    config = settings.to_config({ANN: ["a"]})

    assert settings.model_dump(exclude_unset=True) == tree
    assert config.check_interval_s == config.protections.min_age_s == settings.keep.grace_s
    assert config.rules[0].conditions == (AgeCondition(settings.keep.grace_s),)
    assert config.session_configs["a"].thresholds.max_size_bytes == number * 2**20
