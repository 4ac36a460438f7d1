"""`gateway store check` and `gateway store salvage`, as operators and scripts see them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import orjson

from gateway.durable.directory import hold
from tests.cli.processes import gateway, running_gateway
from tests.support.state import START
from tests.support.upkeep import change, look, overwrite, used_state

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_check_tells_a_line_each_and_changes_nothing(tmp_path: Path) -> None:
    state = await used_state(tmp_path / "state", killed=True)
    before = look(state)

    outcome = gateway("store", "check", "--state-dir", state)

    assert look(state) == before
    assert (outcome.status, outcome.stderr) == (0, "")
    lines = outcome.stdout.splitlines()
    assert all(line.startswith("ok       ") for line in lines)
    assert "ok       lock               nobody holds it" in lines
    assert any("check sum right, 3 entries" in line for line in lines)


def test_a_check_beside_a_daemon_disturbs_nobody(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running_gateway(state, config="[store]\nsnapshot_interval_s = 0.05\n"):
        said = gateway("chat", "--chat-id", "ann", "one", "--state-dir", state)
        outcome = gateway("store", "check", "--state-dir", state, "--json")
        again = gateway("chat", "--chat-id", "ann", "two", "--state-dir", state)
    assert outcome.status == 0, outcome.stdout
    assert (said.stdout, again.stdout) == ("one\n", "two\n")
    assert {one["level"] for one in outcome.document["findings"]} == {"ok"}
    assert outcome.document["facts"]["messages"] == 2
    assert outcome.document["ok"] is True
    (holder,) = [one for one in outcome.document["findings"] if one["check"] == "lock"]
    assert holder["text"].startswith("held by pid ")


async def test_damage_ends_a_check_with_65(tmp_path: Path) -> None:
    state = await used_state(tmp_path / "state")
    overwrite(state / "sessions.json", 700, b"#")

    told = gateway("store", "check", "--state-dir", state)
    document = gateway("store", "check", "--state-dir", state, "--json")

    assert told.status == document.status == 65
    (wrong,) = [line for line in told.stdout.splitlines() if line.startswith("wrong")]
    assert f"{state}/sessions.json" in wrong
    assert document.document["ok"] is False
    assert "wrong" in {one["level"] for one in document.document["findings"]}


async def test_open_modes_end_a_check_with_78(tmp_path: Path) -> None:
    state = await used_state(tmp_path / "state")
    state.chmod(0o755)

    outcome = gateway("store", "check", "--state-dir", state)

    assert outcome.status == 78
    assert outcome.stdout.startswith(f"unsafe   directory          {state}: mode 0755, accepted")


async def test_what_is_stored_steers_no_terminal(tmp_path: Path) -> None:
    state = await used_state(tmp_path / "state")
    change(state, "UPDATE outbox SET turn_id = 'x' || char(27) || '[2J' WHERE message_id = 'last'")

    outcome = gateway("store", "check", "--state-dir", state)

    assert outcome.status == 65
    assert "\x1b" not in outcome.stdout
    assert "x\\x1b[2J" in outcome.stdout


def test_what_is_no_state_directory_is_neither_checked_nor_salvaged(tmp_path: Path) -> None:
    for arguments in (("check",), ("salvage", tmp_path / "new")):
        outcome = gateway("store", *arguments, "--state-dir", tmp_path / "state")
        assert outcome.status == 69
        assert "is no state directory" in outcome.stderr
    assert list(tmp_path.iterdir()) == []


async def test_a_salvage_that_gives_nothing_up_ends_with_0(tmp_path: Path) -> None:
    state = await used_state(tmp_path / "state")
    os.truncate(state / "sessions.json", 900)

    outcome = gateway("store", "salvage", tmp_path / "new", "--state-dir", state, "--json")

    assert outcome.status == 0
    assert (outcome.document["complete"], outcome.document["given_up"]) == (True, [])
    assert "sessions.json.prev and the session log made up" in outcome.document["notes"][-1]


async def test_a_salvage_that_gives_something_up_ends_with_65_and_says_what(
    tmp_path: Path,
) -> None:
    state = await used_state(tmp_path / "state")
    (state / "gateway.db").write_bytes(bytes(8192))

    told = gateway("store", "salvage", tmp_path / "new", "--state-dir", state)

    assert told.status == 65
    assert "\ngiven up  gateway.db: the whole database" in told.stdout
    report = orjson.loads((tmp_path / "new" / "salvage.json").read_bytes())
    (loss,) = report["given_up"]
    assert (loss["place"], loss["count"], report["complete"]) == ("gateway.db", 1, False)
    with running_gateway(tmp_path / "new"):
        answer = gateway("chat", "--chat-id", "ann", "again", "--state-dir", tmp_path / "new")
        assert answer.stdout.endswith("again\n")


async def test_a_held_state_is_not_salvaged(tmp_path: Path) -> None:
    state = await used_state(tmp_path / "state")

    with hold(state, started_at=START):
        outcome = gateway("store", "salvage", tmp_path / "new", "--state-dir", state)

    assert outcome.status == 75
    assert str(os.getpid()) in outcome.stderr
    assert not (tmp_path / "new").exists()
