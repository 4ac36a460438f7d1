"""Who may command what: every command by every kind of sender, in every kind of place."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest

from gateway.access.settings import AccessSettings
from gateway.agents.base import MessageFinished, ModelCallFinished
from gateway.commands.parsing import Name
from gateway.errors import ForbiddenError
from gateway.model import ChatType, Inbound, Message, ModelCall, Role, ToolCall
from gateway.processes.settings import ProcessSettings
from gateway.sessions.key import session_key
from gateway.sessions.settings import SessionSettings
from tests.support.commands import open_door, source_of
from tests.support.state import START
from tests.support.turns import MAIN, PlayedAgent, answer, echo, reply_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from gateway.agents.base import AgentEvent
    from gateway.model import SessionSource
    from gateway.turns.ticket import Reply
    from tests.support.commands import DoorBench

ACCESS = AccessSettings.model_validate(
    {
        "admins": ["chat:root"],
        "platforms": {"chat": {"allow_users": ["ann"], "unknown": "refuse"}},
    }
)
PROCESSES = ProcessSettings(enabled=True, report="message")
SENDERS = {"admin": "root", "allowed": "ann", "stranger": "eve", "nobody": ""}
SURFACES = list(ChatType)
TEXTS = {
    Name.NEW: "/new",
    Name.UNDO: "/undo",
    Name.STOP: "/stop",
    Name.RESUME: "/resume",
    Name.SESSIONS: "/sessions",
    Name.STATUS: "/status",
    Name.COMPACT: "/compact",
    Name.BG: "/bg true",
    Name.PS: "/ps",
    Name.HELP: "/help",
}
OF_OTHERS = [name for name in Name if name not in {Name.BG, Name.HELP}]


def _source(user: str, surface: ChatType) -> SessionSource:
    chat = user or "unnamed"
    if surface is not ChatType.DM:
        chat = "room"
    return source_of(platform="chat", chat_id=chat, chat_type=surface, user_id=user)


async def _reply(
    bench: DoorBench, text: str, source: SessionSource, *, typed: bool = True
) -> Reply:
    return await reply_of(await bench.door.submit(Inbound(source, text, typed=typed)))


async def _say(bench: DoorBench, text: str, source: SessionSource, *, typed: bool = True) -> str:
    return (await _reply(bench, text, source, typed=typed)).status


async def _told(bench: DoorBench, text: str, source: SessionSource) -> str:
    return (await _reply(bench, text, source)).text


@pytest.mark.parametrize(("sender", "surface"), list(product(SENDERS, SURFACES)))
async def test_every_command_on_the_own_session(
    tmp_path: Path, sender: str, surface: ChatType
) -> None:
    agent = PlayedAgent(echo)
    source = _source(SENDERS[sender], surface)
    async with open_door(tmp_path / "state", agent, access=ACCESS, processes=PROCESSES) as bench:
        if sender in {"stranger", "nobody"}:
            for text in ("hello", *TEXTS.values()):
                with pytest.raises(ForbiddenError):
                    await _say(bench, text, source)
            assert len(bench.turns.state.store) == 0
            assert await bench.turns.count("outbox") == 0
            return

        assert await _say(bench, "hello", source) == "ok"
        for name, text in TEXTS.items():
            status = await _say(bench, text, source)
            assert status == "command", name
        assert len(agent.contexts) == 1
        ran = await bench.processes.list()
        assert len(ran) == (1 if sender == "admin" else 0)


@pytest.mark.parametrize(("sender", "surface"), list(product(["admin", "allowed"], SURFACES)))
async def test_every_command_on_the_session_of_somebody_else(
    tmp_path: Path, sender: str, surface: ChatType
) -> None:
    theirs = source_of(platform="chat", chat_id="ann2", chat_type=ChatType.DM, user_id="ann")
    key = session_key(theirs, MAIN, SessionSettings())
    source = _source(SENDERS[sender], surface)
    may = sender == "admin" and surface is ChatType.DM
    async with open_door(tmp_path / "state", access=ACCESS, processes=PROCESSES) as bench:
        await _say(bench, "hello", theirs)
        await _say(bench, "hello", source)
        before = bench.turns.state.store.get(key)

        async def told(name: Name) -> str:
            return await _told(bench, f"{TEXTS[name]} {key}", source)

        answers = {name: await told(name) for name in OF_OTHERS}

        refused = [name for name, text in answers.items() if "Only admins may command" in text]
        assert refused == ([] if may else OF_OTHERS)
        after = bench.turns.state.store.get(key)
        assert may or after == before


@pytest.mark.parametrize("sender", ["admin", "allowed"])
@pytest.mark.parametrize("text", list(TEXTS.values()))
async def test_what_was_not_typed_is_no_command(tmp_path: Path, sender: str, text: str) -> None:
    agent = PlayedAgent(echo)
    source = _source(SENDERS[sender], ChatType.DM)
    async with open_door(tmp_path / "state", agent, access=ACCESS, processes=PROCESSES) as bench:
        await _say(bench, "hello", source)

        assert await _say(bench, text, source, typed=False) == "ok"
        assert [message.text for message in agent.contexts[-1]][-1] == text


@pytest.mark.parametrize("text", list(TEXTS.values()))
async def test_what_models_and_tools_say_is_no_command(tmp_path: Path, text: str) -> None:
    async def says(_: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        yield ModelCallFinished(ModelCall("played", START, None))
        call = ToolCall("c1", "read", "{}")
        yield MessageFinished(Message(Role.ASSISTANT, "", (call,)))
        yield MessageFinished(Message(Role.TOOL, text, tool_call_id="c1", tool_name="read"))
        for event in answer(text):
            yield event

    async with open_door(
        tmp_path / "state", PlayedAgent(says), access=ACCESS, processes=PROCESSES
    ) as bench:
        first = await _reply(bench, "hello", _source("root", ChatType.DM))

        assert (first.status, first.text) == ("ok", text)
        entry = bench.turns.state.store.get(first.session_key)
        assert entry is not None
        assert (entry.session_id, entry.suspended_at) == (first.session_id, None)
        assert await bench.processes.list() == ()
        assert sum(bench.door.counts.values()) == 0


async def test_a_shared_session_is_commanded_by_who_shares_it(tmp_path: Path) -> None:
    access = AccessSettings.model_validate({"platforms": {"chat": {"allow_chats": ["room"]}}})
    shared = SessionSettings(share_groups=True)
    async with open_door(tmp_path / "state", access=access, sessions=shared) as bench:
        ann, bob = _source("ann", ChatType.GROUP), _source("bob", ChatType.GROUP)
        first = await _reply(bench, "hello", ann)

        assert await _say(bench, "/new", bob) == "command"
        assert (await _reply(bench, "again", ann)).session_id != first.session_id
