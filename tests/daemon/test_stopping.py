"""Laws of stopping: running turns get their grace, the rest is kept, and the exit is clean."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import anyio
import httpx2
import orjson

from tests.agents.wire_server import text_answer, wire_server
from tests.support.daemon import START_S, Daemon, running_daemon
from tests.support.state import shown

if TYPE_CHECKING:
    from pathlib import Path

KEY = "agent:main:http::dm:alice::"
HANGS = '[agents.main]\nkind = "scripted"\nreplies = ["!hang"]\n'


class Sender:
    """Sends messages at the same time and keeps the answers."""

    def __init__(self, daemon: Daemon) -> None:
        self.answers: dict[str, httpx2.Response] = {}
        self._daemon = daemon

    async def send(self, text: str) -> None:
        self.answers[text] = await self._daemon.send(text, message_id=text)


async def test_a_running_turn_ends_within_the_grace_and_its_client_gets_the_reply(
    tmp_path: Path,
) -> None:
    async with wire_server(text_answer("at last")) as wire:
        wire.gate = anyio.Event()
        config = f'[agents.main]\nkind = "openai"\nmodel = "m"\nbase_url = "{wire.base_url}"\n'
        async with running_daemon(tmp_path / "state", config) as daemon:
            sender = Sender(daemon)
            async with anyio.create_task_group() as group:
                group.start_soon(sender.send, "hello")
                with anyio.fail_after(START_S):
                    await wire.asked.wait()
                daemon.signal(signal.SIGTERM)
                line = await daemon.log.wait_for("gateway.stopping")
                assert line["running"] == 1
                assert wire.gate is not None
                wire.gate.set()
            assert await daemon.ended() == 0
            assert orjson.loads(sender.answers["hello"].content)["reply"] == "at last"
            assert daemon.log.of("gateway.stopped")

    assert shown(tmp_path / "state")[KEY]["turns"] == 1
    async with running_daemon(tmp_path / "state") as daemon:
        assert daemon.log.of("store.recovered")[0]["clean"] is True
        assert await daemon.said(KEY) == [("user", "hello"), ("assistant", "at last")]


async def test_a_turn_that_outlives_the_grace_is_cut_off_told_and_answered_after_the_restart(
    tmp_path: Path,
) -> None:
    config = f"{HANGS}[turns]\ngrace_s = 0.2\n"
    async with running_daemon(tmp_path / "state", config) as daemon:
        sender = Sender(daemon)
        async with anyio.create_task_group() as group:
            group.start_soon(sender.send, "hello")
            await daemon.until(lambda status: status["turns"]["running"] == 1)
            group.start_soon(sender.send, "and then")
            await daemon.until(lambda status: status["turns"]["waiting"] == 1)
            assert await daemon.terminate() == 0
        for answer in sender.answers.values():
            assert answer.status_code == 503
            assert answer.headers["content-type"] == "application/problem+json"
            assert "kept" in orjson.loads(answer.content)["detail"]

    async with running_daemon(tmp_path / "state") as daemon:
        assert (await daemon.say("and then", message_id="and then"))["reply"] == "and then"
        assert [text for role, text in await daemon.said(KEY) if role == "user"] == [
            "hello",
            "and then",
        ]


async def test_the_second_signal_ends_at_once(tmp_path: Path) -> None:
    config = f"{HANGS}[turns]\ngrace_s = 600\n"
    async with running_daemon(tmp_path / "state", config) as daemon:
        sender = Sender(daemon)
        async with anyio.create_task_group() as group:
            group.start_soon(sender.send, "hangs")
            await daemon.until(lambda status: status["turns"]["running"] == 1)
            group.start_soon(sender.send, "waits")
            await daemon.until(lambda status: status["turns"]["waiting"] == 1)
            daemon.signal(signal.SIGTERM)
            await daemon.log.wait_for("gateway.stopping")
            daemon.signal(signal.SIGINT)
            with anyio.fail_after(START_S):
                assert await daemon.ended() == 0
        assert {answer.status_code for answer in sender.answers.values()} == {503}


async def test_a_stop_while_many_send_answers_or_refuses_each_and_loses_none(
    tmp_path: Path,
) -> None:
    async with running_daemon(tmp_path / "state") as daemon:
        acknowledged: list[str] = []

        async def send(client: int) -> None:
            for number in range(1_000):
                text = f"{client}-{number}"
                try:
                    response = await daemon.send(text, f"chat{client}", text)
                except httpx2.TransportError:
                    return  # the server takes no connections any more
                if response.status_code != 200:
                    assert response.status_code == 503
                    return
                acknowledged.append(text)

        async with anyio.create_task_group() as group:
            for client in range(8):
                group.start_soon(send, client)
            await daemon.until(lambda status: status["turns"]["completed"] > 50)
            assert await daemon.terminate() == 0
        assert len(acknowledged) > 50

    async with running_daemon(tmp_path / "state") as daemon:
        assert daemon.log.of("store.recovered")[0]["clean"] is True
        users = []
        for client in range(8):
            said = await daemon.said(f"agent:main:http::dm:chat{client}::")
            users += [text for role, text in said if role == "user"]
        assert len(users) == len(set(users))
        assert set(acknowledged) <= set(users)
