"""Turns on a real state directory, answered by agents that a test directs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from gateway.agents.base import (
    AgentFacts,
    Completion,
    MessageFinished,
    ModelCallFinished,
    TextDelta,
)
from gateway.agents.loop import ToolLoop
from gateway.agents.scripted import ReplyTo, ScriptedModel, Step
from gateway.agents.settings import AgentToolSettings
from gateway.agents.tools import NoTools
from gateway.clock import FakeClock
from gateway.errors import AgentError
from gateway.model import AgentId, Inbound, Message, ModelCall, Role, Usage
from gateway.sessions.settings import SessionSettings
from gateway.transcripts.inbox import InboxRow, unfinished
from gateway.transcripts.reading import read_transcript
from gateway.turns.pipeline import Turns
from gateway.turns.settings import TurnSettings
from tests.support.state import START, State, key_of, open_state, source

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
    from pathlib import Path

    from gateway.agents.base import Agent, AgentEvent, Conversation
    from gateway.durable.database import Database
    from gateway.sessions.entry import SessionEntry
    from gateway.turns.ticket import Reply, Ticket

    Play = Callable[[Sequence[Message]], AsyncGenerator[AgentEvent]]
    Count = Callable[[Sequence[Message]], Usage | None]
    Summarise = Callable[[Sequence[Message]], str]

MAIN = AgentId("main")


class PlayedAgent:
    """Answers with what a generator of the test's yields, and keeps every context it was given.

    A play is given the context of the turn's first request; a model call that it yields after a
    message stands for one more request.
    """

    def __init__(
        self,
        play: Play,
        *,
        context_window_tokens: int = 200_000,
        reserve_tokens: int = 1_000,
        model: str = "played",
        count: Count | None = None,
        summarise: Summarise | None = None,
    ) -> None:
        """Play what a test says.

        Args:
            play: The events of a turn.
            context_window_tokens: The window.
            reserve_tokens: What of it is kept free.
            model: Its name.
            count: What its provider counts of a request, in place of what the play says.
            summarise: What it answers to the gateway's own questions; None: nothing.
        """
        self.contexts: list[tuple[Message, ...]] = []
        """What each turn's first request had."""
        self.sent: tuple[Message, ...] = ()
        """What the last request of all had."""
        self.asked: list[tuple[Message, ...]] = []
        """What it was asked to summarise."""
        self._facts = AgentFacts(
            model, context_window_tokens, reserve_tokens, completes=summarise is not None
        )
        self._play = play
        self._count = count
        self._summarise = summarise

    def facts(self) -> AgentFacts:
        return self._facts

    async def run(self, conversation: Conversation) -> AsyncGenerator[AgentEvent]:
        messages = await conversation.messages()
        self.sent = tuple(messages)
        self.contexts.append(self.sent)
        said = False
        async with aclosing(self._play(messages)) as events:
            async for event in events:
                if isinstance(event, ModelCallFinished) and said:
                    self.sent = tuple(await conversation.messages())
                    said = False
                said |= isinstance(event, MessageFinished)
                if isinstance(event, ModelCallFinished) and self._count is not None:
                    counted = replace(event.call, usage=self._count(self.sent))
                    yield ModelCallFinished(counted)
                else:
                    yield event

    async def complete(self, messages: Sequence[Message], *, cache_key: str = "") -> Completion:
        self.asked.append(tuple(messages))
        if self._summarise is None:
            raise AgentError("it cannot")

        call = ModelCall(self._facts.model, START, Usage(input_tokens=7, output_tokens=3))
        return Completion(self._summarise(messages), call)

    async def aclose(self) -> None:
        """Do nothing."""


def scripted(*steps: Step | ReplyTo) -> Agent:
    """Return an agent that plays steps, without tools."""
    model = ScriptedModel(steps, AgentFacts("scripted", 200_000, 1_000), FakeClock())
    return ToolLoop(model, NoTools(), AgentToolSettings())


class Gate:
    """Holds each turn by its text until it is let through."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self._reached: dict[str, anyio.Event] = defaultdict(anyio.Event)
        self._opened: dict[str, anyio.Event] = defaultdict(anyio.Event)

    async def play(self, messages: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        """Answer `re: <text>`, once that text is let through."""
        text = messages[-1].text
        self.began.append(text)
        self._reached[text].set()
        await self._opened[text].wait()
        for event in answer(f"re: {text}"):
            yield event

    async def reached(self, text: str) -> None:
        with anyio.fail_after(30):
            await self._reached[text].wait()

    def open(self, *texts: str) -> None:
        for text in texts:
            self._opened[text].set()


def answer(text: str, usage: Usage | None = None) -> Iterator[AgentEvent]:
    """Return the events of one model call that ends a turn."""
    yield TextDelta(text)
    yield ModelCallFinished(ModelCall("played", START, usage))
    yield MessageFinished(Message(Role.ASSISTANT, text))


async def echo(messages: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
    """Answer `re: <text>` at once."""
    await anyio.lowlevel.checkpoint()
    for event in answer(f"re: {messages[-1].text}"):
        yield event


@dataclass(frozen=True, slots=True)
class Bench:
    """Running turns and what is below them."""

    state: State
    turns: Turns
    clock: FakeClock

    async def submit(
        self, text: str, chat: str = "alice", *, message_id: str = "", agent: str = "main"
    ) -> Ticket:
        with anyio.fail_after(30):
            return await self.turns.submit(
                Inbound(source(chat), text, message_id, agent=AgentId(agent))
            )

    async def say(
        self, text: str, chat: str = "alice", *, message_id: str = "", agent: str = "main"
    ) -> Reply:
        """Send a message and return its reply."""
        return await reply_of(await self.submit(text, chat, message_id=message_id, agent=agent))

    def entry(self, chat: str = "alice", agent: str = "main") -> SessionEntry:
        found = self.state.store.get(key_of(chat, agent))
        assert found is not None
        return found

    async def said(self, session_id: str = "", chat: str = "alice") -> list[tuple[str, str]]:
        """Return role and text of each message of a session."""
        wanted = session_id or self.entry(chat).session_id
        rows = await read_transcript(self.state.database, wanted)  # type: ignore[arg-type]
        return [(row.message.role.value, row.message.text) for row in rows]

    async def unfinished(self) -> list[InboxRow]:
        return await self.state.database.read(unfinished)

    async def count(self, table: str) -> int:
        """Return the number of rows of a table."""
        found = await self.state.database.read(
            lambda conn: conn.execute(f"SELECT count(*) FROM {table}").fetchall()  # noqa: S608 - a name of ours
        )
        return int(str(found[0][0]))


@asynccontextmanager
async def full_disk(database: Database) -> AsyncGenerator[None]:
    """Let the database not grow by a page, as on a full disk: small rows may still find room."""

    async def limit(pages: str) -> None:
        await database.write(lambda tx: tx.execute(f"PRAGMA max_page_count = {pages}").fetchall())

    await limit("1")  # below the present size means: exactly the present size
    yield
    await limit("1073741823")


async def reply_of(ticket: Ticket) -> Reply:
    with anyio.fail_after(30):
        return await ticket.progress.reply()


@asynccontextmanager
async def running_turns(
    path: Path,
    agents: Agent | Mapping[str, Agent] | None = None,
    *,
    clock: FakeClock | None = None,
    settings: TurnSettings | None = None,
    sessions: SessionSettings | None = None,
    recover: bool = True,
) -> AsyncGenerator[Bench]:
    """Run turns on a state directory; leaving cuts off what still runs.

    Args:
        path: The state directory.
        agents: By agent id; one alone is `main`; None echoes.
        clock: Moves by hand.
        settings: Bounds and deadlines.
        sessions: Key and reset policies.
        recover: Whether unanswered messages of an earlier run are taken up.
    """
    clock = clock or FakeClock()
    agents = agents or PlayedAgent(echo)
    named = agents if isinstance(agents, Mapping) else {"main": agents}
    async with open_state(path, clock) as state:
        turns = Turns(
            state.database,
            state.store,
            {AgentId(name): agent for name, agent in named.items()},
            lambda _: MAIN,
            clock,
            settings or TurnSettings(),
            sessions or SessionSettings(),
        )
        state.store.is_busy = turns.is_busy
        if recover:
            await turns.recover()
        async with anyio.create_task_group() as group:
            await group.start(turns.run)
            yield Bench(state, turns, clock)
            group.cancel_scope.cancel()
