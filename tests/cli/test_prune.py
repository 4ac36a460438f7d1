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


async def test_with_yes_the_plan_is_shown_and_nobody_is_asked(tmp_path: Path) -> None:
    await with_items(tmp_path / "state")
    where = configured(tmp_path)

    with terminal("prune", "apply", "--yes", *where) as screen:
        refused, refused_status = screen.rest(), screen.end()
    with terminal("prune", "apply", "--yes", "--confirmed", *where) as screen:
        before = screen.wait_for("pruning ")
        done, status = screen.rest(), screen.end()
    with terminal("prune", "apply", "--yes", *where) as screen:
        again, again_status = screen.rest(), screen.end()

    assert "Old ones go" in before
    assert "[y/N]" not in before + done
    assert done.count("old") == 0, "the same sums are not shown twice"
    assert "2 items pruned, 200B freed" in done
    assert "0/2 items" in refused, "a refused run gets nowhere"
    assert "2/2 items" not in refused
    assert "refused: the rules would take 2 of 3 items, more than max_share (50%)" in refused
    assert "nothing is due" in again
    assert (refused_status, status, again_status) == (1, 0, 0)


async def test_rules_of_other_sessions_are_not_explained_to_people(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        await said(state.database, 3)
        await said(state.database, 2, BOB)
    where = configured(tmp_path, sessions={BOB: {"rules": [OLD_GO | {"id": "bobs"}]}})

    with terminal("prune", "explain", "1", *where) as screen:
        of_ann = screen.rest()
    with terminal("prune", "explain", "4", *where) as screen:
        of_bob = screen.rest()
    told = gateway("prune", "explain", "1", *where).document

    assert "bobs  " not in of_ann
    assert "bobs  delete" in of_bob
    assert {one["rule_id"]: one["counts"] for one in told["rules"]} == {"old": True, "bobs": False}


@pytest.mark.parametrize("columns", [80, 120])
async def test_tables_fit_the_terminal(tmp_path: Path, columns: int) -> None:
    async with open_state(tmp_path / "state") as state:
        await said(state.database, 30)
    long = OLD_GO | {
        "id": "whatever-is-older-than-a-month-and-larger-than-anybody-needs",
        "name": "Whatever is older than a month and larger than anybody needs goes away",
        "conditions": [
            {"type": "age", "max_age": "30d"},
            {"type": "size", "max_size": "50B"},
            {"type": "total_size", "max_total_size": "2kB"},
        ],
    }
    where = configured(tmp_path, rules=[long], max_share=0.3)
    gateway("prune", "apply", "--yes", *where)
    run = gateway("prune", "apply", "--yes", "--confirmed", *where).document["id"]

    shown = {}
    for name, arguments in {
        "plan": ("plan", "--items"),
        "runs": ("history",),
        "of run": ("history", "--run", run[:8]),
        "of item": ("history", "--item", "1"),
        "back": ("restore", "--run", run[:6]),
        "plan again": ("plan", "--items"),
    }.items():
        with terminal("prune", *arguments, *where, columns=columns) as screen:
            shown[name] = screen.rest()

    lines = (line for text in shown.values() for line in text.splitlines())
    tables = [line for line in lines if not line.startswith("more than a run may do")]
    assert [line for line in tables if len(line) > columns] == []
    [began] = [line for line in shown["runs"].splitlines() if run[:8] in line]
    assert "apply" in began
    assert "ok" in began
    assert "10" in began
    assert run not in shown["runs"], "ids are short"
    rows = [line.split() for line in shown["of run"].splitlines() if "whatever-is" in line]
    assert len(rows) == 10
    assert ["held" in row for row in rows] == [True] * 10, rows[0]
    assert "10 items given back" in shown["back"]


async def test_the_start_of_an_id_is_enough_where_it_means_only_one(tmp_path: Path) -> None:
    await with_items(tmp_path / "state")
    where = configured(tmp_path)
    run = gateway("prune", "apply", "--yes", "--confirmed", *where).document["id"]

    told = gateway("prune", "history", "--run", run[:5], *where)
    short = gateway("prune", "history", "--run", run[:3], *where)
    back = gateway("prune", "restore", "--run", run[:8], *where)
    plan = gateway("prune", "plan", "--session", "s-an", *where)

    assert (told.document["run"]["run_id"], len(told.document["items"])) == (run, 2)
    assert (short.status, short.problem["status"]) == (1, 404)
    assert back.document["restored_count"] == 2
    assert plan.document["session_id"] == "s-ann"


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
