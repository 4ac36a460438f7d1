"""One person on two platforms has one session, and is answered where the message came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from gateway.access.settings import AccessSettings, PlatformAccess
from gateway.model import AgentId, Change, ChatType, Inbound, SessionSource
from gateway.sessions.key import parse_key, session_key
from gateway.sessions.settings import SessionSettings
from gateway.transcripts import outbox_rows
from gateway.transcripts.outbox_rows import OutboxState
from tests.support.commands import DoorBench, open_door
from tests.support.turns import Gate, PlayedAgent, echo

if TYPE_CHECKING:
    from pathlib import Path

MAIN = AgentId("main")
LINKED = SessionSettings.model_validate(
    {
        "identities": [
            {"name": "anna", "members": ["one/a/7", "two/b/@anna:x", "two/c/@anna:x"]},
            {"name": "ben", "members": ["one/a/8"]},
        ]
    }
)
KEY = "agent:main:identity::dm:anna::"
HERE = SessionSource("one", "7", ChatType.DM, "a", user_id="7")
THERE = SessionSource("two", "!room:x", ChatType.DM, "b", user_id="@anna:x")
ACCESS = AccessSettings(
    platforms={
        "one": PlatformAccess(allow_users=["*"]),
        "two": PlatformAccess(allow_users=["@anna:x"]),
    }
)


def key_of(source: SessionSource, settings: SessionSettings = LINKED) -> str:
    return session_key(source, MAIN, settings)


def test_the_direct_chats_of_one_person_are_one_session() -> None:
    assert key_of(HERE) == key_of(THERE) == KEY
    assert parse_key(KEY).platform == "identity"
    assert session_key(HERE, AgentId("other"), LINKED) == "agent:other:identity::dm:anna::"


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(SessionSource("one", "9", ChatType.DM, "a", user_id="9"), id="another-user"),
        pytest.param(SessionSource("one", "7", ChatType.DM, "a"), id="no-user"),
        pytest.param(SessionSource("one", "7", ChatType.DM, "", user_id="7"), id="no-account"),
        pytest.param(SessionSource("one", "7", ChatType.DM, "b", user_id="7"), id="account"),
        pytest.param(SessionSource("two", "7", ChatType.DM, "a", user_id="7"), id="platform"),
        pytest.param(SessionSource("one", "g", ChatType.GROUP, "a", user_id="7"), id="group"),
        pytest.param(SessionSource("one", "g", ChatType.CHANNEL, "a", user_id="7"), id="channel"),
        pytest.param(
            SessionSource("one", "g", ChatType.THREAD, "a", thread_id="t", user_id="7"), id="thread"
        ),
    ],
)
def test_nobody_and_nothing_else_is_linked(source: SessionSource) -> None:
    assert key_of(source) == key_of(source, SessionSettings()) != KEY


async def say(bench: DoorBench, source: SessionSource, text: str, message_id: str) -> bool:
    return (await bench.door.receive(Inbound(source, text, message_id))).accepted


async def owed(bench: DoorBench) -> list[tuple[str, str, str, str]]:
    rows = await bench.turns.state.database.read(
        lambda db: outbox_rows.page(db, OutboxState.OWED, limit=100)
    )
    return [(row.channel, row.target.chat_id, row.reply_to, row.text) for row in rows]


async def idle(bench: DoorBench) -> None:
    with anyio.fail_after(30):
        while await bench.turns.unfinished():
            await anyio.lowlevel.checkpoint()


async def test_replies_go_where_the_message_came_from_and_refer_to_it(tmp_path: Path) -> None:
    async with open_door(
        tmp_path / "s", PlayedAgent(echo), access=ACCESS, sessions=LINKED
    ) as bench:
        # Both platforms count their messages from 1.
        assert await say(bench, HERE, "hello", "1")
        await idle(bench)
        assert await say(bench, THERE, "again", "1")
        await idle(bench)
        assert await say(bench, HERE, "hello", "1")
        assert await say(bench, THERE, "/status", "2")
        turns = bench.turns.turns.statistics()
        said = await bench.turns.said(bench.turns.state.store.get(KEY).session_id)  # type: ignore[union-attr,arg-type]
        *replies, status = await owed(bench)

    assert replies == [
        ("one/a", "7", "1", "re: hello"),
        ("two/b", "!room:x", "1", "re: again"),
    ]
    assert status[:3] == ("two/b", "!room:x", "2")
    assert "2 turns" in status[3]
    assert [text for _, text in said] == ["hello", "re: hello", "again", "re: again"]
    assert (turns.completed, turns.duplicates) == (2, 1)


async def test_access_goes_by_who_really_writes(tmp_path: Path) -> None:
    stranger = AccessSettings(platforms={"one": PlatformAccess(allow_users=["7"])})
    async with open_door(
        tmp_path / "s", PlayedAgent(echo), access=stranger, sessions=LINKED
    ) as bench:
        assert await say(bench, HERE, "hello", "1")
        await idle(bench)
        assert not await say(bench, THERE, "hello", "2")
        assert len(await owed(bench)) == 1


async def test_what_one_platform_edits_is_no_message_of_the_other(tmp_path: Path) -> None:
    gate = Gate()
    async with open_door(
        tmp_path / "s", PlayedAgent(gate.play), access=ACCESS, sessions=LINKED
    ) as bench:
        await say(bench, HERE, "one", "1")
        await gate.reached("one")
        await say(bench, HERE, "two", "2")

        there = Inbound(THERE, "mine", "2", change=Change.EDITED)
        here = Inbound(HERE, "second", "2", change=Change.EDITED)
        assert not (await bench.door.receive(there)).accepted
        assert (await bench.door.receive(here)).accepted
        gate.open("one", "second")
        await idle(bench)

        assert gate.began == ["one", "second"]


async def test_a_summary_is_asked_for_once_by_one_message(tmp_path: Path) -> None:
    async with open_door(
        tmp_path / "s", PlayedAgent(echo), access=ACCESS, sessions=LINKED
    ) as bench:
        await say(bench, HERE, "hello", "1")
        await idle(bench)
        for _ in range(2):
            assert await say(bench, THERE, "/compact", "1")
            await idle(bench)

        assert [one[:3] for one in await owed(bench)] == [
            ("one/a", "7", "1"),
            ("two/b", "!room:x", ""),
        ]
