"""Agents with tools whose model a test directs, and what their turns have left behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from gateway.agents.base import AgentFacts
from gateway.agents.loop import ToolLoop
from gateway.agents.scripted import Reply, ScriptedModel, Step
from gateway.agents.settings import AgentToolSettings
from gateway.agents.tools import NoTools, Toolbox
from gateway.clock import Clock, FakeClock
from gateway.context.compaction import instruction
from gateway.context.estimate import estimate_context_chars, tokens_of_chars
from gateway.context.settings import CompactionSettings
from gateway.errors import AgentError, AgentFailure
from gateway.model import AgentId, Message, Role, SessionId, ToolCall, Usage
from gateway.transcripts import summaries
from gateway.transcripts.reading import messages_after

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.model import Summary
    from tests.support.turns import Bench

    ReplyTo = Callable[[Sequence[Message]], Step]

_QUESTION: Final = instruction(CompactionSettings()).partition("\n")[0]


@dataclass
class Looped:
    """An agent whose model answers each request with what a function of it says.

    The gateway's own questions are answered with `summary`, which is raised where it is an error.
    """

    step: ReplyTo
    tools: Toolbox = field(default_factory=NoTools)
    window_tokens: int = 200_000
    reserve_tokens: int = 1_000
    model: str = "looped"
    summary: str | Step | Exception = "They talked."
    completes: bool = True
    clock: Clock = field(default_factory=FakeClock)
    settings: AgentToolSettings = field(default_factory=AgentToolSettings)
    sent: list[tuple[Message, ...]] = field(default_factory=list)
    """Every request, but for those of `asked`."""
    asked: list[tuple[Message, ...]] = field(default_factory=list)
    """What it was asked to summarise."""
    agent: ToolLoop = field(init=False)

    def __post_init__(self) -> None:
        facts = AgentFacts(
            self.model, self.window_tokens, self.reserve_tokens, completes=self.completes
        )
        model = ScriptedModel([self._step], facts, self.clock)
        self.agent = ToolLoop(model, self.tools, self.settings)

    def _step(self, messages: Sequence[Message]) -> Step:
        if messages[-1].text.startswith(_QUESTION):
            self.asked.append(tuple(messages))
            if isinstance(self.summary, Exception):
                raise self.summary

            if not isinstance(self.summary, str):
                return self.summary

            return Reply((self.summary,), Usage(input_tokens=7, output_tokens=3))

        self.sent.append(tuple(messages))
        return self.step(messages)


def says(text: str, messages: Sequence[Message] = ()) -> Reply:
    """Return an answer; the provider counts what it was sent."""
    return Reply((text,), usage=counted(messages) if messages else None)


def wants(*calls: str, text: str = "", messages: Sequence[Message] = ()) -> Reply:
    """Return an answer that calls tools: each `name`, or `name {"arguments": 1}`."""
    made = [one.partition(" ") for one in calls]
    return Reply(
        (text,) if text else (),
        counted(messages) if messages else None,
        tuple(
            ToolCall(f"c{number}", name, rest or "{}")
            for number, (name, _, rest) in enumerate(made)
        ),
    )


def counted(messages: Sequence[Message]) -> Usage:
    """Return what a provider counts that counts as it is estimated."""
    return Usage(input_tokens=tokens_of_chars(estimate_context_chars(messages)), output_tokens=1)


def results(messages: Sequence[Message]) -> list[str]:
    """Return the texts of the tool results."""
    return [one.text for one in messages if one.role is Role.TOOL]


def users(messages: Sequence[Message]) -> list[str]:
    """Return what the user said, a summary among it."""
    return [one.text for one in messages if one.role is Role.USER]


def is_paired(messages: Sequence[Message]) -> bool:
    """Return whether every call has its result right after it, and every result its call."""
    waiting: list[str] = []
    for message in messages:
        if message.role is Role.TOOL:
            if message.tool_call_id not in waiting:
                return False
            waiting.remove(message.tool_call_id)
        elif waiting:
            return False
        waiting += [call.call_id for call in message.tool_calls]
    return not waiting


def is_extension(longer: Sequence[Message], shorter: Sequence[Message]) -> bool:
    return list(longer[: len(shorter)]) == list(shorter)


def fails(failure: AgentFailure, *, retry_after_s: float | None = None) -> AgentError:
    """Return an error that says its kind to the log and to the user."""
    return AgentError(
        failure.value, user_text=f"{failure}!", failure=failure, retry_after_s=retry_after_s
    )


async def transcript(bench: Bench) -> list[Message]:
    session_id = bench.entry().session_id
    return await bench.state.database.read(lambda conn: list(messages_after(conn, session_id, 0)))


async def calls_made(bench: Bench, *columns: str) -> list[tuple[Any, ...]]:
    """Return what is stored of each request to a model, in order."""
    wanted = ", ".join(columns)
    return await bench.state.database.read(
        lambda conn: conn.execute(f"SELECT {wanted} FROM model_calls ORDER BY rowid").fetchall()  # noqa: S608 - names of ours
    )


async def summaries_of(bench: Bench, session_id: SessionId | None = None) -> list[Summary]:
    """Return the summaries of a session, oldest first."""
    wanted = session_id or bench.entry().session_id
    kept = await bench.state.database.read(lambda conn: summaries.all_of(conn, wanted))
    return [one.summary for one in kept]


def fall_back(bench: Bench, *others: str, first: str = "main") -> None:
    """Let agents stand in for another."""
    bench.turns.answering.fallbacks = {AgentId(first): [AgentId(one) for one in others]}
