"""Settings of the context that contradict each other are refused, with their place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.config import load
from gateway.context.settings import ContextSettings, PruningMode
from gateway.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "g.toml"
    path.write_text(text)
    return path


def _problems(path: Path) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(path, {}, {})
    return [problem.replace(f"{path.parent}/", "") for problem in caught.value.problems]


def test_the_defaults_are_those_that_are_documented() -> None:
    pruning = ContextSettings().pruning

    assert pruning.mode is PruningMode.CACHE_TTL
    assert (pruning.ttl_s, pruning.keep_last_assistants) == (300, 3)
    assert (pruning.soft_trim_ratio, pruning.hard_clear_ratio) == (0.3, 0.5)
    assert pruning.min_prunable_tool_chars == 50_000
    trim = pruning.soft_trim
    assert (trim.max_chars, trim.head_chars, trim.tail_chars) == (4_000, 1_500, 1_500)
    assert pruning.hard_clear.enabled
    assert pruning.hard_clear.placeholder == "[Old tool result content cleared]"
    assert (pruning.tools.allow, pruning.tools.deny, ContextSettings().cache) == ([], [], [])
    compaction = ContextSettings().compaction
    assert compaction.enabled
    assert (compaction.keep_turns, compaction.summary_chars) == (3, 8_000)
    assert compaction.fill_ratio == 0.5


def test_every_key_is_read(tmp_path: Path) -> None:
    text = """
[context.pruning]
mode = "always"
ttl_s = 60
keep_last_assistants = 0
soft_trim_ratio = 0
hard_clear_ratio = 0.25
min_prunable_tool_chars = 0
force_ratio = 0.25
min_saving_tokens = 0
soft_trim = { max_chars = 10, head_chars = 5, tail_chars = 5 }
hard_clear = { enabled = false, placeholder = "[gone]" }
tools = { allow = ["a*"], deny = ["ab"] }
[context.compaction]
enabled = false
keep_turns = 0
summary_chars = 500
fill_ratio = 0.9
[[context.cache]]
agent = "main"
model = "m-*"
ttl_s = 3600
write_multiplier = 2
write_1h_multiplier = 3
read_multiplier = 0.5
min_tokens = 4096
input_usd_per_mtok = 3
output_usd_per_mtok = 15
[[context.cache]]
"""
    context = load(_file(tmp_path, text), {}, {}).config.context

    assert context.pruning.model_dump() == {
        "mode": PruningMode.ALWAYS,
        "ttl_s": 60,
        "keep_last_assistants": 0,
        "soft_trim_ratio": 0,
        "hard_clear_ratio": 0.25,
        "min_prunable_tool_chars": 0,
        "force_ratio": 0.25,
        "min_saving_tokens": 0,
        "soft_trim": {"max_chars": 10, "head_chars": 5, "tail_chars": 5},
        "hard_clear": {"enabled": False, "placeholder": "[gone]"},
        "tools": {"allow": ["a*"], "deny": ["ab"]},
    }
    assert context.compaction.model_dump() == {
        "enabled": False,
        "keep_turns": 0,
        "summary_chars": 500,
        "fill_ratio": 0.9,
    }
    assert context.cache[0].model_dump() == {
        "agent": "main",
        "model": "m-*",
        "ttl_s": 3600,
        "write_multiplier": 2,
        "write_1h_multiplier": 3,
        "read_multiplier": 0.5,
        "min_tokens": 4096,
        "input_usd_per_mtok": 3,
        "output_usd_per_mtok": 15,
    }
    assert context.cache[1].ttl_s is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(
            "[context.pruning]\nsoft_trim_ratio = 0.6",
            "g.toml:2: context.pruning.soft_trim_ratio: 0.6 is above hard_clear_ratio (0.5); "
            "accepted is at most that, for results are trimmed before they are cleared",
            id="soft-above-hard",
        ),
        pytest.param(
            "[context.pruning]\nhard_clear_ratio = 0.2",
            "g.toml:1: context.pruning.soft_trim_ratio: 0.3 is above hard_clear_ratio (0.2); "
            "accepted is at most that, for results are trimmed before they are cleared",
            id="hard-below-the-default-of-soft",
        ),
        pytest.param(
            "[context.pruning]\nmode = 'off'\nforce_ratio = 0.4",
            "g.toml:3: context.pruning.force_ratio: 0.4 is below hard_clear_ratio (0.5); "
            "accepted is at least that, else every request would break the cache",
            id="force-below-hard",
        ),
        pytest.param(
            "[context.pruning.soft_trim]\nmax_chars = 5000\nhead_chars = 3000\ntail_chars = 2001",
            "g.toml:3: context.pruning.soft_trim.head_chars: head_chars and tail_chars are 5001 "
            "together; accepted is at most max_chars, 5000",
            id="ends-longer-than-the-whole",
        ),
        pytest.param(
            "[context.pruning.soft_trim]\nmax_chars = 2000",
            "g.toml:1: context.pruning.soft_trim.head_chars: head_chars and tail_chars are 3000 "
            "together; accepted is at most max_chars, 2000",
            id="the-whole-shorter-than-the-default-of-the-ends",
        ),
        pytest.param(
            "[context.pruning]\nttl_s = '5m'",
            'g.toml:2: context.pruning.ttl_s: "5m" is a string, '
            "accepted is a number above 0, at most 2592000",
            id="a-text-for-a-time",
        ),
        pytest.param(
            "[context.pruning]\nttl_s = inf",
            "g.toml:2: context.pruning.ttl_s: inf is out of range, "
            "accepted is a number above 0, at most 2592000",
            id="an-endless-time",
        ),
        pytest.param(
            "[context.pruning]\nsoft_trim_ratio = nan",
            "g.toml:2: context.pruning.soft_trim_ratio: nan is out of range, "
            "accepted is a number from 0 to 1",
            id="no-number",
        ),
        pytest.param(
            "[context.pruning]\nmode = 'ttl'",
            'g.toml:2: context.pruning.mode: "ttl" is unknown, '
            "accepted is off, cache-ttl or always",
            id="unknown-mode",
        ),
        pytest.param(
            "[context.pruning.hard_clear]\nplaceholder = ' '",
            "g.toml:2: context.pruning.hard_clear.placeholder: "
            "is blank, accepted is a text with a visible character",
            id="blank-placeholder",
        ),
        pytest.param(
            "[context.compaction]\nfill_ratio = 0.05",
            "g.toml:2: context.compaction.fill_ratio: 0.05 is out of range, "
            "accepted is a number from 0.1 to 0.9",
            id="a-fill-that-keeps-nothing",
        ),
        pytest.param(
            "[context.compaction]\nfill_ratio = 1",
            "g.toml:2: context.compaction.fill_ratio: 1 is out of range, "
            "accepted is a number from 0.1 to 0.9",
            id="a-fill-that-is-full-again-at-once",
        ),
        pytest.param(
            "[context.compaction]\nsummary_chars = 499",
            "g.toml:2: context.compaction.summary_chars: 499 is out of range, "
            "accepted is a whole number from 500 to 100000",
            id="a-summary-too-short-to-say-much",
        ),
        pytest.param(
            "[context.compaction]\nkeep_turns = -1",
            "g.toml:2: context.compaction.keep_turns: -1 is out of range, "
            "accepted is a whole number from 0 to 1000",
            id="fewer-turns-than-none",
        ),
        pytest.param(
            "[context.pruning.tools]\ndeny = ['a', '']",
            'g.toml:2: context.pruning.tools.deny[1]: "" cannot be used, '
            "accepted is a string of at least 1 character",
            id="empty-pattern",
        ),
        pytest.param(
            "[[context.cache]]\nmodel = 'a'\n[[context.cache]]\nread_multiplier = -1",
            "g.toml:4: context.cache[1].read_multiplier: -1 is out of range, "
            "accepted is a number from 0 to 100",
            id="second-table",
        ),
        pytest.param(
            "[[context.cache]]\nttl = 5",
            "g.toml:2: context.cache[0].ttl: unknown key, did you mean ttl_s?",
            id="misspelt",
        ),
    ],
)
def test_values_that_contradict_get_this_line(tmp_path: Path, text: str, problem: str) -> None:
    assert _problems(_file(tmp_path, text)) == [problem]
