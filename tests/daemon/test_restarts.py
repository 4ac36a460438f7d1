"""Laws of a daemon that is killed: what was acknowledged is there, and each message is one turn."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import orjson
import pytest

from gateway.turns.running import GIVEN_UP
from tests.support.daemon import START_S, Daemon, running_daemon

if TYPE_CHECKING:
    from pathlib import Path

HANGS = '[agents.main]\nkind = "scripted"\nreplies = ["!hang"]\n'
COUNTS = (
    '[agents.main]\nkind = "scripted"\nreplies = ["!usage 100 20 30 4", "counted"]\n'
    "context_window_tokens = 8_000\nreserve_tokens = 1_000\n"
)
KEY = "agent:main:http::dm:alice::"


async def test_twenty_messages_survive_a_kill_with_their_ids_and_counters(tmp_path: Path) -> None:
    answers = []
    async with running_daemon(tmp_path / "state", COUNTS) as daemon:
        for number in range(20):
            chat = ("alice", "bob", "carol")[number % 3]
            answers.append(await daemon.say(f"message {number}", chat, f"m{number}"))
        before = {one["session_key"]: one for one in await _sessions(daemon)}
        await daemon.kill()

    async with running_daemon(tmp_path / "state", COUNTS) as daemon:
        after = {one["session_key"]: one for one in await _sessions(daemon)}
        assert after == before
        assert sorted(one["turns"] for one in after.values()) == [6, 7, 7]
        for entry in after.values():
            assert entry["input_tokens"] == 100 * entry["turns"]
            assert entry["total_tokens"] == 154 * entry["turns"]
            assert entry["context_tokens"] == 134
            of_key = [a for a in answers if a["session_key"] == entry["session_key"]]
            assert {a["session_id"] for a in of_key} == {entry["session_id"]}
            said = await daemon.said(entry["session_key"])
            assert said == [
                pair
                for number, answer in enumerate(answers)
                if answer["session_key"] == entry["session_key"]
                for pair in (("user", f"message {number}"), ("assistant", "counted"))
            ]

        again = await daemon.say("message 7", "bob", "m7")
        assert again == answers[7] | {"duplicate": True}
        assert len(await daemon.said(again["session_key"])) == 14


async def test_what_a_kill_left_of_snapshots_is_taken_away(tmp_path: Path) -> None:
    async with running_daemon(tmp_path / "state"):
        pass
    left = [tmp_path / "state" / f"sessions.json{end}" for end in (".tmp", ".prev.old")]
    for path in left:
        path.write_bytes(bytes(1000))

    async with running_daemon(tmp_path / "state"):
        assert [path for path in left if path.exists()] == []


async def test_the_same_message_id_twice_is_one_turn(tmp_path: Path) -> None:
    async with running_daemon(tmp_path / "state") as daemon:
        first = await daemon.say("hello", message_id="m1")
        second = await daemon.say("hello", message_id="m1")

        assert (first["duplicate"], second["duplicate"]) == (False, True)
        assert second == first | {"duplicate": True}
        assert await daemon.said(KEY) == [("user", "hello"), ("assistant", "hello")]
        assert (await daemon.get(f"/v1/sessions/{KEY}"))["turns"] == 1


async def test_a_turn_that_was_killed_runs_once_after_the_restart(tmp_path: Path) -> None:
    await _kill_in_a_turn(tmp_path / "state")

    async with running_daemon(tmp_path / "state") as daemon:
        recovered = await daemon.log.wait_for("turns.recovered")
        assert (recovered["count"], recovered["cut_off"]) == (1, 1)
        again = await daemon.say("hello", message_id="m1")
        assert (again["reply"], again["duplicate"]) == ("hello", True)
        assert await daemon.said(KEY) == [("user", "hello"), ("assistant", "hello")]
        await daemon.log.wait_for("turn.completed")
        assert len(daemon.log.of("turn.completed")) == 1


async def test_a_session_is_busy_until_its_killed_turn_is_answered_and_twice_killed_is_given_up(
    tmp_path: Path,
) -> None:
    await _kill_in_a_turn(tmp_path / "state")

    async with running_daemon(tmp_path / "state", HANGS) as daemon:
        assert (await daemon.get(f"/v1/sessions/{KEY}"))["busy"] is True
        assert (await daemon.post(f"/v1/sessions/{KEY}/reset")).status_code == 409
        await daemon.kill()

    async with running_daemon(tmp_path / "state") as daemon:
        again = await daemon.say("hello", message_id="m1")
        assert (again["status"], again["reply"]) == ("failed", GIVEN_UP)
        assert await daemon.said(KEY) == [("user", "hello"), ("notice", GIVEN_UP)]
        assert (await daemon.say("next"))["reply"] == "next"


async def _sessions(daemon: Daemon) -> list[dict[str, Any]]:
    sessions: list[dict[str, Any]] = (await daemon.get("/v1/sessions"))["sessions"]
    return sessions


async def _kill_in_a_turn(state_dir: Path) -> None:
    async with running_daemon(state_dir, HANGS) as daemon, anyio.create_task_group() as group:
        group.start_soon(_send_and_be_cut_off, daemon)
        await daemon.until(lambda status: status["turns"]["running"] == 1)
        await daemon.kill()


async def _send_and_be_cut_off(daemon: Daemon) -> None:
    with pytest.raises(httpx2.TransportError):
        await daemon.send("hello", message_id="m1")


@dataclass(slots=True)
class Traffic:
    """Clients that send numbered messages, each again until it is acknowledged."""

    numbers: random.Random
    daemon: Daemon | None = None
    acknowledged: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    """Answers by chat and message id."""
    changed: anyio.Event = field(default_factory=anyio.Event)
    ended: bool = False

    def set_daemon(self, daemon: Daemon | None) -> None:
        self.daemon = daemon
        self._tell()

    async def acknowledge(self, more: int) -> None:
        """Wait until so many more messages are acknowledged."""
        wanted = len(self.acknowledged) + more
        with anyio.fail_after(START_S):
            while len(self.acknowledged) < wanted:
                await self.changed.wait()

    async def client(self, name: str) -> None:
        number = 0
        while not self.ended:
            chat = self.numbers.choice([name, "shared"])
            number += 1
            await self._send(chat, f"{name}-{number}")

    async def _send(self, chat: str, message_id: str) -> None:
        while not self.ended:
            daemon = self.daemon
            if daemon is None:
                await self.changed.wait()
                continue
            try:
                response = await daemon.send(f"text {message_id}", chat, message_id)
            except (httpx2.TransportError, RuntimeError):  # killed; RuntimeError: client closed
                if self.daemon is daemon:
                    self.daemon = None
                continue
            if response.status_code == 200:
                self.acknowledged[chat, message_id] = orjson.loads(response.content)
                self._tell()
                return

    def _tell(self) -> None:
        changed, self.changed = self.changed, anyio.Event()
        changed.set()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
async def test_after_any_kill_every_acknowledged_message_has_exactly_one_turn(
    tmp_path: Path, seed: int
) -> None:
    numbers = random.Random(seed)
    traffic = Traffic(random.Random(seed + 1))
    async with anyio.create_task_group() as clients:
        for name in range(8):
            clients.start_soon(traffic.client, f"client{name}")
        for _ in range(25):
            async with running_daemon(tmp_path / "state") as daemon:
                await _check(daemon, dict(traffic.acknowledged))
                traffic.set_daemon(daemon)
                await traffic.acknowledge(numbers.randint(1, 60))
                traffic.set_daemon(None)
                await daemon.kill()
        traffic.ended = True
        traffic.set_daemon(None)

    async with running_daemon(tmp_path / "state") as daemon:
        await _check(daemon, traffic.acknowledged)
        assert len(traffic.acknowledged) > 25


async def _check(daemon: Daemon, acknowledged: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Check that what was acknowledged is in the transcripts once, and the counters fit them."""
    await daemon.until(lambda status: not status["turns"]["running"] + status["turns"]["waiting"])
    texts: dict[str, list[str]] = {}
    for entry in await _sessions(daemon):
        key = entry["session_key"]
        texts[key] = await _user_texts(daemon, key)
        assert len(texts[key]) == len(set(texts[key])) == entry["turns"]
    for (chat, message_id), answer in acknowledged.items():
        assert texts[f"agent:main:http::dm:{chat}::"].count(f"text {message_id}") == 1
        assert answer["reply"] in (f"text {message_id}", GIVEN_UP)


async def _user_texts(daemon: Daemon, key: str) -> list[str]:
    texts: list[str] = []
    after: int | None = 0
    while after is not None:
        page = await daemon.get(f"/v1/sessions/{key}/transcript?limit=1000&after={after}")
        texts += [message["text"] for message in page["messages"] if message["role"] == "user"]
        after = page["next_after"]
    return texts
