"""`gateway outbox`, beside a daemon and on a directory that none runs on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from gateway.cli.output import local_time
from gateway.model import ChatType, SessionSource
from gateway.transcripts import outbox_changes, outbox_rows
from tests.cli.processes import gateway, running_gateway
from tests.support.channels import asked_in, owe, place
from tests.support.state import import_file, open_state

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.durable.batch import Transaction

STEERING = "a\u202e\x1b[2J"


async def with_replies(path: Path) -> Path:
    """Make a state directory in which a reply is owed and another one is dead."""
    now = datetime.now(UTC)  # noqa: TID251 - the daemon's clock is the machine's
    async with open_state(path) as state:
        await owe(state.database, 1, at=now)
        await owe(state.database, 2, at=now, text=f"text of 2 {STEERING}")
        odd = SessionSource("played", STEERING, ChatType.DM, "one", thread_id="th")
        await owe(state.database, 3, at=now, source=odd)

        def work(transaction: Transaction) -> None:
            row = outbox_rows.find(transaction, "ann-t2")
            assert row is not None
            outbox_changes.bury(transaction, row, error="refused: no such chat", at=now)

        await state.database.write(work)
    return path


async def test_replies_are_listed_and_shown_without_a_daemon(tmp_path: Path) -> None:
    state = await with_replies(tmp_path / "state")

    table = gateway("outbox", "list", "--state-dir", state)
    dead = gateway("outbox", "list", "--state", "dead", "--state-dir", state, "--json").document
    shown = gateway("outbox", "show", "ann-t2", "--state-dir", state)

    head, *lines = table.stdout.splitlines()
    assert head.split() == ["STATE", "ID", "CHANNEL", "CHAT", "ANSWERED", "TRIES", "WHY"]
    assert [line.split()[:3] for line in lines] == [
        ["dead", "ann-t2", "played/one"],
        ["owed", "ann-t1", "played/one"],
        ["owed", "a\\u202e\\x1b[2J-t3", "played/one"],
    ]
    assert lines[0].endswith("refused: no such chat")
    assert lines[2].count("(th)") == 1
    assert ([one["id"] for one in dead["replies"]], dead["more"]) == (["ann-t2"], False)
    assert "text of 2 a\\u202e\\x1b[2J" in shown.stdout
    assert not {"\u202e", "\x1b"} & {*table.stdout, *shown.stdout}


async def test_what_was_taken_back_is_told_as_such_and_instants_are_those_of_the_reader(
    tmp_path: Path,
) -> None:
    state = await with_replies(tmp_path / "state")
    taken_back = "reply = json_object('text', '', 'status', 'retracted'), sent_at = created_at"
    async with open_state(state) as opened:
        await opened.database.write(
            lambda tx: tx.execute(f"UPDATE outbox SET {taken_back} WHERE turn_id = 'ann-t1'")  # noqa: S608 - a text of ours
        )

    listed = gateway("outbox", "list", "--state", "sent", "--state-dir", state)
    shown = gateway("outbox", "show", "ann-t1", "--state-dir", state)
    document = gateway("outbox", "show", "ann-t1", "--state-dir", state, "--json").document

    assert listed.stdout.splitlines()[1].endswith("  its message was taken back: nothing was sent")
    assert document["status"] == "retracted"
    facts = dict(line.split(maxsplit=1) for line in shown.stdout.splitlines() if line.strip())
    instants = {facts[name] for name in ("created_at", "owed_since", "sent_at")}
    assert len(instants) == 1, instants
    assert local_time(document["owed_since"]) in instants


async def test_replies_are_decided_about_beside_a_daemon_and_without(tmp_path: Path) -> None:
    state = await with_replies(tmp_path / "state")

    with running_gateway(state):
        retried = gateway("outbox", "retry", "ann-t2", "--state-dir", state)
        owed = gateway("outbox", "list", "--state", "owed", "--state-dir", state, "--json").document
    dropped = gateway("outbox", "drop", "ann-t1", "--state-dir", state)
    deleted = gateway("outbox", "drop", "ann-t1", "--state-dir", state, "--json").document
    gone = gateway("outbox", "drop", "ann-t1", "--state-dir", state)

    assert (retried.status, retried.stdout) == (0, "ann-t2  is owed again to played/one\n")
    assert [one["id"] for one in owed["replies"]][:2] == ["ann-t1", "ann-t2"]
    assert dropped.stdout == "ann-t1  is dead; dropped again it is deleted\n"
    assert deleted["replies"] == [{"id": "ann-t1", "state": None, "deleted": True}]
    assert (gone.status, gone.stdout) == (1, "")
    assert "There is no such reply to a channel." in gone.stderr


async def test_a_list_can_be_of_one_session_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    state = await with_replies(tmp_path / "state")
    key = asked_in(place(), 1).session_key

    of_ann = gateway("outbox", "list", "--session", key, "--state-dir", state, "--json").document
    part = gateway("outbox", "list", "--limit", "1", "--state-dir", state)

    assert [one["id"] for one in of_ann["replies"]] == ["ann-t2", "ann-t1"]
    assert len(part.stdout.splitlines()) == 2
    assert "ann-t2" in part.stdout, "a dead one needs a decision: those that wait must not hide it"
    assert part.stderr.endswith("there are more than 1 (--limit)\n")


def test_where_nothing_is_owed_that_is_said(tmp_path: Path) -> None:
    state = import_file(tmp_path / "state", {"version": 1, "sessions": {}})

    outcome = gateway("outbox", "list", "--state-dir", state)

    assert (outcome.status, outcome.stdout) == (0, "")
    assert outcome.stderr.endswith("no such replies\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(("list", "--state", "lost"), "accepted is owed, dead or sent", id="state"),
        pytest.param(("list", "--limit", "0"), "greater than or equal to 1", id="limit"),
        pytest.param(("retry",), "Missing argument 'ID...'", id="no-id"),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_opened(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    outcome = gateway("outbox", *arguments, "--state-dir", tmp_path / "no")

    assert outcome.status == 2
    assert said in " ".join(outcome.stderr.split())
    assert not (tmp_path / "no").exists()


def test_a_running_gateway_tells_of_its_channels(tmp_path: Path) -> None:
    state = tmp_path / "state"
    config = '[channels.lo]\nkind = "loopback"\n[delivery]\nlate = "drop"\n'
    with running_gateway(state, config=config):
        text = gateway("status", "--state-dir", state).stdout
        document = gateway("status", "--state-dir", state, "--json").document

    assert "channels.loopback/lo.state" in text
    assert "delivery.owed" in text
    assert [one["account"] for one in document["channels"]] == ["lo"]
