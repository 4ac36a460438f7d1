"""What is refused when rules are loaded: all of it at once, each with its place."""

from __future__ import annotations

import math
import tomllib
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.pruning import (
    DEFAULT_PRUNING_CONFIG,
    AgeCondition,
    ArchiveAction,
    CompactAction,
    CountCondition,
    CustomCondition,
    DeleteAction,
    ItemType,
    Protection,
    Protections,
    PruningBudgets,
    PruningConfig,
    PruningConfigError,
    PruningRule,
    RuleScope,
    SessionPruningConfig,
    SessionThresholds,
    SizeCondition,
    SummarizeAction,
    TokensCondition,
    TotalSizeCondition,
    TotalTokensCondition,
    TypeCondition,
    plain_config,
    read_config,
)
from tests.pruning.making import limit, manager, rule

FULL = """
enabled = false
dry_run = true
check_interval = "10m"
min_prune_interval = "90s"
max_share = 0.25
protections = { keep_newest = 20, min_age = "1h", settle_s = 60 }
budgets = { max_items = 1000, max_size = "64MiB", max_duration = "5s", max_summaries = 3 }

[[rules]]
id = "old"
name = "What is old"
priority = -5
scope = "all"
ignore_protections = ["pinned", "newest"]
conditions = [
    { type = "age", max_age = "30d" },
    { type = "size", max_size = "1kB" },
    { type = "tokens", max_tokens = 7 },
    { type = "type", include = ["message", "file"] },
    { type = "custom", function = "f", params = { a = 1 } },
    { type = "count", max_count = 10, low_water_ratio = 0.5 },
    { type = "total_tokens", max_total_tokens = 11 },
    { type = "total_size", max_total_size = "2GiB" },
]
action = { type = "archive", destination = "cold" }

[[rules]]
id = "all"
match_all = true
action = { type = "compact", ratio = 0.5 }

[sessions.abc]
exempt = true
thresholds = { max_age = "2d", max_count = 5, max_total_size = "1MB" }
rules = [{ id = "own", match_all = true, action = { type = "summarize", target_tokens = 9 } }]
"""


def test_everything_may_stand_in_a_file() -> None:
    config = read_config(tomllib.loads(FULL), functions={"f"}, summarizer=True)

    old = PruningRule(
        "old",
        "What is old",
        -5,
        (
            AgeCondition(2_592_000),
            SizeCondition(1_000),
            TokensCondition(7),
            TypeCondition(include=frozenset({ItemType.MESSAGE, ItemType.FILE})),
            CustomCondition("f", {"a": 1}),
            CountCondition(10, 0.5),
            TotalTokensCondition(11),
            TotalSizeCondition(2**31),
        ),
        ArchiveAction("cold"),
        scope=RuleScope.ALL,
        ignore_protections=frozenset({Protection.PINNED, Protection.NEWEST}),
    )
    assert config == PruningConfig(
        enabled=False,
        dry_run=True,
        check_interval_s=600,
        min_prune_interval_s=90,
        max_share=0.25,
        protections=Protections(keep_newest=20, min_age_s=3_600, settle_s=60),
        budgets=PruningBudgets(1_000, 67_108_864, 5, 3),
        rules=(old, PruningRule("all", "all", 0, (), CompactAction(0.5), match_all=True)),
        session_configs={
            "abc": SessionPruningConfig(
                exempt=True,
                rules=(PruningRule("own", "own", 0, (), SummarizeAction(9), match_all=True),),
                thresholds=SessionThresholds(
                    max_age_s=172_800, max_count=5, max_total_bytes=1_000_000
                ),
            )
        },
    )
    again = read_config(plain_config(config), functions={"f"}, summarizer=True)
    assert again == config
    assert read_config({}) == PruningConfig()
    assert read_config(plain_config(DEFAULT_PRUNING_CONFIG)) == DEFAULT_PRUNING_CONFIG


def _rule(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever a file may hold
    return {
        "id": "r",
        "conditions": [{"type": "count", "max_count": 1}],
        "action": {"type": "delete"},
        **changes,
    }


def _with(**condition: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever a file may hold
    return {"rules": [_rule(conditions=[condition])]}


@pytest.mark.parametrize(
    ("tree", "problem"),
    [
        ({"rules": [_rule(conditions=[])]}, "rules[0].conditions: has no conditions"),
        ({"rules": [{"id": "r", "action": {"type": "delete"}}]}, "rules[0].conditions: has no"),
        ({"rules": [_rule(match_all=True)]}, "rules[0].match_all: stands beside conditions"),
        ({"rules": [_rule(), _rule()]}, 'rules[1].id: "r" stands twice'),
        ({"rules": [_rule(id="")]}, 'rules[0].id: "" is of no use'),
        ({"rules": [_rule(id=7)]}, "rules[0].id: 7 is of no use"),
        ({"rules": [_rule(color="red")]}, "rules[0].color: unknown key"),
        ({"rules": [_rule(priority="high")]}, 'rules[0].priority: "high" is of no use'),
        ({"rules": [_rule(scope="some")]}, 'rules[0].scope: "some" is unknown, accepted are'),
        ({"rules": [_rule(ignore_protections=["x"])]}, 'ignore_protections: "x" is unknown'),
        ({"rules": [_rule(ignore_protections="pinned")]}, "accepted is a list of exempt"),
        ({"rules": [_rule(enabled="yes")]}, 'rules[0].enabled: "yes" is no truth value'),
        (
            {"rules": [_rule(action={"type": "shred"})]},
            'action.type: "shred" is unknown, accepted are',
        ),
        ({"rules": [_rule(action={})]}, "rules[0].action.type: is missing, accepted are delete"),
        ({"rules": [_rule(action="delete")]}, 'rules[0].action: "delete" is no table'),
        ({"rules": [_rule(action={"type": "delete", "x": 1})]}, "rules[0].action.x: unknown key"),
        ({"rules": [_rule(action={"type": "summarize"})]}, "there is no summarizer"),
        *(
            (
                {"rules": [_rule(action={"type": "compact", "ratio": ratio})]},
                "rules[0].action.ratio: ",
            )
            for ratio in (0, 1, -0.5, 1.5, math.nan, math.inf, "0.5", True)
        ),
        ({"rules": [_rule(action={"type": "compact"})]}, "action.ratio: is missing"),
        ({"rules": "none"}, 'rules: "none" is of no use'),
        ({"rules": [5]}, "rules[0]: 5 is no table"),
        (_with(type="agee"), 'conditions[0].type: "agee" is unknown, accepted are age, size'),
        (_with(max_age="1d"), "rules[0].conditions[0].type: is missing, accepted are age, size"),
        (_with(type="age"), "rules[0].conditions[0].max_age: is missing"),
        (_with(type="age", max_age=30), "max_age: 30 is no text"),
        (_with(type="age", max_age="30"), 'max_age: "30" is no duration'),
        (_with(type="age", max_age="1d", max_age_s=1), "max_age: stands beside max_age_s"),
        (_with(type="age", max_age_s=-1), "max_age_s: -1 is of no use"),
        (_with(type="age", max_age_s=math.nan), "max_age_s: nan is of no use"),
        (_with(type="age", max_age_s=1e12), "max_age_s: 1e+12 is of no use"),
        (_with(type="size", max_size="big"), 'max_size: "big" is no size'),
        (_with(type="size", max_size_bytes=1.5), "max_size_bytes: 1.5 is of no use"),
        (_with(type="count", max_count=-1), "max_count: -1 is below 0"),
        (_with(type="count", max_count=1.0), "max_count: 1 is of no use"),
        (_with(type="count", max_count=1, low_water_ratio=0), "low_water_ratio: 0 is of no use"),
        (_with(type="total_tokens", max_total_tokens=True), "max_total_tokens: true is of no use"),
        (_with(type="type"), "conditions[0]: has to have one of include and exclude"),
        (_with(type="type", include=[]), "conditions[0]: names no type"),
        (_with(type="type", include=["mail"]), 'include: "mail" is unknown, accepted are message'),
        (_with(type="type", include=["file"], exclude=["file"]), "has to have one of"),
        (_with(type="custom", function="g"), 'function: "g" is no registered function'),
        (_with(type="custom"), "function: is missing"),
        (_with(type="custom", function="f", params=5), "params: is no table"),
        (_with(type="count", max_count=1, of="x"), "conditions[0].of: unknown key"),
        ({"check_interval": "0s"}, "check_interval: 0 seconds are too few"),
        ({"max_share": 0}, "max_share: 0 is of no use"),
        ({"budgets": {"max_items": 0}}, "budgets.max_items: 0 is below 1"),
        ({"budgets": {"max_size": "-1B"}}, 'budgets.max_size: "-1B" is no size'),
        ({"protections": {"keep": 1}}, "protections.keep: unknown key"),
        ({"protections": {"keep_newest": -1}}, "protections.keep_newest: -1 is below 0"),
        ({"sessions": {"a b": {"exempt": 1}}}, 'sessions."a b".exempt: 1 is no truth value'),
        (
            {"sessions": {"a": {"thresholds": {"max_mails": 1}}}},
            "thresholds.max_mails: unknown key",
        ),
        ({"sessions": {"a": {"rules": [_rule(scope="all")]}}}, "sessions.a.rules[0].scope"),
        ({"sessions": {"a": {"rules": [_rule(), _rule()]}}}, "sessions.a.rules[1].id"),
        ({"interval": 5}, "interval: unknown key"),
        ({"rules": [_rule(priorty=5)]}, "priorty: unknown key, did you mean prio"),
    ],
)
def test_what_is_of_no_use_is_refused_with_its_place(tree: dict[str, Any], problem: str) -> None:
    with pytest.raises(PruningConfigError) as raised:
        read_config(tree, functions={"f"})

    assert problem in str(raised.value)


def test_what_is_no_table_has_no_other_problem() -> None:
    with pytest.raises(PruningConfigError) as raised:
        read_config({"rules": [5]})

    assert raised.value.problems == ("rules[0]: 5 is no table",)


@pytest.mark.parametrize(
    ("condition", "offered"),
    [
        ({"type": "what"}, "accepted are age, size, tokens, type, count, total_tokens, total_size"),
        ({"type": "age"}, "accepted is a duration such as 90s, 5m, 12h, 30d, 8w or 1h30m, at most"),
        ({"type": "age", "max_age": "1d", "x": 1}, "unknown key, accepted here: max_age, type"),
        ({"type": "size", "max_size": "1B", "max_size_byte": 1}, "did you mean max_size?"),
        ({"type": "type", "include": ["mail"]}, "accepted are message, tool_result"),
        ({"type": "type", "exclude": "mail"}, "accepted is a list of message, tool_result"),
    ],
)
def test_problems_offer_only_what_there_is(condition: dict[str, Any], offered: str) -> None:
    tree = {"rules": [_rule(conditions=[condition], action={"type": "shred"})]}
    types = frozenset({ItemType.MESSAGE, ItemType.TOOL_RESULT})
    with pytest.raises(PruningConfigError) as raised:
        read_config(tree, types=types, bare=False)

    action, problem = sorted(raised.value.problems)
    assert offered in problem
    assert "_s," not in problem
    assert "a number" not in problem
    assert action.endswith("accepted are delete, archive and compact")


@pytest.mark.parametrize("key", ["include", "exclude"])
def test_types_that_are_not_stored_are_refused_where_the_caller_says_so(key: str) -> None:
    with pytest.raises(PruningConfigError) as raised:
        read_config(
            _with(type="type", **{key: ["message", "file"]}), types=frozenset({ItemType.MESSAGE})
        )

    (problem,) = raised.value.problems
    assert problem.startswith(f'rules[0].conditions[0].{key}: "file" is a type that is not stored')
    assert problem.endswith("accepted are message")


def test_archives_that_are_not_there_are_refused_where_the_caller_names_them() -> None:
    tree = {"rules": [_rule(action={"type": "archive", "destination": "cold"})]}
    with pytest.raises(PruningConfigError) as raised:
        read_config(tree, destinations={"default"})

    assert raised.value.problems == (
        'rules[0].action.destination: "cold" is unknown, accepted is default, or nothing',
    )
    assert read_config(tree, destinations={"cold"}).rules[0].action == ArchiveAction("cold")


def test_all_problems_are_told_at_once_below_the_path_that_is_given() -> None:
    tree = {
        "check_interval": "soon",
        "rules": [
            _rule(conditions=[{"type": "age", "max_age_s": -1}, {"type": "what"}]),
            _rule(action={"type": "compact", "ratio": 2}, colour="red"),
        ],
    }

    with pytest.raises(PruningConfigError) as raised:
        read_config(tree, where=("pruning",))

    assert [".".join(map(str, one.path)) for one in raised.value.found] == [
        "pruning.check_interval",
        "pruning.rules.0.conditions.0.max_age_s",
        "pruning.rules.0.conditions.1.type",
        "pruning.rules.1.action.ratio",
        "pruning.rules.1.colour",
        "pruning.rules.0.id",
        "pruning.rules.1.id",
    ]
    assert raised.value.problems[3].startswith("pruning.rules[1].action.ratio: 2 is of no use")


@pytest.mark.parametrize(
    "bad",
    [
        rule("r", AgeCondition(math.nan)),
        rule("r", AgeCondition(-1)),
        rule("r", CountCondition(-1)),
        rule("r", SizeCondition("64MiB")),  # type: ignore[arg-type]
        rule("r", CustomCondition("nobody")),
        rule("r", "old"),  # type: ignore[arg-type]
        rule("r", AgeCondition(1), action=CompactAction(1.0)),
        rule("r", AgeCondition(1), action=SummarizeAction()),
        rule("r", AgeCondition(1), action="delete"),  # type: ignore[arg-type]
        rule("r"),
    ],
)
def test_rules_made_in_python_are_held_to_the_same(bad: PruningRule) -> None:
    with pytest.raises(PruningConfigError):
        manager([bad])

    pruner = manager([limit(1)])
    with pytest.raises(PruningConfigError):
        pruner.add_rule(bad)
    with pytest.raises(PruningConfigError):
        pruner.set_session_config("s", rules=[bad])
    assert pruner.get_config() == PruningConfig(rules=(limit(1),))


def test_a_function_that_is_registered_may_be_named() -> None:
    pruner = manager([])
    pruner.register_evaluator("old", lambda *_: True)

    pruner.add_rule(rule("r", CustomCondition("old")))

    assert pruner.get_config().rules[0].action == DeleteAction()


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "rules",
                    "id",
                    "type",
                    "conditions",
                    "action",
                    "sessions",
                    "max_age",
                    "budgets",
                    "x",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["rules", "sessions", "budgets", "max_share"]), _PLAIN))
def test_nothing_but_a_refusal_comes_of_garbage(tree: dict[str, Any]) -> None:
    with suppress(PruningConfigError):
        config = read_config(tree)
        assert read_config(plain_config(config)) == config
