"""`[pruning]` in a file: every mistake has its line, and what is right stays as it was written."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tomli_w
from hypothesis import given

from gateway.config import GatewayConfig, changed_live, load, render_default_file, with_live
from gateway.errors import ConfigurationError
from gateway.pruning import RuleScope
from tests.config.test_default_file import examples_uncommented
from tests.config.values import SESSION, trees

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.retention.settings import ItemPruningSettings

SHIPPED = Path(__file__).parents[2] / "config" / "gateway.toml"
DURATIONS = "accepted is a duration such as 90s, 5m, 12h, 30d, 8w or 1h30m, at most 36525d"
KEY = "agent:<agent>:<platform>:<account>:<chat_type>:<chat>:<thread>:<user>"
RULE = "[[pruning.rules]]\nid = 'r'\naction = { type = 'delete' }\n"
TABLES = """\
[pruning]
grace = "36h"
archive_keep = "forever"
[pruning.protections]
min_age = "1h30m"
[[pruning.rules]]
id = "old"
action = { type = "archive" }
[[pruning.rules.conditions]]
type = "age"
max_age = "8w"
[[pruning.rules.conditions]]
type = "size"
max_size_bytes = 5
[pruning.sessions."agent:main:telegram::dm:12345::"]
exempt = true
[pruning.sessions."agent:main:telegram::dm:12345::".thresholds]
max_total_size = "64MiB"
"""


def load_text(
    tmp_path: Path, text: str, environ: Mapping[str, str] | None = None
) -> ItemPruningSettings:
    path = tmp_path / "g.toml"
    path.write_text(text)
    return load(path, environ or {}, {}).config.pruning


def problems_of(
    tmp_path: Path, text: str, environ: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Return what is refused, the directory of the file left out."""
    with pytest.raises(ConfigurationError) as caught:
        load_text(tmp_path, text, environ)
    return tuple(line.replace(f"{tmp_path}/", "") for line in caught.value.problems)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(
            "[pruning]\ngrace = 7",
            f"g.toml:2: pruning.grace: 7 is a whole number, {DURATIONS}",
            id="number-for-a-duration",
        ),
        pytest.param(
            "[pruning]\ncheck_interval = '5 mins'",
            f'g.toml:2: pruning.check_interval: "5 mins" is no duration, {DURATIONS}',
            id="no-duration",
        ),
        pytest.param(
            "[pruning]\naudit_keep = 'always'",
            f'g.toml:2: pruning.audit_keep: "always" is no duration, {DURATIONS}, or forever',
            id="no-time-to-keep",
        ),
        pytest.param(
            "[pruning]\naudit_keep = 365",
            f"g.toml:2: pruning.audit_keep: 365 is a whole number, {DURATIONS}, or forever",
            id="number-for-a-time-to-keep",
        ),
        pytest.param(
            "[pruning]\ngrace_s = 7",
            "g.toml:2: pruning.grace_s: unknown key, did you mean grace?",
            id="key-with-a-unit",
        ),
        pytest.param(
            "[pruning]\nmax_share = 50",
            "g.toml:2: pruning.max_share: 50 is out of range, "
            "accepted is a number above 0, at most 1",
            id="share-in-percent",
        ),
        pytest.param(
            "[pruning.protections]\nkeep_newst = 5",
            "g.toml:2: pruning.protections.keep_newst: unknown key, did you mean keep_newest?",
            id="misspelt-protection",
        ),
        pytest.param(
            "[pruning.budgets]\nmax_size = '1 giga'",
            'g.toml:2: pruning.budgets.max_size: "1 giga" is no size, '
            "accepted is a size such as 500B, 100kB, 10MB, 64MiB or 2GiB",
            id="no-size",
        ),
        pytest.param(
            "[pruning.rules]\nid = 'r'",
            "g.toml:1: pruning.rules: is a table, accepted is a list of tables",
            id="table-for-a-list-of-rules",
        ),
        pytest.param(
            f"[pruning]\nrules = [{'{}, ' * 1_001}]",
            "g.toml:2: pruning.rules: has 1001 tables, accepted are at most 1000",
            id="too-many-rules",
        ),
        pytest.param(
            "[[pruning.rule]]\nid = 'r'",
            "g.toml:1: pruning.rule: unknown key, did you mean rules?",
            id="misspelt-rules",
        ),
        pytest.param(
            RULE,
            "g.toml:1: pruning.rules[0].conditions: has no conditions, "
            "accepted is at least one; match_all = true takes every item",
            id="rule-without-conditions",
        ),
        pytest.param(
            f"{RULE}conditions = []",
            "g.toml:4: pruning.rules[0].conditions: has no conditions, "
            "accepted is at least one; match_all = true takes every item",
            id="rule-with-empty-conditions",
        ),
        pytest.param(
            f"{RULE}match_all = true\npriorty = 5",
            "g.toml:5: pruning.rules[0].priorty: unknown key, did you mean priority?",
            id="misspelt-key-of-a-rule",
        ),
        pytest.param(
            f"{RULE}match_all = true\nscope = 'everything'",
            'g.toml:5: pruning.rules[0].scope: "everything" is unknown, accepted are session, all',
            id="unknown-scope",
        ),
        pytest.param(
            f"{RULE}match_all = true\n[[pruning.rules]]\nid = 's'\nmatch_all = true\n"
            "action = { type = 'delete' }\nenabled = 'yes'",
            'g.toml:9: pruning.rules[1].enabled: "yes" is no truth value, '
            "accepted is true or false",
            id="string-for-a-truth-value",
        ),
        pytest.param(
            f"{RULE}conditions = [\n{{ type = 'count', max_count = 1 }},\n{{ type = 'old' }}]",
            'g.toml:4: pruning.rules[0].conditions[1].type: "old" is unknown, accepted are age, '
            "size, tokens, type, count, total_tokens, total_size",
            id="unknown-condition-in-a-list",
        ),
        pytest.param(
            f"{RULE}[[pruning.rules.conditions]]\ntype = 'count'\nmax_count = 1\n"
            "[[pruning.rules.conditions]]\ntype = 'age'\nmax_age = '30x'",
            f'g.toml:9: pruning.rules[0].conditions[1].max_age: "30x" is no duration, {DURATIONS}',
            id="no-duration-in-a-condition-that-is-a-table",
        ),
        pytest.param(
            f"{RULE}[[pruning.rules.conditions]]\ntype = 'tokens'\nmax_tokns = 1\nmax_tokens = 2",
            "g.toml:6: pruning.rules[0].conditions[0].max_tokns: unknown key, "
            "did you mean max_tokens?",
            id="misspelt-key-of-a-condition",
        ),
        pytest.param(
            f"{RULE}[[pruning.rules.conditions]]\ntype = 'tokens'",
            "g.toml:4: pruning.rules[0].conditions[0].max_tokens: is missing, "
            "accepted is a whole number from 0",
            id="missing-key-of-a-condition",
        ),
        pytest.param(
            f"{RULE}conditions = [{{ type = 'type', exclude = ['file'] }}]",
            "g.toml:4: pruning.rules[0].conditions[0].exclude: "
            '"file" is a type that is not stored here, accepted are message, tool_result',
            id="type-that-is-not-stored",
        ),
        pytest.param(
            f"{RULE}conditions = [{{ type = 'custom', function = 'f' }}]",
            'g.toml:4: pruning.rules[0].conditions[0].function: "f" is no registered function, '
            "accepted are none, for none is registered",
            id="function",
        ),
        pytest.param(
            "[[pruning.rules]]\nid = 'r'\nmatch_all = true\n[pruning.rules.action]\ntype = 'shred'",
            'g.toml:5: pruning.rules[0].action.type: "shred" is unknown, '
            "accepted are delete, archive, summarize and compact",
            id="unknown-action",
        ),
        pytest.param(
            "[[pruning.rules]]\nid = 'r'\nmatch_all = true",
            "g.toml:1: pruning.rules[0].action.type: is missing, "
            "accepted are delete, archive, summarize and compact",
            id="missing-action",
        ),
        pytest.param(
            "[pruning.sessions.telegram]\nexempt = true",
            "g.toml:1: pruning.sessions.telegram: is not a session key; accepted is "
            f"{KEY}, the chat type one of dm, group, channel, thread",
            id="no-session-key",
        ),
        pytest.param(
            f"[pruning.sessions.'{SESSION}']\nexemt = true",
            f'g.toml:2: pruning.sessions."{SESSION}".exemt: unknown key, did you mean exempt?',
            id="misspelt-key-of-a-session",
        ),
        pytest.param(
            f"[pruning.sessions.'{SESSION}'.thresholds]\nmax_age = 3",
            f'g.toml:2: pruning.sessions."{SESSION}".thresholds.max_age: 3 is a whole number, '
            f"{DURATIONS}",
            id="number-for-a-threshold",
        ),
        pytest.param(
            f"[[pruning.sessions.'{SESSION}'.rules]]\nid = 'r'\nmatch_all = true\n"
            "action = { type = 'compact', ratio = 1.5 }",
            f'g.toml:4: pruning.sessions."{SESSION}".rules[0].action.ratio: 1.5 is of no use, '
            "accepted is a number above 0 and below 1",
            id="ratio-in-a-rule-of-a-session",
        ),
    ],
)
def test_a_mistake_gets_this_line(tmp_path: Path, text: str, problem: str) -> None:
    assert problems_of(tmp_path, text) == (problem,)


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = (
        "[http]\nport = 'x'\n"
        "[pruning]\ngrace = 'soon'\n"
        f"{RULE}colour = 1\n"
        f"{RULE}conditions = [{{ type = 'age', max_age = 1 }}]\n"
        "[pruning.sessions.x]\nexempt = 1\n"
        "[log]\nlevel = 'loud'\n"
    )
    problems = problems_of(tmp_path, text, {"GATEWAY_PRUNING__MAX_SHARE": "all"})

    assert [line.partition(": ")[0] for line in problems] == [
        *("g.toml:2", "g.toml:4", "g.toml:5", "g.toml:6", "g.toml:8", "g.toml:10", "g.toml:12"),
        *("g.toml:13", "g.toml:14", "g.toml:16", "environment GATEWAY_PRUNING__MAX_SHARE"),
    ]
    assert [line.split(": ")[1] for line in problems] == [
        "http.port",
        "pruning.grace",
        "pruning.rules[0].conditions",
        "pruning.rules[0].id",
        "pruning.rules[0].colour",
        "pruning.rules[1].id",
        "pruning.rules[1].conditions[0].max_age",
        "pruning.sessions.x",
        "pruning.sessions.x.exempt",
        "log.level",
        "pruning.max_share",
    ]


def test_the_environment_sets_keys_and_whole_lists_of_rules(tmp_path: Path) -> None:
    settings = load_text(
        tmp_path,
        TABLES,
        {
            "GATEWAY_PRUNING__ENABLED": "false",
            "GATEWAY_PRUNING__GRACE": "1w",
            "GATEWAY_PRUNING__PROTECTIONS__KEEP_NEWEST": "3",
            "GATEWAY_PRUNING__RULES": '[{"id": "e", "match_all": true, '
            '"action": {"type": "summarize", "target_tokens": null}}]',
        },
    )

    assert not settings.enabled
    assert (settings.grace, settings.keep.grace_s) == ("1w", 604_800)
    assert (settings.protections.keep_newest, settings.protections.min_age) == (3, "1h30m")
    assert settings.rules == [{"id": "e", "match_all": True, "action": {"type": "summarize"}}]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("GATEWAY_PRUNING__GRACE", "7", f'pruning.grace: "7" is no duration, {DURATIONS}'),
        (
            "GATEWAY_PRUNING__RULES",
            '[{"id": "old", "match_all": true, "action": {"type": "delete"}, "enabled": 1}]',
            "pruning.rules[0].enabled: 1 is no truth value, accepted is true or false",
        ),
        (
            "GATEWAY_PRUNING__RULES",
            "old",
            'pruning.rules: "old" is a string, accepted is a list of tables',
        ),
        (
            "GATEWAY_PRUNING__GRAZE",
            "7d",
            "pruning.graze: unknown variable, did you mean GATEWAY_PRUNING__GRACE?",
        ),
    ],
)
def test_a_mistake_in_the_environment_is_told_from_there(
    tmp_path: Path, name: str, text: str, problem: str
) -> None:
    # Also where the file says something else at that place.
    assert problems_of(tmp_path, TABLES, {name: text}) == (f"environment {name}: {problem}",)


def test_what_is_written_is_shown_as_it_was_written(tmp_path: Path) -> None:
    settings = load_text(tmp_path, TABLES)
    shown = GatewayConfig(pruning=settings).to_dict()["pruning"]
    given = tomllib.loads(TABLES)["pruning"]

    assert shown["rules"] == given["rules"]
    assert shown["grace"] == "36h"
    assert shown["archive_keep"] == "forever"
    assert shown["protections"]["min_age"] == "1h30m"
    assert shown["sessions"] == {SESSION: {**given["sessions"][SESSION], "rules": []}}
    assert load_text(tmp_path, tomli_w.dumps({"pruning": shown})) == settings


@given(trees())
def test_every_configuration_makes_rules(tree: dict[str, Any]) -> None:
    settings = GatewayConfig.from_dict(tree).pruning
    config = settings.to_config({SESSION: ["s1", "s2"]})

    assert [rule.id for rule in config.rules] == [rule["id"] for rule in settings.rules]
    assert set(config.session_configs) == ({"s1", "s2"} if settings.sessions else set())


def change(text: str) -> GatewayConfig:
    return GatewayConfig.from_dict(tomllib.loads(text))


def test_all_of_it_applies_to_a_running_daemon() -> None:
    old, new = GatewayConfig(), change(TABLES)
    live, restart = changed_live(old, new)

    assert restart == ()
    assert set(live) == {
        "pruning.grace",
        "pruning.archive_keep",
        "pruning.protections.min_age",
        "pruning.rules",
        f'pruning.sessions."{SESSION}".exempt',
        f'pruning.sessions."{SESSION}".rules',
        f'pruning.sessions."{SESSION}".thresholds.max_total_size',
    }
    assert with_live(old, new) == new
    assert with_live(new, old) == old


def test_no_rules_are_shipped(tmp_path: Path) -> None:
    for text in (SHIPPED.read_text(), render_default_file()):
        settings = load_text(tmp_path, text)

        assert settings.rules == []
        assert settings.sessions == {}
        assert settings == GatewayConfig().pruning


def test_the_examples_of_the_shipped_file_are_rules_that_do_what_they_say(tmp_path: Path) -> None:
    settings = load_text(tmp_path, examples_uncommented(SHIPPED.read_text()))
    config = settings.to_config({SESSION: ["s"]})
    rules = {rule.id: rule for rule in config.rules}

    assert list(rules) == [
        "old-tool-results",
        "long-conversations",
        "long-tool-results",
        "all-together",
    ]
    assert [type(one).__name__ for one in rules["long-tool-results"].conditions] == [
        "TypeCondition",
        "SizeCondition",
        "AgeCondition",
    ]
    assert rules["all-together"].scope is RuleScope.ALL
    assert settings.budgets.max_size == "1GiB"
    of_session = config.session_configs["s"]
    assert [rule.id for rule in of_session.rules] == ["long-conversations"]
    thresholds = of_session.thresholds
    assert None not in {getattr(thresholds, name) for name in type(thresholds).__slots__}
