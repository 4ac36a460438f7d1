"""`gateway prune`, beside a daemon and on a directory that none runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
import tomli_w

from tests.cli.processes import gateway, running_gateway, terminal
from tests.support.state import open_state
from tests.support.stored_items import ANN, BOB, NO_PROTECTIONS, OLD_GO, said

if TYPE_CHECKING:
    from pathlib import Path

RULES: Final[dict[str, Any]] = {
    "rules": [OLD_GO],
    "protections": NO_PROTECTIONS | {"keep_newest": 1},
    "max_share": 0.5,
}
"""Of three old items all but the newest are taken, which is more than half of them."""


async def with_items(path: Path) -> Path:
    """Make a state directory with three old items of one session."""
    async with open_state(path) as state:
        await said(state.database, 3)
    return path


def configured(tmp_path: Path, **more: object) -> tuple[str | Path, ...]:
    """Return the options of a configuration with rules, and of the state directory."""
    file = tmp_path / "rules.toml"
    file.write_text(tomli_w.dumps({"pruning": RULES | more}))
    return ("--config", file, "--state-dir", tmp_path / "state")


async def test_without_a_daemon_a_plan_is_shown_carried_out_and_taken_back(tmp_path: Path) -> None:
    await with_items(tmp_path / "state")
    where = configured(tmp_path)

    plan = gateway("prune", "plan", "--items", *where)
    refused = gateway("prune", "apply", "--yes", *where)
    done = gateway("prune", "apply", "--yes", "--confirmed", *where)
    again = gateway("prune", "apply", "--yes", *where)
    runs = gateway("prune", "history", *where)
    items = gateway("prune", "history", "--run", done.document["id"], *where)
    back = gateway("prune", "restore", "1", *where)
    twice = gateway("prune", "restore", "--session", ANN, *where)
    named = gateway("prune", "restore", "1", *where)

    assert [one["item_id"] for one in plan.document["items"]] == ["000000000001", "000000000002"]
    assert "more than max_share" in plan.document["breaker"]
    assert (refused.status, refused.document["status"]) == (1, "refused")
    assert (done.status, done.document["stats"]["pruned_count"]) == (0, 2)
    assert (again.status, again.document["pruned_items"]) == (0, [])
    assert [one["status"] for one in runs.document["runs"]] == ["ok", "refused"]
    assert {one["state"] for one in items.document["items"]} == {"held"}
    assert (back.status, back.document["restored_count"]) == (0, 1)
    # What came back before is refused only where it is named.
    assert (twice.status, twice.document["restored_count"]) == (0, 1)
    assert twice.document["refused"] == []
    assert (named.status, named.document["restored_count"]) == (1, 0)
    assert [one["item_id"] for one in named.document["refused"]] == ["000000000001"]


async def test_beside_a_daemon_it_is_the_same(tmp_path: Path) -> None:
    state = await with_items(tmp_path / "state")

    # The daemon's own run is refused: it would take too much.
    with running_gateway(state, config=tomli_w.dumps({"pruning": RULES})):
        plan = gateway("prune", "plan", "--state-dir", state)
        done = gateway("prune", "apply", "--yes", "--confirmed", "--state-dir", state)
        why = gateway("prune", "explain", "3", "--state-dir", state)
        no_run = gateway("prune", "history", "--run", "nothing", "--state-dir", state)
        back = gateway("prune", "restore", "--run", done.document["id"], "--state-dir", state)
        text = gateway("status", "--state-dir", state).stdout

    assert (plan.document["planned_count"], plan.document["items"]) == (2, [])
    assert (done.status, done.document["by_rule"][0]["count"]) == (0, 2)
    assert why.document["item_id"] == "000000000003"
    assert (no_run.status, no_run.problem["detail"]) == (1, "there is no run 'nothing'")
    assert (back.status, back.document["restored_count"]) == (0, 2)
    assert "pruning.items" in text


async def test_at_a_terminal_the_plan_is_shown_and_asked_about(tmp_path: Path) -> None:
    await with_items(tmp_path / "state")
    where = configured(tmp_path)

    with terminal("prune", "apply", *where) as screen:
        shown = screen.wait_for("[y/N]: ")
        screen.type("n\n")
        screen.wait_for("nothing was changed")
        said_no = screen.end()
    with terminal("prune", "apply", *where) as screen:
        screen.wait_for("[y/N]: ")
        screen.type("y\n")
        told = screen.wait_for("give it back with: gateway prune restore --run ")
        said_yes = screen.end()

    assert "looked at 3 items, 300B, 75 tokens" in shown
    assert "Old ones go" in shown
    assert "more than max_share (50%)" in shown
    assert "Prune 2 items?" in shown
    assert (said_no, said_yes) == (1, 0)
    assert "2/2 items" in told, "the bar"
    assert "200B" in told


async def test_ctrl_c_is_no(tmp_path: Path) -> None:
    await with_items(tmp_path / "state")

    with terminal("prune", "apply", *configured(tmp_path)) as screen:
        screen.wait_for("[y/N]: ")
        screen.interrupt()
        screen.wait_for("nothing was changed")
        status = screen.end()
    plan = gateway("prune", "plan", *configured(tmp_path))

    assert (status, plan.document["planned_count"]) == (1, 2)


async def test_nothing_that_is_due_is_not_asked_about(tmp_path: Path) -> None:
    await with_items(tmp_path / "state")

    never = [RULES["rules"][0] | {"conditions": [{"type": "age", "max_age": "36525d"}]}]
    with terminal("prune", "apply", *configured(tmp_path, rules=never)) as screen:
        screen.wait_for("nothing is due")
        status = screen.end()
    with terminal("prune", "apply", *configured(tmp_path, rules=[])) as screen:
        screen.wait_for("there are no rules")
        without = screen.end()

    assert (status, without) == (0, 0)


async def test_where_pruning_is_switched_off_nobody_is_asked(tmp_path: Path) -> None:
    await with_items(tmp_path / "state")

    with terminal("prune", "apply", *configured(tmp_path, enabled=False)) as screen:
        shown = screen.wait_for("nothing was changed")
        status = screen.end()

    assert "Old ones go" in shown
    assert "pruning is switched off" in shown
    assert "[y/N]" not in shown
    assert status == 1


async def test_an_item_is_explained_to_people(tmp_path: Path) -> None:
    await with_items(tmp_path / "state")
    protections = NO_PROTECTIONS | {"keep_newest": 2}

    with terminal(
        "prune", "explain", "1", *configured(tmp_path, protections=protections)
    ) as screen:
        goes = screen.wait_for("why")
        screen.end()
    with terminal(
        "prune", "explain", "2", *configured(tmp_path, protections=protections)
    ) as screen:
        stays = screen.wait_for("why")
        screen.end()

    assert "taken by     old" in goes
    assert "old  delete, priority 0: takes it" in goes
    assert "holds" in goes
    assert " > 30d" in goes
    assert "taken by     no rule now" in stays
    assert "protected by  newest" in stays


async def test_plan_and_history_are_tables_at_a_terminal(tmp_path: Path) -> None:
    await with_items(tmp_path / "state")
    where = configured(tmp_path)
    gateway("prune", "apply", "--yes", "--confirmed", *where)

    with terminal("prune", "history", *where) as screen:
        runs = screen.wait_for("200B")
        screen.end()
    with terminal("prune", "history", "--item", "1", *where) as screen:
        items = screen.wait_for("held")
        screen.end()
    with terminal("prune", "restore", "1", "2", *where) as screen:
        back = screen.wait_for("2 items given back")
        screen.end()
    with terminal("prune", "restore", "1", *where) as screen:
        refused = screen.wait_for("NOT GIVEN BACK")
        status = screen.end()

    assert "CAUSE" in runs
    assert "delete" in items
    assert "2 items given back" in back
    assert "0 items given back" in refused
    assert status == 1


@pytest.mark.parametrize(
    ("arguments", "said_of_it"),
    [
        pytest.param(("apply",), "needs --yes where nobody can be asked", id="nobody-to-ask"),
        pytest.param(("apply", "--json"), "needs --yes where nobody can be asked", id="json"),
        pytest.param(("restore",), "accepted is one of: ITEM", id="nothing-to-restore"),
        pytest.param(("restore", "1", "--run", "r"), "accepted is one of: ITEM", id="two-things"),
        pytest.param(("explain",), "Missing argument 'ITEM'", id="no-item"),
        pytest.param(("history", "--limit", "0"), "greater than or equal to 1", id="limit"),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_opened(
    tmp_path: Path, arguments: tuple[str, ...], said_of_it: str
) -> None:
    outcome = gateway("prune", *arguments, "--state-dir", tmp_path / "no")

    assert outcome.status == 2
    assert said_of_it in " ".join(outcome.stderr.split())
    assert not (tmp_path / "no").exists()


async def test_errors_are_problem_objects_where_a_program_reads(tmp_path: Path) -> None:
    await with_items(tmp_path / "state")
    where = configured(tmp_path)

    missing = gateway("prune", "explain", "99", *where)
    no_id = gateway("prune", "history", "--item", "it", *where)
    nobody = gateway("prune", "plan", "--session", BOB, *where)
    no_run = gateway("prune", "history", "--run", "nothing", *where)

    outcomes = (missing, no_id, nobody, no_run)
    assert [one.status for one in outcomes] == [1, 1, 1, 1]
    assert [one.problem["status"] for one in outcomes] == [404, 400, 404, 404]
    assert no_run.problem["detail"] == "there is no run 'nothing'"
    assert (missing.stdout, no_run.stdout) == ("", "")


async def test_a_bad_rule_is_told_with_its_place(tmp_path: Path) -> None:
    await with_items(tmp_path / "state")

    outcome = gateway("prune", "plan", *configured(tmp_path, rules=[OLD_GO | {"condition": []}]))

    assert outcome.status == 78
    assert [text.split(":")[0] for text in outcome.problem["problems"]] == [
        str(tmp_path / "rules.toml")
    ]
