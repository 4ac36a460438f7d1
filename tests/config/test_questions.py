"""Laws of how long a question may stay open: it must end before its turn does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gateway.config import GatewayConfig, changed_live, load, with_live
from gateway.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

ENDS = ": a question of agents.main.tools.ask would outlast its turn"


def tree(ask: list[str], **turns: float) -> dict[str, Any]:
    agent = {"kind": "scripted", "replies": ["a"], "tools": {"allow": ["*"], "ask": ask}}
    return {"agents": {"main": agent}, "turns": turns}


@pytest.mark.parametrize(
    ("turns", "problem"),
    [
        (
            {"turn_deadline_s": 60.0},
            f"turns.turn_deadline_s: is not above approval_timeout_s (120), accepted is more{ENDS}",
        ),
        (
            {"approval_timeout_s": 300.0},
            f"turns.approval_timeout_s: is not below turn_deadline_s (300), accepted is less{ENDS}",
        ),
        (
            {"approval_timeout_s": 7.5, "turn_deadline_s": 7},
            f"turns.approval_timeout_s: is not below turn_deadline_s (7), accepted is less{ENDS}",
        ),
    ],
)
def test_a_question_that_could_not_time_out_is_refused(
    turns: dict[str, float], problem: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        GatewayConfig.from_dict(tree(["files_*"], **turns))

    assert caught.value.problems == (problem,)
    assert GatewayConfig.from_dict(tree([], **turns)).turns.turn_deadline_s


def test_one_that_times_out_in_time_is_not() -> None:
    tree_ = tree(["files_*"], approval_timeout_s=59.9, turn_deadline_s=60.0)

    assert GatewayConfig.from_dict(tree_).turns.approval_timeout_s == 59.9


def test_it_is_told_by_its_line_beside_all_other_problems(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    path.write_text(
        "[turns]\nturn_deadline_s = 60\nmax_running = 0\n[agents.main]\nkind = 'scripted'\n"
        "replies = ['a']\ntools = { allow = ['a*', 'b'], ask = ['c'], deny = ['B', 'a', 'C'] }\n"
    )
    with pytest.raises(ConfigurationError) as caught:
        load(path, {}, {})

    lines = [one.replace(str(path), "g.toml") for one in caught.value.problems]
    assert lines[0].startswith("g.toml:2: turns.turn_deadline_s: is not above approval_timeout_s")
    assert lines[1].startswith("g.toml:3: turns.max_running: 0 is out of range")
    assert lines[2] == (
        "g.toml:7: agents.main.tools.allow[1]: stands in deny as well, which wins; "
        "accepted is one of the two"
    )


def test_a_wrong_type_is_told_as_that_alone() -> None:
    with pytest.raises(ConfigurationError) as caught:
        GatewayConfig.from_dict(tree(["x"], turn_deadline_s="soon"))  # type: ignore[arg-type]

    (problem,) = caught.value.problems
    assert problem.startswith('turns.turn_deadline_s: "soon" is a string')


def test_times_by_which_agents_that_still_run_could_not_time_out_wait_for_the_restart() -> None:
    """The new file has taken `ask` away, but its agent asks until the restart."""
    old = GatewayConfig.from_dict(tree(["x"]))
    new = GatewayConfig.from_dict(tree([], turn_deadline_s=60.0) | {"log": {"level": "debug"}})

    live, restart = changed_live(old, new)

    assert live == ("log.level",)
    assert "turns.turn_deadline_s" in restart
    assert with_live(old, new).turns == old.turns


def test_other_times_apply_at_once() -> None:
    old = GatewayConfig.from_dict(tree(["x"]))
    new = GatewayConfig.from_dict(tree(["x"], turn_deadline_s=900, approval_timeout_s=800))

    assert changed_live(old, new)[1] == ()
    assert with_live(old, new).turns == new.turns
