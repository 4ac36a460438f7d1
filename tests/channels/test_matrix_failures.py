"""What the channel to Matrix makes of a homeserver that refuses, fails, or says odd things."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import orjson
import pytest

from gateway.channels.base import NotConnectedError, Outbound, SendError
from gateway.channels.matrix.api import DEFAULT_PAUSE_S, MAX_ASKED_S, MAX_PAUSE_S
from gateway.channels.matrix.sync import LAZY_S
from gateway.clock import FakeClock
from gateway.errors import ConfigurationError
from gateway.model import ChatType, SessionSource
from tests.support.matrix import channel_of
from tests.support.played_matrix import (
    BOT,
    BUSY,
    ROOM,
    PlayedHomeserver,
    event,
    running,
    said,
    slept,
)
from tests.support.synapse import User

if TYPE_CHECKING:
    from pathlib import Path

OUTBOUND = Outbound(SessionSource("matrix", ROOM, account="work"), "a private text", "d-1")


async def test_a_homeserver_that_asks_for_a_pause_gets_it(tmp_path: Path) -> None:
    server = PlayedHomeserver(BOT)
    endless = {"retry_after_ms": 1e15}
    server.push((429, BUSY), (429, {}), (429, {"retry_after_ms": "soon"}), (429, endless))
    async with running(tmp_path, server) as run:
        pass

    assert slept(run) == [2.5, 3.0, DEFAULT_PAUSE_S, MAX_PAUSE_S]
    assert run.lost == ""


@pytest.mark.parametrize(
    ("word", "answer", "why"),
    [
        pytest.param("sync", (500, {"errcode": "M_UNKNOWN"}), "(500 M_UNKNOWN)", id="fails"),
        pytest.param("sync", (502, b"<html>"), "the homeserver fails (502)", id="front-fails"),
        pytest.param("sync", (200, b"<html>"), "no answer that can be read", id="no-json"),
        pytest.param("sync", (200, []), "no answer that can be read", id="no-object"),
        pytest.param("sync", (200, {"next_batch": 7}), "there is no next_batch", id="no-place"),
        pytest.param("whoami", (200, {"user_id": 7}), "there is no user_id", id="nobody"),
        pytest.param("sync", (403, {"errcode": 7}), "the homeserver fails (403)", id="odd-code"),
    ],
)
async def test_what_cannot_be_read_is_a_channel_that_is_lost(
    tmp_path: Path, word: str, answer: tuple[int, object], why: str
) -> None:
    server = PlayedHomeserver(BOT)
    server.answers[word] = [answer]
    async with running(tmp_path, server) as run:
        pass

    assert why in run.lost
    assert not run.place.exists()


async def test_a_homeserver_that_is_away_is_told_as_such(tmp_path: Path) -> None:
    run = channel_of(tmp_path, PlayedHomeserver(BOT).url, BOT)
    await run.run()

    assert run.lost == "the homeserver cannot be reached: connection refused"


async def test_the_token_is_in_no_address_and_in_no_error(tmp_path: Path) -> None:
    server = PlayedHomeserver(BOT)
    server.answers["send"] = [(403, {"errcode": "M_FORBIDDEN", "error": "a-secret-token"})]
    async with running(tmp_path, server) as run:
        with pytest.raises(SendError) as caught:
            await run.channel.send(OUTBOUND)

    assert "secret" not in f"{server.asked}{caught.value}"
    assert set(server.headers) == {"Bearer a-secret-token"}


@pytest.mark.parametrize(
    ("answer", "retryable", "ambiguous"),
    [
        pytest.param((403, {"errcode": "M_FORBIDDEN"}), False, False, id="forbidden"),
        pytest.param((413, {"errcode": "M_TOO_LARGE"}), False, False, id="too-large"),
        pytest.param((404, b""), False, False, id="gone"),
        pytest.param((500, {"errcode": "M_UNKNOWN"}), True, True, id="fails"),
        pytest.param((504, b"<html>"), True, True, id="front-fails"),
        pytest.param((200, b"<html>"), True, True, id="no-json"),
        pytest.param((200, {"event_id": None}), True, True, id="no-id"),
    ],
)
async def test_a_message_that_is_not_taken_is_told_by_what_became_of_it(
    tmp_path: Path, answer: tuple[int, object], *, retryable: bool, ambiguous: bool
) -> None:
    server = PlayedHomeserver(BOT)
    server.answers["send"] = [answer]
    async with running(tmp_path, server) as run:
        with pytest.raises(SendError) as caught:
            await run.channel.send(OUTBOUND)

    assert (caught.value.retryable, caught.value.ambiguous) == (retryable, ambiguous)
    assert not isinstance(caught.value, NotConnectedError)


@pytest.mark.parametrize(
    ("asked_ms", "granted_s"), [(2_500, 2.5), (1_800_000, 1_800), (1e15, MAX_ASKED_S)]
)
async def test_who_writes_is_told_how_long_a_pause_is_up_to_an_hour(
    tmp_path: Path, asked_ms: float, granted_s: float
) -> None:
    server = PlayedHomeserver(BOT)
    server.answers["send"] = [(429, {"retry_after_ms": asked_ms})]
    async with running(tmp_path, server) as run:
        with pytest.raises(SendError) as caught:
            await run.channel.send(OUTBOUND)

    assert caught.value.retry_after_s == granted_s


async def test_a_token_that_is_taken_back_costs_no_try(tmp_path: Path) -> None:
    server = PlayedHomeserver(BOT)
    server.answers["send"] = [(401, {"errcode": "M_UNKNOWN_TOKEN"})]
    async with running(tmp_path, server) as run:
        with pytest.raises(NotConnectedError):
            await run.channel.send(OUTBOUND)


async def test_odd_events_stop_nobody(tmp_path: Path) -> None:
    server = PlayedHomeserver(BOT)
    odd = [
        None,
        "text",
        {},
        {"type": 7, "sender": 7, "content": []},
        event(1, content={"msgtype": ["m.text"], "body": {"a": 1}}),
        event(2, content={"msgtype": "m.text", "body": 7}),
        event(3, content={"msgtype": "m.image", "body": "x", "info": {"size": "big"}}),
        event(4, content={"msgtype": "m.text", "body": "x", "m.relates_to": {"rel_type": []}}),
        event(5, state_key=""),
        event(6, type="m.room.redaction", content={"redacts": 7}),
        event(7, type="m.room.member", content={"displayname": []}, state_key=[1]),
        event(8, type="m.room.name", content={"name": {}}, state_key=""),
    ]
    async with running(tmp_path, server) as run:
        server.push(said("s1", *odd, event(9, "sound")))
        await run.until(lambda: "sound" in run.texts)

    assert [one.message_id for one in run.received] == ["$3", "$4", "$9"]


async def test_where_nobody_says_how_many_there_are_it_is_a_group(tmp_path: Path) -> None:
    server = PlayedHomeserver(BOT)
    async with running(tmp_path, server) as run:
        server.push(said("s1", event(1), members=None))
        await run.until(lambda: run.received)

    assert run.received[0].source.chat_type is ChatType.GROUP


async def test_a_place_with_nothing_before_it_is_stored_now_and_then(tmp_path: Path) -> None:
    server = PlayedHomeserver(BOT)
    async with running(tmp_path, server) as run:
        mine = event(1, sender=BOT.user_id)
        server.push(said("s1", event(2)), said("s2", mine))
        await server.until_asked("sync", 5)
        early = orjson.loads(run.place.read_bytes())["since"]
        assert isinstance(run.clock, FakeClock)
        await run.clock.advance(LAZY_S)
        server.push(said("s3", mine))
        await server.until_asked("sync", 6)
        late = orjson.loads(run.place.read_bytes())["since"]

    assert (early, late) == ("s1", "s3")


async def test_before_the_rooms_are_known_nothing_is_written_into_one(tmp_path: Path) -> None:
    """It might be encrypted."""
    server = PlayedHomeserver(BOT)
    server.push((429, BUSY))
    run = channel_of(tmp_path, server.url, BOT)
    async with server.serving(), anyio.create_task_group() as tasks:
        tasks.start_soon(run.run)
        await server.until_asked("sync")
        with pytest.raises(NotConnectedError):
            await run.channel.send(OUTBOUND)
        tasks.cancel_scope.cancel()

    assert server.times("send") == 0


def test_a_token_that_cannot_be_one_is_refused_with_its_place(tmp_path: Path) -> None:
    for token, problem in (("", "is blank"), ("two words", "no access token")):
        user = User("@bot:matrix.test", "", token, "D")
        with pytest.raises(ConfigurationError) as caught:
            channel_of(tmp_path, "http://127.0.0.1:1", user)

        assert caught.value.problems[0].startswith("channels.work.token: ")
        assert problem in caught.value.problems[0]
