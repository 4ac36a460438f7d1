"""Accounts with many rooms, and several of one user."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import orjson
import pytest
from typing_extensions import override

from gateway.channels.base import ChannelError, Receipt
from gateway.channels.matrix.api import PAGE
from gateway.channels.matrix.channel import MatrixChannel
from gateway.channels.matrix.parsing import LARGE_BYTES, read_json
from gateway.channels.matrix.place import Place, Room, place_path, write_place
from gateway.clock import FakeClock
from tests.support.held_up import HELD_UP_S, slowest_of_three, watched
from tests.support.matrix import settings
from tests.support.played_matrix import BOT, PlayedHomeserver, event, running, said

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp import web

    from gateway.model import Inbound

ROOMS = 20_000


async def test_with_many_rooms_no_message_holds_up_the_loop(tmp_path: Path) -> None:
    rooms = {f"!{number}": Room(3, f"room {number}") for number in range(ROOMS)}
    write_place(place_path(tmp_path, "work"), Place(BOT.user_id, "s0", rooms))
    server = PlayedHomeserver(BOT)
    messages = 0
    async with running(tmp_path, server) as run:

        async def measure() -> dict[str, float]:
            nonlocal messages
            messages += 1
            async with watched() as turns:
                server.push(said(f"s{messages}", event(messages)))
                await run.until(lambda: len(run.received) == messages)
                await server.until_asked("sync", messages + 2)
            return {"a message": max(turns)}

        slowest_s = await slowest_of_three(measure)

    assert slowest_s["a message"] < HELD_UP_S


async def test_a_second_account_of_a_user_is_refused_as_long_as_the_process_lives(
    tmp_path: Path,
) -> None:
    """Also once the first one's run has ended: with each new run it would be the other."""
    server = PlayedHomeserver(BOT)
    made = settings(tmp_path, server.url, BOT)
    second = MatrixChannel("second", made, tmp_path, FakeClock())

    async def receive(_: Inbound) -> Receipt:
        return Receipt()

    async with running(tmp_path, server):
        with pytest.raises(ChannelError) as caught:
            await second.run(receive, ready=lambda: None)
    async with server.serving():
        with pytest.raises(ChannelError) as later:
            await second.run(receive, ready=lambda: None)
    async with running(tmp_path, server) as again:
        assert again.lost == ""

    for one in (caught, later):
        assert "the same user as that of channels.work" in str(one.value)


async def test_of_two_accounts_of_a_user_the_first_one_of_the_configuration_reads(
    tmp_path: Path,
) -> None:
    """Though the homeserver answers the second one first."""

    class Slow(PlayedHomeserver):
        @override
        async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
            if request.path.endswith("/whoami") and self.times("whoami") == 0:
                self.asked.append(("whoami", {}))
                await second_is_run.wait()
                await anyio.wait_all_tasks_blocked()
                self.asked.pop()
            return await super()._answer(request)

    server, second_is_run = Slow(BOT), anyio.Event()
    made = settings(tmp_path, server.url, BOT)
    first, second = (MatrixChannel(one, made, tmp_path, FakeClock()) for one in ("a", "b"))
    lost: dict[str, str] = {}
    ready = anyio.Event()

    async def run(channel: MatrixChannel) -> None:
        async def receive(_: Inbound) -> Receipt:
            return Receipt()

        if channel is second:
            second_is_run.set()
        try:
            await channel.run(receive, ready=ready.set)
        except ChannelError as error:
            lost[channel.account] = str(error)

    async with server.serving(), anyio.create_task_group() as tasks:
        for one in (first, second):
            tasks.start_soon(run, one)
        with anyio.fail_after(30):
            await ready.wait()
            while not lost:
                await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()

    assert set(lost) == {"b"}


async def test_a_long_answer_holds_nobody_up_and_is_read_as_a_short_one(tmp_path: Path) -> None:
    server = PlayedHomeserver(BOT)
    read = said("", *(event(number, sender=BOT.user_id) for number in range(PAGE)))
    assert isinstance(read[1], dict)
    (part,) = read[1]["rooms"]["join"].values()
    syncs = 0
    async with running(tmp_path, server) as run:

        async def measure() -> dict[str, float]:
            nonlocal syncs
            syncs += 1
            join = {f"!{number}": part for number in range(300)}
            last = said(f"s{syncs}", event(PAGE + syncs))[1]
            assert isinstance(last, dict)
            body = orjson.dumps({**last, "rooms": {"join": join | last["rooms"]["join"]}})
            async with watched() as turns:
                server.push((200, body))
                await run.until(lambda: len(run.received) == syncs)
            return {"a sync": max(turns)}

        slowest_s = await slowest_of_three(measure)

    assert run.texts[0] == f"text {PAGE + 1}"
    assert slowest_s["a sync"] < HELD_UP_S


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b'{"a": ', id="half"),
        pytest.param(b'{"a": NaN, "b": "%s"}', id="no-number"),
        pytest.param(b'{"a": "\xff", "b": "%s"}', id="no-text"),
        pytest.param(b'{"a": "\\ud800", "b": "%s"}', id="half-a-character"),
        pytest.param(b'{"b": "%s", "a": ' + b"[" * 100_000, id="deep"),
    ],
)
async def test_what_is_no_json_is_none_however_long(said: bytes) -> None:
    assert await read_json(said.replace(b"%s", b"")) is None
    assert await read_json(said.replace(b"%s", b"x" * LARGE_BYTES)) is None


async def test_what_is_json_is_read_alike_however_long() -> None:
    value = {"a": [1, 2.5, None, True, {"b": "\U0001f600 \u0000"}], "b": {}}
    padded = {**value, "c": "x" * LARGE_BYTES}

    assert await read_json(orjson.dumps(value)) == value
    assert await read_json(orjson.dumps(padded)) == padded
