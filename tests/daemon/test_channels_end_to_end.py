"""A real daemon with a channel, as the people in its chats see it."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread
import apsw
import pytest

from gateway.clock import SystemClock
from gateway.durable.pages import open_checked
from gateway.sessions.history import stamp
from gateway.turns.running import CUT_OFF, GIVEN_UP
from tests.cli.processes import gateway
from tests.support.bridge import (
    LIMIT_S,
    bridge,
    bridged_daemon,
    owed,
    until_owed,
)
from tests.support.loopback import short_directory
from tests.tools.running import REAL, ROOT

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from tests.support.bridge import Line
    from tests.support.daemon import Daemon

HANGS: Final = '[agents.main]\nkind = "scripted"\nreplies = ["!hang"]\n'
ADDS: Final = f"""
[agents.main]
kind = "scripted"
replies = ['!call box_add {{"a": 2, "b": 40}}', "done"]

[agents.main.tools]
allow = ["box_add"]
ask = ["box_add"]

[tools.servers.box]
command = {REAL}
cwd = "{ROOT}"
start_timeout_s = 60
"""
TTL_S: Final = 60
CHATS: Final = ("ann", "bob", "carol")
REFUSED: Final = {"retryable": False, "error": "no such chat"}


@pytest.fixture
def folder() -> Generator[Path]:
    """Give a directory whose path leaves room for a socket."""
    with short_directory() as path:
        yield Path(path)


async def outbox(daemon: Daemon, *arguments: str) -> Any:  # noqa: ANN401 - JSON
    """Run `gateway outbox` beside the daemon, and return its document."""
    command = partial(gateway, "outbox", *arguments, "--json", "--state-dir", daemon.state_dir)
    done = await anyio.to_thread.run_sync(command)
    assert done.status == 0, done.stderr
    return done.document


async def owe_long(folder: Path) -> None:
    """Leave a reply that will soon be older than `TTL_S`; one that is made after it is not."""
    async with bridged_daemon(folder=folder, serves=False) as (daemon, away):
        await away.say("hello")
        await until_owed(daemon, 1)
        assert await daemon.terminate() == 0
    at = SystemClock().now() - timedelta(seconds=TTL_S - 1)
    path = folder / "state" / "gateway.db"
    with closing(open_checked(path, apsw.SQLITE_OPEN_READWRITE)) as connection:
        connection.execute("UPDATE outbox SET created_at = ?1, owed_since = ?1", (stamp(at),))


async def until_late(reply: Line, seconds: float) -> None:
    """Wait until a reply is older than so many seconds."""
    late_at = datetime.fromisoformat(reply["created_at"]) + timedelta(seconds=seconds)
    clock = SystemClock()
    while clock.now() <= late_at:
        await clock.sleep((late_at - clock.now()).total_seconds() + 0.001)


async def test_messages_of_several_chats_are_answered_each_in_the_order_of_its_chat() -> None:
    async with bridged_daemon() as (daemon, people):
        ids = {chat: list[str]() for chat in CHATS}
        for number in range(5):
            for chat in CHATS:
                ids[chat].append(await people.write(f"{chat} says {number}", chat))
        await people.until(lambda: len(people.shown) == 15)
        sessions = (await daemon.get("/v1/sessions"))["sessions"]

    for chat in CHATS:
        assert people.texts(chat) == [f"{chat} says {number}" for number in range(5)]
        of_chat = [line for line in people.shown if line["chat_id"] == chat]
        assert [line["reply_to"] for line in of_chat] == ids[chat]
    assert not any(line["repeat"] for line in people.shown)
    assert {entry["turns"] for entry in sessions} == {5}
    assert len(sessions) == 3


async def test_who_is_away_for_a_while_gets_the_replies_afterwards() -> None:
    async with bridged_daemon(serves=False) as (daemon, away):
        assert await away.say("one") == ""
        assert await away.say("two") == ""
        await until_owed(daemon, 2)
        async with bridge(daemon) as people:
            await people.until(lambda: len(people.shown) == 2)
            assert await people.ask("three", "bob") == "three"

    assert people.texts("ann") == ["one", "two"]
    assert not any(line["repeat"] for line in people.shown)
    assert away.shown == []


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_what_is_owed_is_sent_after_a_restart_in_order(folder: Path, how: str) -> None:
    async with bridged_daemon(folder=folder, serves=False) as (daemon, away):
        for text in ("one", "two", "three"):
            await away.say(text)
        await until_owed(daemon, 3)
        if how == "stopped":
            assert await daemon.terminate() == 0
        else:
            await daemon.kill()
    async with bridged_daemon(folder=folder) as (daemon, people):
        await people.until(lambda: len(people.shown) == 3)
        assert people.texts("ann") == ["one", "two", "three"]
        assert not any(line["repeat"] for line in people.shown)
        await until_owed(daemon, 3, "sent")
        assert await owed(daemon) == []


async def test_a_late_reply_says_so(folder: Path) -> None:
    await owe_long(folder)
    config = f"[delivery]\nttl_s = {TTL_S}\n"
    async with bridged_daemon(config, folder=folder, serves=False) as (daemon, _):
        (reply,) = await until_owed(daemon, 1)
        await until_late(reply, TTL_S)
        async with bridge(daemon) as people:
            await people.until(lambda: bool(people.shown))
            assert (await people.ask("again")) == "again"

    at = datetime.fromisoformat(reply["created_at"])
    note = f"(Late: this was answered on {at:%Y-%m-%d at %H:%M} UTC.)\n\n"
    assert people.texts("ann") == [f"{note}hello", "again"]


async def test_a_late_reply_is_a_dead_letter_where_it_is_configured_so(folder: Path) -> None:
    await owe_long(folder)
    config = f'[delivery]\nttl_s = {TTL_S}\nlate = "drop"\n'
    async with bridged_daemon(config, folder=folder, serves=False) as (daemon, _):
        (dead,) = await until_owed(daemon, 1, "dead")
        assert dead["error"] == "expired"
        async with bridge(daemon) as people:
            assert await people.ask("again") == "again"
            assert people.texts("ann") == ["again"]
        await daemon.log.wait_for("outbox.dead")
        (line,) = daemon.log.of("outbox.dead")
        assert (line["reason"], line["turn_id"]) == ("expired", dead["id"])


async def test_a_dead_letter_is_visible_holds_nothing_up_and_is_sent_when_asked_for() -> None:
    async with bridged_daemon() as (daemon, people):
        people.refuse = lambda line: REFUSED if line["text"] == "one" else None
        await people.say("one")
        assert await people.ask("two") == "two"
        assert people.texts("ann") == ["two"]

        (dead,) = (await outbox(daemon, "list"))["replies"]
        assert (dead["state"], dead["chat_id"], dead["attempts"]) == ("dead", "ann", 1)
        assert dead["error"] == "refused: no such chat"

        people.refuse = lambda _: None
        await outbox(daemon, "retry", dead["id"])
        await people.until(lambda: len(people.shown) == 2)
        assert people.texts("ann") == ["two", "one"]
        assert people.shown[-1]["repeat"] is False
        await until_owed(daemon, 2, "sent")
        assert (await outbox(daemon, "list"))["replies"] == []


async def test_a_tool_that_needs_a_yes_is_asked_for_in_the_chat_at_once_and_a_yes_lets_it_run() -> (
    None
):
    async with bridged_daemon(ADDS) as (daemon, people):
        await daemon.until_tools_run()
        message_id = await people.write("add")
        asked = await people.answer(message_id)
        assert "box_add" in asked["text"]
        number = asked["text"].partition('"yes ')[2].partition('"')[0]
        (server,) = (await daemon.get("/v1/status"))["tools"]
        assert server["calls"] == 0

        assert await people.ask(f"yes {number}") == "Yes: the turn goes on with it."
        await people.until(lambda: len(people.shown) == 3)
        (server,) = (await daemon.get("/v1/status"))["tools"]
        assert server["calls"] == 1

    (reply,) = [line for line in people.shown if line["reply_to"] == message_id and line != asked]
    assert reply["text"].endswith("done")
    assert asked["deliver"] != reply["deliver"]


async def test_a_message_that_waits_is_told_so_and_is_answered_in_its_turn() -> None:
    async with bridged_daemon(HANGS) as (daemon, people):
        assert await people.say("one") == ""
        await daemon.until(lambda status: status["turns"]["running"] == 1)
        assert await people.say("two") == (
            "1 message is answered first; yours is kept and comes next."
        )
        assert await people.say("three") == (
            "2 messages are answered first; yours is kept and comes after them."
        )
        assert await people.say("other", "bob") == ""
        await people.say("/stop")
        await people.until(lambda: len(people.texts("ann")) == 4)

    ids = [one for one in people.receipts if one.startswith("ann-")]
    answered = [line["reply_to"] for line in people.shown if line["chat_id"] == "ann"]
    assert sorted(answered) == sorted(ids)
    assert [one for one in answered if one != ids[3]] == ids[:3]


async def test_a_turn_that_was_cut_off_is_told_in_the_chat_where_it_is_configured_so(
    folder: Path,
) -> None:
    config = f'{HANGS}[turns]\ninterrupted = "tell"\n'
    async with bridged_daemon(config, folder=folder) as (daemon, people):
        await people.say("one")
        await daemon.until(lambda status: status["turns"]["running"] == 1)
        await daemon.kill()
    async with bridged_daemon(config, folder=folder) as (daemon, people):
        await people.until(lambda: bool(people.shown))
        await until_owed(daemon, 1, "sent")

    assert people.texts("ann") == [CUT_OFF]


async def test_a_chat_that_breaks_three_starts_in_a_row_is_paused_and_told_so(folder: Path) -> None:
    async def hang(text: str = "", *, told: Sequence[str] = ()) -> None:
        async with bridged_daemon(HANGS, folder=folder) as (daemon, people):
            await until_owed(daemon, len(told), "sent")
            assert people.texts("ann") == list(told)
            if text:
                await people.say(text)
            await daemon.until(lambda status: status["turns"]["running"] == 1)
            await daemon.kill()

    await hang("one")
    await hang()
    await hang("two", told=[GIVEN_UP])

    async with bridged_daemon(folder=folder) as (daemon, people):
        assert "stopped three times while it answered" in (await people.first())["text"]
        await daemon.log.wait_for("session.paused_after_restarts")
        message_id = await people.write("three")
        await people.until(lambda: message_id in people.receipts)
        assert people.receipts[message_id]["refused"] == message_id
        assert "paused" in people.receipts[message_id]["text"]

        assert await people.ask("/resume") == "It goes on."
        assert await people.ask("four") == "four"


async def test_a_command_that_is_forwarded_is_a_message_like_all_others() -> None:
    async with bridged_daemon() as (daemon, people):
        await people.ask("one")
        (before,) = (await daemon.get("/v1/sessions"))["sessions"]
        assert await people.ask("/new", forwarded=True) == "/new"
        (after,) = (await daemon.get("/v1/sessions"))["sessions"]
        assert (after["session_id"], after["turns"]) == (before["session_id"], 2)

        assert (await people.ask("/new")).startswith("A new conversation begins.")
        (anew,) = (await daemon.get("/v1/sessions"))["sessions"]
        assert (anew["session_id"] != before["session_id"], anew["turns"]) == (True, 0)


async def test_a_channel_that_cannot_have_its_socket_harms_nothing_else(folder: Path) -> None:
    (folder / "state").mkdir(mode=0o700)
    (folder / "state" / "taken.sock").write_text("of another program")
    config = '[channels.taken]\nkind = "loopback"\n'
    async with bridged_daemon(config, folder=folder) as (daemon, people):
        assert await people.ask("hello") == "hello"
        assert (await daemon.say("hello"))["reply"] == "hello"
        with anyio.fail_after(LIMIT_S):
            await daemon.log.wait_for("channel.lost")
        channels = {one["account"]: one for one in (await daemon.get("/v1/status"))["channels"]}
        assert channels["lo"]["state"] == "running"
        assert channels["taken"]["state"] in {"backing_off", "starting"}
    assert (folder / "state" / "taken.sock").read_text() == "of another program"
