"""Laws of pairing: a code works once, for an hour, and is known to nobody but who got it."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from gateway.access import records
from gateway.access.approval import Answer, Asked
from gateway.access.deciding import Standing
from gateway.errors import BadRequestError, ConflictError, DamagedDataError, NotFoundError
from tests.access.people import CODE, open_room, settings, somebody
from tests.support.state import START

if TYPE_CHECKING:
    from pathlib import Path

    from tests.access.people import Room

MINUTE_S, HOUR_S = 60.0, 3_600.0
WRONG = "AAAAAAAA"


async def fail(room: Room, times: int, platform: str = "", account: str = "") -> None:
    for _ in range(times):
        with pytest.raises(NotFoundError):
            await room.pairing.approve(WRONG, platform, account)


async def test_a_right_code_lets_its_user_talk_also_after_a_restart(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with open_room(tmp_path) as room:
            stranger = await room.admit(somebody("9", user_name="Tru\ndy"))
            found = CODE.search(stranger.text or "")
            assert found is not None
            assert f"gateway pairing approve {found[1]}" in str(stranger.text)
            assert "until 01:00 UTC" in str(stranger.text)
            paired = await room.pairing.approve(found[1])
            friend = await room.admit(somebody("9"))
        async with open_room(tmp_path) as room:
            after_restart = await room.admit(somebody("9"))
            other = await room.admit(somebody("9", account="bot"))

    assert (stranger.standing, friend.standing) == (Standing.STRANGER, Standing.ALLOWED)
    assert (friend.text, after_restart.standing) == (None, Standing.ALLOWED)
    assert other.standing is Standing.STRANGER
    assert (paired.user, paired.user_name) == (("telegram", "", "9"), "Tru\ufffddy")
    assert [line["event"] for line in logs][:3] == [
        *("pairing.asked", "access.refused", "pairing.approved"),
    ]


@pytest.mark.parametrize("change", [str.lower, lambda code: f" {code[:4]}-{code[4:]}\n"])
async def test_a_code_may_be_typed_as_people_do(tmp_path: Path, change: object) -> None:
    async with open_room(tmp_path) as room:
        code = await room.code_for(somebody("9"))

        assert callable(change)
        assert (await room.pairing.approve(change(code))).user_id == "9"


async def test_a_code_works_once(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        code = await room.code_for(somebody("9"))
        await room.code_for(somebody("8"))
        await room.pairing.approve(code)
        await room.pairing.revoke("telegram", "9")

        with pytest.raises(NotFoundError, match="Nobody waits with this code"):
            await room.pairing.approve(code)
        assert (await room.admit(somebody("9"))).standing is Standing.STRANGER


async def test_a_code_works_for_an_hour(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        nine = await room.code_for(somebody("9"))
        await room.clock.advance(1)
        eight = await room.code_for(somebody("8"))
        await room.clock.advance(HOUR_S - 1)

        with pytest.raises(NotFoundError):
            await room.pairing.approve(nine)
        assert (await room.pairing.approve(eight)).user_id == "8"
        assert await room.code_for(somebody("9")) != nine


async def test_a_clock_that_was_set_back_does_not_keep_a_code(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        code = await room.code_for(somebody("9"))
        room.clock.step_wall(-timedelta(hours=1))

        with pytest.raises(NotFoundError):
            await room.pairing.approve(code)
        assert (await room.pairing.listing()).pending == []
        assert await room.code_for(somebody("9")) != code


async def test_who_asks_again_gets_no_new_code_and_a_word_in_ten_minutes(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        code = await room.code_for(somebody("9"))
        at_once = await room.admit(somebody("9"))
        await room.clock.advance(10 * MINUTE_S)
        again = await room.admit(somebody("9"))
        quiet = await room.admit(somebody("9"))
    async with open_room(tmp_path, clock=room.clock) as room:
        after_restart = await room.admit(somebody("9"))
        assert room.access.statistics().strangers == {"quiet": 1}
        assert (await room.pairing.approve(code)).user_id == "9"

    assert (at_once.text, quiet.text, after_restart.text) == (None, None, None)
    assert "waits to be approved until 01:00 UTC" in str(again.text)
    assert not re.search(f"[{records.ALPHABET}]{{8}}", str(again.text))


async def test_three_wait_at_an_account_and_no_more(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        codes = [await room.code_for(somebody(str(n))) for n in range(3)]
        fourth = await room.admit(somebody("4"))
        elsewhere = await room.admit(somebody("4", account="bot"))
        await room.pairing.approve(codes[0])
        after = await room.admit(somebody("4"))

        assert (fourth.text, CODE.search(str(elsewhere.text)) is None) == (None, False)
        assert CODE.search(str(after.text))
        assert room.access.statistics().strangers["full"] == 1


async def test_five_wrong_codes_lock_an_account_for_an_hour(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with open_room(tmp_path) as room:
            await room.code_for(somebody("8"))
            await room.clock.advance(30 * MINUTE_S)
            code = await room.code_for(somebody("9"))
            await fail(room, 4)
            with pytest.raises(NotFoundError, match="2026-01-01 01:30 UTC") as fifth:
                await room.pairing.approve(WRONG)
            with pytest.raises(ConflictError, match="telegram until 2026-01-01 01:30 UTC"):
                await room.pairing.approve(code)
        async with open_room(tmp_path, clock=room.clock) as room:
            with pytest.raises(ConflictError):
                await room.pairing.approve(code)
            assert [lock.failures for lock in (await room.pairing.listing()).locks] == [5]
            await room.clock.advance(HOUR_S)
            fresh = await room.code_for(somebody("9"))
            await fail(room, 1)
            assert (await room.pairing.approve(fresh)).user_id == "9"

    assert "5 codes in a row were wrong" in str(fifth.value)
    (locked,) = [line for line in logs if line["event"] == "pairing.locked"]
    assert (locked["platform"], locked["failures"], locked["log_level"]) == (
        *("telegram", 5, "warning"),
    )


async def test_a_right_code_ends_the_row_of_wrong_ones(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        code, other = [await room.code_for(somebody(one)) for one in ("8", "9")]
        await fail(room, 4)
        await room.pairing.approve(code)
        await fail(room, 4)

        assert (await room.pairing.approve(other)).user_id == "9"


async def test_what_led_to_a_lock_counts_no_more_once_it_is_over(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        await room.code_for(somebody("8"))
        await fail(room, 5)
        await room.clock.advance(HOUR_S)
        code = await room.code_for(somebody("9"))
        await fail(room, 4)

        assert (await room.pairing.approve(code)).user_id == "9"


async def test_while_an_account_is_locked_nobody_is_given_a_code_there(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        await room.code_for(somebody("8"))
        await fail(room, 5)
        told = [await room.admit(somebody(one)) for one in ("9", "9", "8")]
        elsewhere = await room.admit(somebody("9", account="bot"))
    async with open_room(tmp_path, clock=room.clock) as room:
        await room.clock.advance(HOUR_S - 1)
        last = await room.admit(somebody("9"))
        assert [one.user_id for one in (await room.pairing.listing()).pending] == ["8", "9"]
        assert room.access.statistics().strangers == {"locked": 1}
        await room.clock.advance(1)
        code = await room.code_for(somebody("9"))

        assert (await room.pairing.approve(code)).account == ""

    now = "You are not known here yet, and nobody can be paired now. Write again in an hour."
    assert [one.text for one in told] == [now, None, now]
    assert CODE.search(str(elsewhere.text))
    assert last.text == now


async def test_the_locks_of_several_accounts_are_told_in_one_sentence(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        await room.code_for(somebody("9", account="first"))
        await fail(room, 5)
        await room.clock.advance(10 * MINUTE_S)
        for account in ("bot", "news"):
            await room.code_for(somebody("9", account=account))
        await fail(room, 4)
        with pytest.raises(NotFoundError) as last:
            await room.pairing.approve(WRONG)

    assert str(last.value).endswith(
        "more than an hour old. 5 codes in a row were wrong: none is taken on telegram/first until "
        "2026-01-01 01:00 UTC, on telegram/bot, telegram/news until 2026-01-01 01:10 UTC."
    )


async def test_a_lock_is_of_one_account(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        here = await room.code_for(somebody("9"))
        there = await room.code_for(somebody("9", account="bot"))
        await fail(room, 5, "telegram", "bot")

        with pytest.raises(ConflictError, match="telegram/bot until"):
            await room.pairing.approve(there, "telegram", "bot")
        assert (await room.pairing.approve(here)).account == ""


async def test_a_wrong_code_counts_only_where_it_might_have_been_right(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        await fail(room, 9)
        await fail(room, 9, "nowhere")
        code = await room.code_for(somebody("9"))
        await fail(room, 9, "nowhere")

        assert (await room.pairing.listing()).locks == []
        assert (await room.pairing.approve(code)).user_id == "9"


async def test_a_code_of_another_platform_is_wrong(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        code = await room.code_for(somebody("9", account="bot"))

        for platform, account in (("matrix", ""), ("telegram", "other"), ("bot", "")):
            with pytest.raises(NotFoundError):
                await room.pairing.approve(code, platform, account)
        assert (await room.pairing.approve(code, "telegram")).account == "bot"


@pytest.mark.parametrize(
    "text", ["", "ABCDEFG", "ABCDEFGHJ", "ABCDEFG0", "ABCDEFG1", "ÄBCDEFGH", "%"]
)
async def test_what_is_no_code_is_told_and_not_counted(tmp_path: Path, text: str) -> None:
    async with open_room(tmp_path) as room:
        code = await room.code_for(somebody("9"))
        for _ in range(6):
            with pytest.raises(BadRequestError, match="8 letters and digits without 0, O, 1 and I"):
                await room.pairing.approve(text)

        assert (await room.pairing.approve(code)).user_id == "9"


async def test_a_revocation_counts_from_the_next_message_on(tmp_path: Path) -> None:
    async with open_room(tmp_path, settings(telegram={"unknown": "ignore"})) as room:
        room.access.settings = settings()
        for account in ("", "bot"):
            await room.pair(somebody("9", account=account))
        ended = await room.pairing.revoke("telegram", "9", "bot")
        there = await room.admit(somebody("9", account="bot"))
        here = await room.admit(somebody("9"))
        await room.pairing.revoke("telegram", "9")
        gone = await room.admit(somebody("9"))
        with pytest.raises(NotFoundError):
            await room.pairing.revoke("telegram", "9")
    async with open_room(tmp_path, clock=room.clock) as room:
        assert (await room.admit(somebody("9"))).standing is Standing.STRANGER

    assert [one.account for one in ended] == ["bot"]
    standings = [one.standing for one in (there, here, gone)]
    assert standings == [Standing.STRANGER, Standing.ALLOWED, Standing.STRANGER]


@pytest.mark.parametrize("user_id", ["", " ", "\0", "*", "99"])
async def test_nobody_else_is_revoked(tmp_path: Path, user_id: str) -> None:
    async with open_room(tmp_path) as room:
        await room.pair(somebody("9"))
        with pytest.raises(NotFoundError):
            await room.pairing.revoke("telegram", user_id)

        assert (await room.admit(somebody("9"))).standing is Standing.ALLOWED


async def test_what_has_ended_vanishes(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        for n in range(3):
            await room.code_for(somebody(str(n)))
        await fail(room, 5)
        assert await room.pairing.discard_expired() == 0
        await room.clock.advance(HOUR_S)
        assert room.pairing.statistics().pending == 3
        assert await room.pairing.discard_expired() == 3

        assert room.pairing.statistics().pending == 0
        for table in ("pairing_requests", "pairing_locks"):
            rows = await room.database.read(
                lambda conn, table=table: conn.execute(f"SELECT 1 FROM {table}").fetchall()  # type: ignore[misc]  # noqa: S608 - names of ours
            )
            assert rows == []


async def test_who_asks_clears_away_what_has_ended(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        for n in range(3):
            await room.code_for(somebody(str(n)))
        await room.clock.advance(HOUR_S)
        await room.code_for(somebody("9"))

        assert room.pairing.statistics().pending == 1


async def test_a_lock_outlives_the_discarding_while_it_holds(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        await room.code_for(somebody("8"))
        await room.clock.advance(HOUR_S - 1)
        code = await room.code_for(somebody("9"))
        await fail(room, 5)
        await room.clock.advance(HOUR_S - 2)
        await room.pairing.discard_expired()

        with pytest.raises(ConflictError):
            await room.pairing.approve(code)


async def test_codes_stand_in_no_table_and_no_log(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with open_room(tmp_path) as room:
            codes = [await room.code_for(somebody(str(n))) for n in range(3)]
            await fail(room, 1)
            await room.pairing.approve(codes[0])
            listed = repr(await room.pairing.listing())
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir())

    for code in codes:
        assert code.encode() not in files
        assert code not in str(logs) + listed
    assert b"telegram" in files


def test_what_is_passed_on_shows_neither_code_nor_hash() -> None:
    request = records.new_request(("telegram", "", "9"), "Ann", "ABCDEFGH", START)
    asked = Asked(Answer.CODE, "ABCDEFGH", START)

    assert "ABCDEFGH" not in repr(asked) + repr(request)
    assert request.code_hash not in repr(request)
    assert records.fits(request, "ABCDEFGH")
    assert not records.fits(request, "ABCDEFGJ")


def test_the_same_code_is_never_stored_alike() -> None:
    user = ("telegram", "", "9")
    hashes = {records.new_request(user, "", "ABCDEFGH", START).code_hash for _ in range(20)}

    assert len(hashes) == 20


def test_codes_are_of_the_alphabet_and_differ() -> None:
    codes = {records.new_code() for _ in range(2_000)}

    assert len(codes) == 2_000
    assert {char for code in codes for char in code} == set(records.ALPHABET)
    assert len(records.ALPHABET) == 32
    assert not set("01OI") & set(records.ALPHABET)


async def test_it_counts_what_happens(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        await room.pair(somebody("8"))
        await room.code_for(somebody("9"))
        await fail(room, 5)
        await room.pairing.revoke("telegram", "8")
        counts = room.pairing.statistics()

    assert (counts.codes, counts.approved, counts.wrong_codes, counts.locked) == (2, 1, 5, 1)
    assert (counts.revoked, counts.paired, counts.pending) == (1, 0, 1)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE paired_users SET paired_at = 'yesterday'",
        "UPDATE pairing_requests SET asked_at = '2026-01-01T00:00:00'",
        "UPDATE pairing_locks SET locked_until = 'x'",
    ],
)
async def test_what_cannot_be_read_lets_nobody_in(tmp_path: Path, statement: str) -> None:
    async with open_room(tmp_path) as room:
        await room.pair(somebody("8"))
        await room.code_for(somebody("9"))
        await fail(room, 1)
        await room.database.write(lambda tx: tx.execute(statement).fetchall())

    with pytest.raises(BaseException) as raised:  # noqa: PT011 - looked at below
        async with open_room(tmp_path):
            pass
    assert isinstance(raised.value, DamagedDataError)
    assert "gateway store check" in raised.value.reason
