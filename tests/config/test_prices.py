"""A limit in dollars is refused where an agent's price is not known: it would be no limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gateway.config import GatewayConfig, changed_live, load, with_live
from gateway.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

AGENTS: dict[str, Any] = {
    "main": {"kind": "echo"},
    "script.ed": {"kind": "scripted", "replies": ["a"]},
    "gpt": {"kind": "openai", "model": "gpt-5-mini", "base_url": "http://127.0.0.1:1/v1"},
    "claude": {"kind": "anthropic", "model": "claude-x", "base_url": "http://127.0.0.1:1"},
}
BOTH = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 2.0}
RULE = (
    "is a limit in dollars, accepted is one where the first [[context.cache]] table that matches "
    "an agent has its prices, 0 where it costs nothing; there is no price for "
)
INPUT_AND_OUTPUT = "(input_usd_per_mtok, output_usd_per_mtok)"


def tree(limits: dict[str, float], *tables: dict[str, Any], **agents: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    return {
        "agents": agents or AGENTS,
        "budgets": limits,
        "context": {"cache": list(tables)},
    }


def problems(limits: dict[str, float], *tables: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        GatewayConfig.from_dict(tree(limits, *tables))
    return caught.value.problems


@pytest.mark.parametrize("limit", ["session_usd", "user_usd_per_day", "usd_per_day"])
def test_every_limit_in_dollars_needs_the_prices_of_every_agent(limit: str) -> None:
    [problem] = problems({limit: 0.01})

    assert problem == (
        f"budgets.{limit}: {RULE}agents.gpt {INPUT_AND_OUTPUT}, agents.claude {INPUT_AND_OUTPUT}"
    )


@pytest.mark.parametrize(
    ("tables", "missing"),
    [
        pytest.param(
            [{"agent": "gpt", **BOTH}], f"agents.claude {INPUT_AND_OUTPUT}", id="one-agent-only"
        ),
        pytest.param(
            [{"model": "gpt-*", "input_usd_per_mtok": 1.0}, BOTH],
            "agents.gpt (output_usd_per_mtok)",
            id="the-first-table-that-matches-counts",
        ),
    ],
)
def test_the_keys_that_are_missing_are_named(tables: list[dict[str, Any]], missing: str) -> None:
    assert problems({"session_usd": 1.0}, *tables) == (f"budgets.session_usd: {RULE}{missing}",)


def test_a_program_that_tells_what_it_used_needs_a_price_as_well() -> None:
    agents = {"main": {"kind": "command", "argv": ["/opt/helper/answer.py"]}}
    priced = {"model": "answer.py", **BOTH}
    with pytest.raises(ConfigurationError, match=r"no price for agents\.main \(input"):
        GatewayConfig.from_dict(tree({"usd_per_day": 1.0}, **agents))

    assert GatewayConfig.from_dict(tree({"usd_per_day": 1.0}, priced, **agents)).budgets.limits_day


@pytest.mark.parametrize(
    "accepted",
    [
        pytest.param(tree({"usd_per_day": 1.0}, BOTH), id="priced"),
        pytest.param(
            tree({"usd_per_day": 1.0}, {"input_usd_per_mtok": 0.0, "output_usd_per_mtok": 0.0}),
            id="free",
        ),
        pytest.param(tree({"usd_per_day": 0.0, "session_tokens": 5}), id="no-limit-in-dollars"),
        pytest.param(
            tree(
                {"session_usd": 1.0},
                main=AGENTS["main"],
                rehearsal={"kind": "scripted", "replies": ["a"]},
            ),
            id="agents-that-ask-nobody",
        ),
    ],
)
def test_a_limit_that_can_be_kept_is_taken(accepted: dict[str, Any]) -> None:
    config = GatewayConfig.from_dict(accepted)

    assert GatewayConfig.from_dict(config.to_dict()) == config


def test_the_line_of_the_limit_is_named_beside_all_other_problems(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    path.write_text(
        "[budgets]\nusd_per_day = 5.0\nsession_tokens = -1\n"
        "[agents.main]\nkind = 'openai'\nmodel = 'm'\nbase_url = 'http://127.0.0.1:1/v1'\n"
    )
    with pytest.raises(ConfigurationError) as caught:
        load(path, {}, {})

    limit, other = [one.replace(f"{path}", "g.toml") for one in caught.value.problems]
    assert limit == f"g.toml:2: budgets.usd_per_day: {RULE}agents.main {INPUT_AND_OUTPUT}"
    assert other.startswith("g.toml:3: budgets.session_tokens: -1 is out of range, accepted is ")


def test_a_price_of_output_alone_is_refused() -> None:
    [problem] = problems({}, {"output_usd_per_mtok": 1.0})

    assert problem.startswith("context.cache[0].output_usd_per_mtok: means nothing without input")


def test_limits_and_prices_apply_at_once() -> None:
    old = GatewayConfig.from_dict(tree({}))
    new = GatewayConfig.from_dict(tree({"usd_per_day": 1.0}, BOTH))

    assert changed_live(old, new) == (("context.cache", "budgets.usd_per_day"), ())
    assert with_live(old, new).budgets == new.budgets


def test_a_limit_that_an_agent_that_still_runs_would_pass_waits_for_the_restart() -> None:
    """The new file has taken away the agent without a price, but it runs until the restart."""
    old = GatewayConfig.from_dict(tree({}))
    left = {name: AGENTS[name] for name in ("main", "claude")}
    new = GatewayConfig.from_dict(
        tree({"usd_per_day": 1.0}, {"agent": "claude", **BOTH}, **left)
        | {"log": {"level": "debug"}}
    )

    live, restart = changed_live(old, new)

    assert live == ("log.level",)
    assert {"context.cache", "budgets.usd_per_day", "agents.gpt.model"} <= set(restart)
    assert with_live(old, new).budgets == old.budgets
