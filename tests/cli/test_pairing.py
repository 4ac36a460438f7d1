"""`gateway pairing`, beside a daemon and on a directory that none runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from gateway.access.gate import Access
from gateway.access.pairing import Pairing
from gateway.access.settings import AccessSettings
from gateway.clock import SystemClock
from gateway.model import Inbound
from tests.access.people import CODE, somebody
from tests.cli.processes import gateway, running_gateway
from tests.support.state import open_state

if TYPE_CHECKING:
    from pathlib import Path


def asked(state_dir: Path, *people: tuple[str, str]) -> list[str]:
    """Have strangers ask, by account and id; return their codes."""

    async def run() -> list[str]:
        clock, codes = SystemClock(), []
        async with open_state(state_dir, clock) as state:
            pairing = await Pairing.load(state.database, clock)
            access = Access(AccessSettings(), pairing, clock)
            for account, user_id in people:
                source = somebody(user_id, account=account, user_name=f"N\x1b{user_id}")
                told = await access.admit(Inbound(source, "hello"))
                codes += CODE.findall(told.text or "")
        return codes

    return anyio.run(run)


def test_people_are_listed_approved_and_revoked_without_a_daemon(tmp_path: Path) -> None:
    state = tmp_path / "state"
    code, other = asked(state, ("", "9"), ("bot", "8"))

    waiting = gateway("pairing", "list", "--state-dir", state)
    approved = gateway("pairing", "approve", code, "--state-dir", state)
    after = gateway("pairing", "list", "--state-dir", state)
    document = gateway("pairing", "list", "--state-dir", state, "--json").document
    revoked = gateway("pairing", "revoke", "telegram:9", "--state-dir", state)
    again = gateway("pairing", "revoke", "telegram:9", "--state-dir", state)

    head, *rows = waiting.stdout.splitlines()
    assert head.split() == ["WAITS", "NAME", "ASKED", "EXPIRES"]
    assert [row.split()[:2] for row in rows] == [
        *(["telegram:9", "N\ufffd9"], ["telegram/bot:8", "N\ufffd8"]),
    ]
    assert waiting.stderr.endswith("nobody is paired\n")
    assert approved.stdout == "paired telegram:9  N\ufffd9\n"
    assert "\n\nPAIRED" in after.stdout
    assert [one["user_id"] for one in document["paired"]] == ["9"]
    assert revoked.stdout == "revoked telegram:9  N\ufffd9\n"
    assert again.status == 1
    assert again.stderr.endswith("gateway: Not found: No such user is paired.\n")
    for outcome in (waiting, after):
        assert not {code, other} & set(outcome.stdout.split())


def test_a_code_is_looked_for_where_it_is_said_to_be(tmp_path: Path) -> None:
    state = tmp_path / "state"
    (code,) = asked(state, ("bot", "8"))
    arguments = ("pairing", "approve", code, "--state-dir", state, "--json")

    elsewhere = gateway(*arguments, "--platform", "matrix")
    other = gateway(*arguments, "--platform", "telegram", "--account", "other")
    there = gateway(*arguments, "--platform", "telegram", "--account", "bot")
    one = gateway("pairing", "revoke", "telegram/bot:8", "--state-dir", state, "--json")

    assert (elsewhere.status, other.status) == (1, 1)
    assert "Nobody waits with this code" in elsewhere.problem["detail"]
    assert there.document["account"] == "bot"
    assert [ended["user_id"] for ended in one.document["revoked"]] == ["8"]


def test_a_lock_is_told_until_when_it_holds(tmp_path: Path) -> None:
    state = tmp_path / "state"
    (code,) = asked(state, ("", "9"))
    with running_gateway(state):
        for _ in range(5):
            assert gateway("pairing", "approve", "AAAAAAAA", "--state-dir", state).status == 1
        right = gateway("pairing", "approve", code, "--state-dir", state)
        running = gateway("pairing", "list", "--state-dir", state)
    stopped = gateway("pairing", "list", "--state-dir", state)

    assert right.status == 1
    assert "Not possible now: 5 codes in a row were wrong" in right.stderr
    assert " UTC" in right.stderr
    for listed in (running, stopped):
        assert "nothing is approved on telegram until " in listed.stderr


@pytest.mark.parametrize("user", ["telegram", ":9", "telegram:", "/bot:9"])
def test_a_user_is_named_with_the_platform(tmp_path: Path, user: str) -> None:
    outcome = gateway("pairing", "revoke", user, "--state-dir", tmp_path / "state")

    assert outcome.status == 2
    assert "accepted is PLATFORM:USER such as telegram:12345" in outcome.stderr


def test_an_empty_state_has_nobody(tmp_path: Path) -> None:
    state = tmp_path / "state"
    asked(state)

    outcome = gateway("pairing", "list", "--state-dir", state)

    assert (outcome.status, outcome.stdout) == (0, "")
    assert outcome.stderr.endswith("nobody waits\nnobody is paired\n")
