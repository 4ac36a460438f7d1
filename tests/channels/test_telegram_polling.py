"""Laws of long polling on Telegram: offsets, other programs that poll, parts, pauses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest
from structlog.testing import capture_logs

from gateway.channels.base import Receipt
from gateway.channels.running import LONGEST_PAUSE_S, ChannelState
from gateway.channels.telegram.polling import BATCH, CALM_S, RETRY_S, UNDISTURBED_S
from gateway.errors import StorageBusyError
from tests.support.telegram_api import Failure, TelegramServer, message
from tests.support.telegram_runs import running

if TYPE_CHECKING:
    from pathlib import Path


async def test_the_offset_moves_past_what_is_stored_and_no_further(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        run.receipts = [Receipt(), StorageBusyError()]
        first = run.server.push(message=message("one", 1))
        second = run.server.push(message=message("two", 2))
        await run.server.until(lambda: run.received)
        await run.clock.advance(RETRY_S - 0.01)
        early = list(run.server.acknowledged), run.offsets()[-1]
        await run.clock.advance(0.01)
        await run.server.until(lambda: run.server.acknowledged == [first, second])

    assert early == ([], None)
    assert run.offsets()[2:] == [str(first + 1), str(second + 1)]
    assert [one.text for one in run.received] == ["one", "two"]


async def test_after_a_quiet_poll_no_old_offset_is_told(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        update_id = await run.say("hello", 1)
        await run.server.until(lambda: run.server.polled)
        run.server.end_poll()
        await run.server.until(lambda: len(run.offsets()) == 4)

    assert run.offsets() == [None, None, str(update_id + 1), None]


async def test_only_messages_are_asked_for(tmp_path: Path) -> None:
    async with running(tmp_path, poll_timeout_s=17) as run:
        asked = [fields for method, fields in run.server.asked if method == "getUpdates"]

    assert orjson.loads(asked[0]["allowed_updates"]) == [
        "message",
        "edited_message",
        "channel_post",
        "edited_channel_post",
    ]
    assert [fields["timeout"] for fields in asked] == ["0", "17"]


async def test_a_second_poller_is_told_once_and_backed_off_from(tmp_path: Path) -> None:
    reason = ""
    with capture_logs() as logs:
        async with running(tmp_path) as run:
            for pause_s in (1, 2, 4):
                run.server.poll_elsewhere()
                reason = await run.lost()
                await run.clock.advance(pause_s)
                await run.server.until(lambda: run.server.polled)
            contested = run.state()
            run.server.end_poll()
            await run.server.until(lambda: run.state() is ChannelState.RUNNING)
            await run.clock.advance(CALM_S)
            first = len([line for line in logs if line["event"] == "telegram.second_poller"])
            run.server.poll_elsewhere()
            await run.lost()

    told = [line for line in logs if line["event"] == "telegram.second_poller"]
    assert reason == "another program asks for this bot's messages (409)"
    assert contested is ChannelState.STARTING
    assert (first, len(told)) == (1, 2)
    assert {(line["log_level"], line["account"]) for line in told} == {("error", "main")}
    assert len([line for line in logs if line["event"] == "channel.running"]) == 2
    lost = [line["log_level"] for line in logs if line["event"] == "channel.lost"]
    assert lost == ["warning", "debug", "debug", "warning"]


async def test_messages_that_come_in_between_have_no_second_poller_told_again(
    tmp_path: Path,
) -> None:
    with capture_logs() as logs:
        async with running(tmp_path) as run:
            for number, pause_s in enumerate((1, 2, 4), 1):
                run.server.poll_elsewhere()
                await run.lost()
                await run.clock.advance(pause_s)
                await run.server.until(lambda: run.server.polled)
                await run.say("hello", number)
            contested = run.state()
            await run.server.until(lambda: run.server.polled)
            # Polls that a message ends tell nothing each, but in a row.
            await run.clock.advance(UNDISTURBED_S)
            await run.say("hello", 4)
            await run.up()

    assert contested is ChannelState.STARTING
    assert [one["event"] for one in logs].count("telegram.second_poller") == 1
    lost = [line["log_level"] for line in logs if line["event"] == "channel.lost"]
    assert lost == ["warning", "debug", "debug"]
    assert len(run.received) == 4


async def test_a_second_poller_that_pauses_for_longer_than_a_poll_is_told_once(
    tmp_path: Path,
) -> None:
    with capture_logs() as logs:
        async with running(tmp_path) as run:
            for _ in range(3):
                run.server.poll_elsewhere()
                await run.lost()
                await run.clock.advance(LONGEST_PAUSE_S)
                await run.server.until(lambda: run.server.polled)
                run.server.end_poll()
                await run.up()
                await run.server.until(lambda: run.server.polled)

    assert [one["event"] for one in logs].count("telegram.second_poller") == 1


async def test_what_waits_is_read_in_small_parts(tmp_path: Path) -> None:
    """A hundred at once would hold all else for as long as they take to read."""
    server = TelegramServer()
    waiting = [server.push(message=message(f"{n}", n)) for n in range(2 * BATCH + 1)]
    async with running(tmp_path, server) as run:
        await server.until(lambda: server.acknowledged == waiting)
        offsets = run.offsets()[:4]

    assert offsets == [None, *(str(waiting[n] + 1) for n in (BATCH - 1, 2 * BATCH - 1, -1))]
    assert [one.text for one in run.received] == [f"{n}" for n in range(2 * BATCH + 1)]


async def test_a_pause_that_is_asked_for_is_kept_while_polling(tmp_path: Path) -> None:
    server = TelegramServer()
    server.failures["getUpdates"] = [Failure(429, "Too Many Requests", {"retry_after": 30})]
    async with running(tmp_path, server, ready=False) as run:
        await server.until(lambda: run.clock.waits_s)
        await run.clock.advance(29.9)
        early = len(run.offsets())
        await run.clock.advance(0.1)
        await server.until(lambda: len(run.offsets()) > early)
        await server.until(lambda: run.state() is ChannelState.RUNNING)

    assert early == 1


@pytest.mark.parametrize("method", ["getMe", "getWebhookInfo", "deleteWebhook"])
async def test_a_pause_that_is_asked_for_at_the_start_is_kept(tmp_path: Path, method: str) -> None:
    server = TelegramServer()
    server.hook = {"url": "https://elsewhere.example.org"}
    server.failures[method] = [Failure(429, "Too Many Requests", {"retry_after": 120})]
    async with running(tmp_path, server, ready=False) as run:
        await run.lost()
        wait_s = run.clock.waits_s[-1]
        await run.clock.advance(120)
        await run.up()

    assert wait_s == 120
