"""What a stranger is told, how often, and what of it is logged and counted."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import apsw
import pytest
from structlog.testing import capture_logs

from gateway.access import gate
from gateway.access.deciding import Standing
from gateway.access.gate import REFUSED
from gateway.access.settings import AccessSettings
from gateway.model import ChatType
from tests.access.people import CODE, in_group, open_room, settings, somebody

if TYPE_CHECKING:
    from pathlib import Path


MINUTE_S, HOUR_S = 60.0, 3_600.0


async def test_who_may_talk_is_told_nothing(tmp_path: Path) -> None:
    rules = settings(admins=["telegram:1"], telegram={"allow_users": ["2"]})
    with capture_logs() as logs:
        async with open_room(tmp_path, rules) as room:
            admin, listed = await room.admit(somebody("1")), await room.admit(somebody("2"))
            on_http = await room.admit(replace(somebody(""), platform="http"))

            assert (admin.standing, admin.text) == (Standing.ADMIN, None)
            assert (listed.standing, listed.text) == (Standing.ALLOWED, None)
            assert (on_http.standing, on_http.text) == (Standing.ALLOWED, None)
            assert room.access.statistics().admitted == 3
    assert logs == []


async def test_a_refused_stranger_is_told_so_once_in_ten_minutes(tmp_path: Path) -> None:
    async with open_room(tmp_path, settings(telegram={"unknown": "refuse"})) as room:
        first, second, other = [await room.admit(somebody(one)) for one in ("1", "1", "2")]
        await room.clock.advance(10 * MINUTE_S - 1)
        early = await room.admit(somebody("1"))
        await room.clock.advance(1)
        later = await room.admit(somebody("1"))

        texts = [one.text for one in (first, second, other, early, later)]
        assert texts == [REFUSED, None, REFUSED, None, REFUSED]
        assert room.access.statistics().strangers == {"refused": 5}


@pytest.mark.parametrize("platform", ["http", "loopback"])
async def test_who_waits_for_an_answer_is_refused_each_time(tmp_path: Path, platform: str) -> None:
    async with open_room(tmp_path, settings(**{platform: {"allow_users": ["ann"]}})) as room:
        bob = replace(somebody("bob"), platform=platform)

        assert [(await room.admit(bob)).text for _ in range(3)] == [REFUSED] * 3


async def test_strangers_in_groups_hear_nothing_and_get_no_code(tmp_path: Path) -> None:
    rules = settings(telegram={"unknown": "pair"}, matrix={"unknown": "refuse"})
    async with open_room(tmp_path, rules) as room:
        for kind in (ChatType.GROUP, ChatType.CHANNEL, ChatType.THREAD):
            for platform in ("telegram", "matrix"):
                source = in_group("9", chat_type=kind, platform=platform)
                assert (await room.admit(source)).text is None
        assert (await room.pairing.listing()).pending == []
        assert room.access.statistics().strangers == {"ignored": 6}


async def test_the_answer_says_nothing_of_what_there_is(tmp_path: Path) -> None:
    rules = settings(telegram={"allow_users": ["1"], "unknown": "refuse"})
    async with open_room(tmp_path, rules) as room:
        # To a chat with an allowed user, to one that nobody knows, with any text.
        told = [
            await room.admit(replace(somebody(f"x{n}"), chat_id=chat), text)
            for n, (chat, text) in enumerate([("1", "hi"), ("unheard", "/sessions"), ("1", "")])
        ]

    assert {(one.standing, one.text) for one in told} == {(Standing.STRANGER, REFUSED)}


async def test_a_pairing_is_worth_nothing_in_a_group(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        await room.pair(somebody("9"))

        standings = [
            (await room.admit(somebody("9", chat_type=kind))).standing for kind in ChatType
        ]

    assert standings == [Standing.ALLOWED] + [Standing.STRANGER] * 3


async def test_new_settings_count_from_the_next_message(tmp_path: Path) -> None:
    async with open_room(tmp_path, settings(telegram={"allow_users": ["1"]})) as room:
        before = await room.admit(somebody("1"))
        room.access.settings = settings(telegram={"allow_users": ["2"]})
        after = await room.admit(somebody("1"))

    assert (before.standing, after.standing) == (Standing.ALLOWED, Standing.STRANGER)
    assert after.text is None


async def test_a_stranger_gets_a_line_an_hour(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with open_room(tmp_path, settings(telegram={"unknown": "ignore"})) as room:
            steering = somebody("7\u202e", user_name="Trudy", account="bot")
            for pause in (0, HOUR_S - 1, 1):
                await room.clock.advance(pause)
                await room.admit(steering, "what I wrote")
                await room.admit(steering, "what I wrote")
            await room.admit(in_group("8"), "what I wrote")

    lines = [line for line in logs if line["event"] == "access.refused"]
    assert [line["user_id"] for line in lines] == ["7\ufffd", "7\ufffd", "8"]
    assert lines[0] == {
        "event": "access.refused",
        "log_level": "info",
        "platform": "telegram",
        "account": "bot",
        "chat_type": "dm",
        "user_id": "7\ufffd",
        "outcome": "ignored",
    }
    assert lines[-1]["chat_type"] == "group"
    assert "what I wrote" not in str(logs)
    assert "Trudy" not in str(logs)


async def test_very_many_strangers_fill_neither_memory_nor_log(tmp_path: Path) -> None:
    many = gate.MAX_REMEMBERED + 10
    with capture_logs() as logs:
        async with open_room(tmp_path, settings(telegram={"unknown": "refuse"})) as room:
            told = [(await room.admit(somebody(str(n)))).text for n in range(many)]
            assert room.access.statistics().strangers == {"refused": many}
            await room.clock.advance(HOUR_S)
            again = await room.admit(somebody("late"))

    assert told == [REFUSED] * gate.MAX_REMEMBERED + [None] * 10
    assert again.text == REFUSED
    assert len(logs) == gate.MAX_REMEMBERED + 1


async def test_a_disk_that_takes_nothing_leaves_a_stranger_a_stranger(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        # Another program holds the database: every change is refused until it lets go.
        await room.database.write(lambda tx: tx.connection.set_busy_timeout(1))
        with closing(apsw.Connection(str(tmp_path / "gateway.db"))) as connection:
            connection.execute("BEGIN IMMEDIATE")
            admission = await room.admit(somebody("9"))
            connection.execute("ROLLBACK")
        afterwards = await room.admit(somebody("9"))

        assert (admission.standing, admission.text) == (Standing.STRANGER, None)
        assert room.access.statistics().strangers == {"not_stored": 1, "code": 1}
    assert CODE.search(afterwards.text or "")


async def test_one_who_writes_twice_at_once_gets_one_code(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        texts: list[str | None] = []

        async def write() -> None:
            texts.append((await room.admit(somebody("9"))).text)

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(write)

        assert len([text for text in texts if text]) == 1
        assert room.access.statistics().strangers == {"code": 1, "quiet": 4}


async def test_five_who_write_at_once_are_three_who_wait(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        async with anyio.create_task_group() as group:
            for n in range(5):
                group.start_soon(room.admit, somebody(str(n)))

        assert len((await room.pairing.listing()).pending) == 3
        assert room.access.statistics().strangers == {"code": 3, "full": 2}


async def test_a_flood_of_strangers_writes_nothing(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        for n in range(3):
            await room.admit(somebody(str(n)))
        before = room.database.statistics().transactions
        for n in range(50):
            await room.admit(somebody(str(n)))

        assert room.database.statistics().transactions == before
        assert room.access.statistics().strangers == {"code": 3, "quiet": 3, "full": 47}


def test_an_admission_shows_no_code() -> None:
    shown = repr(gate.Admission(Standing.STRANGER, "Your code is ABCDEFGH,"))

    assert "ABCDEFGH" not in shown


def test_no_settings_let_strangers_in_by_default() -> None:
    assert AccessSettings().admins == []
    assert AccessSettings().rules("telegram", "").allow_users == []
