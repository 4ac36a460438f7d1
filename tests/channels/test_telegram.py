"""Laws of the channel to Telegram beyond the contract: what is told, refused and shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import orjson
import pytest
from structlog.testing import capture_logs
from typing_extensions import override

from gateway.channels.base import REPEAT, ChannelError, NotConnectedError, Receipt, SendError
from gateway.channels.running import ChannelState, open_channels
from gateway.channels.telegram.channel import TelegramChannel
from gateway.clock import FakeClock
from gateway.errors import ConfigurationError
from gateway.model import ChatType, SessionSource
from tests.support.telegram_api import TOKEN, Failure, TelegramServer, user
from tests.support.telegram_runs import Run, WatchedClock, outbound, running, settings

if TYPE_CHECKING:
    from pathlib import Path


async def test_what_was_refused_is_acknowledged_and_its_sender_told_as_it_stands(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as run:
        run.receipts = [Receipt(accepted=False, text="Not *you*.")]
        await run.say("hello", 5)
        await run.server.until(lambda: run.server.posted)

    (told,) = run.server.posted
    assert (told.chat, told.text) == ("7", "Not *you*.")
    assert "parse_mode" not in told.fields


@pytest.mark.parametrize(
    ("failure", "note"),
    [
        (Failure(429, "Too Many Requests", {"retry_after": 3}), ""),
        (Failure(502, body="<html>"), REPEAT),
    ],
)
async def test_a_code_is_told_though_telegram_refuses_once(
    tmp_path: Path, failure: Failure, note: str
) -> None:
    server = TelegramServer()
    server.failures["sendMessage"] = [failure]
    async with running(tmp_path, server) as run:
        run.receipts = [Receipt(accepted=False, text="Your code is 4711.")]
        await run.say("hello", 1)
        await server.until(lambda: run.clock.waits_s)
        await run.clock.advance(run.clock.waits_s[0])
        await server.until(lambda: server.posted)

    assert [one.text for one in server.posted] == [f"{note}Your code is 4711."]


async def test_a_code_that_an_outage_kept_back_is_told_after_it(tmp_path: Path) -> None:
    server = TelegramServer()
    server.failures["sendMessage"] = [Failure(502, body="<html>")]
    async with running(tmp_path, server) as run:
        run.receipts = [Receipt(accepted=False, text="Your code is 4711.")]
        await run.say("hello", 1)
        await server.until(lambda: run.clock.waits_s)
        server.failures["getUpdates"] = [Failure(502, body="<html>")]
        await run.lost()
        await run.clock.advance(1)
        await server.until(lambda: server.posted)

    assert [one.text for one in server.posted] == [f"{REPEAT}Your code is 4711."]


async def test_an_update_that_is_not_understood_is_passed_and_those_beside_it_come(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as run:
        with capture_logs() as logs:
            strange = run.server.push(message={"message_id": "what", "text": "a secret"})
            await run.say("hello", 2)

    assert [one.text for one in run.received] == ["hello"]
    assert strange in run.server.acknowledged
    assert "telegram.update_not_understood" in [line["event"] for line in logs]
    assert "secret" not in str(logs)


@pytest.mark.parametrize(
    ("method", "failure", "why"),
    [
        ("getMe", Failure(401, "Unauthorized"), "Telegram refuses the token"),
        ("getMe", Failure(404, "Not Found"), "Telegram refuses the token"),
        (
            "getMe",
            Failure(429, "Too Many Requests", {"retry_after": 5}),
            "Telegram asks to be left alone for 5 s",
        ),
        (
            "getUpdates",
            Failure(409, "Conflict: can't use getUpdates method while webhook is active"),
            "another program has set a webhook for this bot (409)",
        ),
        ("getUpdates", Failure(502, "Bad Gateway"), "Telegram fails (Bad Gateway)"),
        ("getUpdates", Failure(502, body="<html>"), "Telegram's answer cannot be read"),
        ("getUpdates", Failure(502, body=b"<html>\xe9"), "Telegram's answer cannot be read"),
        ("getUpdates", Failure(502, body='{"ok":false}'), "Telegram's answer cannot be read"),
        ("getUpdates", Failure(lost=True), "Telegram cannot be reached (ServerDisconnectedError)"),
    ],
)
async def test_why_the_channel_is_lost_is_said(
    tmp_path: Path, method: str, failure: Failure, why: str
) -> None:
    server = TelegramServer()
    server.failures[method] = [failure]
    async with running(tmp_path, server, ready=False) as run:
        reason = await run.lost()
        await run.clock.advance(failure.parameters.get("retry_after", 1))
        await run.server.until(lambda: run.state() is ChannelState.RUNNING)

    assert reason.startswith(why)
    assert server.token not in reason


async def test_a_wrong_token_is_told_and_never_shown(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with running(tmp_path, ready=False, secret="5:another-token") as run:
            reason = await run.lost()

    assert reason.startswith("Telegram refuses the token")
    assert "another-token" not in str(logs)


async def test_where_telegram_is_not_there_nothing_counts_as_sent(tmp_path: Path) -> None:
    server = TelegramServer()
    channel = TelegramChannel("main", settings(tmp_path, server), FakeClock())

    run = Run(server, channel, WatchedClock(server.note))

    with pytest.raises(ChannelError, match="cannot be reached"):
        await channel.run(run.receive, ready=pytest.fail)
    with pytest.raises(NotConnectedError):
        await channel.send(outbound())


@pytest.mark.parametrize(
    ("failure", "retryable", "ambiguous"),
    [
        (Failure(403, "Forbidden: bot was blocked by the user"), False, False),
        (Failure(400, "Bad Request: chat not found"), False, False),
        (Failure(400, 'Bad Request: wrong "secret text"'), False, False),
        (Failure(500, "Internal Server Error"), True, True),
        (Failure(502, body="<html>secret"), True, True),
        (Failure(502, body=b"<html>secret\xe9"), True, True),
        (Failure(401, "Unauthorized"), True, False),
    ],
)
async def test_a_refusal_says_what_may_be_done_about_it(
    tmp_path: Path, failure: Failure, *, retryable: bool, ambiguous: bool
) -> None:
    async with running(tmp_path) as run:
        run.server.failures["sendMessage"] = [failure]
        with pytest.raises(SendError) as caught:
            await run.channel.send(outbound())

    assert (caught.value.retryable, caught.value.ambiguous) == (retryable, ambiguous)
    assert "secret" not in str(caught.value)


async def test_telegram_is_asked_whether_it_is_there_and_shows_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        await run.channel.probe()
        run.server.failures["getMe"] = [Failure(502, "Bad Gateway")]
        with pytest.raises(SendError) as caught:
            await run.channel.probe()

    assert caught.value.retryable
    assert not run.server.posted


async def test_markup_that_telegram_refuses_is_shown_plain(tmp_path: Path) -> None:
    text = "**bold**"
    async with running(tmp_path) as run:
        refusal = Failure(400, "Bad Request: can't parse entities: unsupported start tag")
        run.server.failures = {"sendMessage": [refusal], "editMessageText": [refusal]}
        shown_id = await run.channel.send(outbound(text))
        first = run.server.posted[0].text
        await run.channel.edit(outbound(f"{text}!"), shown_id)

    assert [first, run.server.posted[0].text] == [text, f"{text}!"]


@pytest.mark.parametrize(
    "reply_to",
    [
        pytest.param(f"{TOKEN.partition(':')[0]}:5", id="as-of-today"),
        pytest.param("5", id="of-an-older-gateway"),
    ],
)
async def test_a_message_goes_to_its_topic_refers_and_has_no_preview(
    tmp_path: Path, reply_to: str
) -> None:
    topic = SessionSource("telegram", "-100", ChatType.THREAD, "main", thread_id="42")
    async with running(tmp_path) as run:
        await run.channel.send(outbound("see https://a.b", topic, reply_to=reply_to))
        await run.channel.show_typing(topic)

    (sent,) = run.server.posted
    assert (sent.chat, sent.topic) == ("-100", "42")
    assert orjson.loads(sent.fields["reply_parameters"]) == {
        "message_id": 5,
        "allow_sending_without_reply": True,
    }
    assert orjson.loads(sent.fields["link_preview_options"]) == {"is_disabled": True}
    assert run.server.typing == [("-100", "42")]


async def test_messages_of_another_bot_are_neither_answered_nor_edited(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        shown_id = await run.channel.send(outbound("ours"))
        number = shown_id.partition(":")[2]
        await run.channel.send(outbound("no answer", reply_to=f"999:{number}"))
        with pytest.raises(SendError) as caught:
            await run.channel.edit(outbound("theirs"), f"999:{number}")

    assert shown_id == f"{TOKEN.partition(':')[0]}:{run.server.posted[0].message_id}"
    assert [one.text for one in run.server.posted] == ["ours", "no answer"]
    assert "reply_parameters" not in run.server.posted[1].fields
    assert not caught.value.retryable


async def test_an_edit_to_what_is_shown_already_is_well(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        shown_id = await run.channel.send(outbound("same"))
        await run.channel.edit(outbound("same"), shown_id)
        with pytest.raises(SendError) as caught:
            await run.channel.edit(outbound("other"), "999999")

    assert not caught.value.retryable


async def test_a_group_that_has_moved_is_written_to_where_it_is_now(tmp_path: Path) -> None:
    group = SessionSource("telegram", "-5", ChatType.GROUP, "main")
    moved = Failure(400, "Bad Request: group chat was upgraded", {"migrate_to_chat_id": -1005})
    async with running(tmp_path) as run:
        run.server.failures["sendMessage"] = [moved]
        await run.channel.send(outbound(target=group))

    assert [one.chat for one in run.server.posted] == ["-1005"]


async def test_that_a_group_has_moved_is_told_once_with_both_ids(tmp_path: Path) -> None:
    group = {"id": -5, "type": "group", "title": "club"}
    moved = {"id": -1005, "type": "supergroup", "title": "club"}
    with capture_logs() as logs:
        async with running(tmp_path, answer_in_groups="all") as run:
            await run.say(None, 1, chat=group, migrate_to_chat_id=-1005)
            await run.say(None, 1, chat=moved, migrate_from_chat_id=-5)
            await run.say("hello", 2, chat=moved)

    told = [line for line in logs if line["event"] == "telegram.chat_migrated"]
    assert [(one["chat_id"], one["new_chat_id"]) for one in told] == [("-5", "-1005")]
    assert {(one["log_level"], one["account"]) for one in told} == {("warning", "main")}
    assert [one.source.chat_id for one in run.received] == ["-1005"]


class Slow(TelegramServer):
    """Takes its time with what is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = anyio.Event()
        self.held = anyio.Event()

    @override
    async def before(self, method: str) -> None:
        if method == "sendMessage":
            self.held.set()
            await self.gate.wait()


async def test_a_lost_poll_cuts_off_nothing_that_is_being_sent(tmp_path: Path) -> None:
    server, sent = Slow(), []

    async def send(run: Run) -> None:
        sent.append(await run.channel.send(outbound()))

    async with running(tmp_path, server) as run, anyio.create_task_group() as tasks:
        tasks.start_soon(send, run)
        await server.held.wait()
        server.poll_elsewhere()
        await anyio.wait_all_tasks_blocked()
        server.gate.set()
        await run.lost()

    assert [one.rpartition(":")[2] for one in sent] == [str(server.posted[0].message_id)]


async def test_names_are_cleaned(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        await run.say("hello", 1, sender=user(name="A\u202en"))

    assert run.received[0].source.user_name == "A�n"


@pytest.mark.parametrize("secret", ["not one", "654321", "12:a/../b", "12:a b"])
async def test_what_is_no_token_is_refused_and_not_shown(tmp_path: Path, secret: str) -> None:
    tables = {"main": settings(tmp_path, TelegramServer(), secret=secret)}

    with pytest.raises(ConfigurationError) as caught:
        open_channels(tables, tmp_path, FakeClock())

    (problem,) = caught.value.problems
    assert problem.startswith("channels.main.token: no token of a bot; accepted is what @BotFather")
    assert secret not in problem
