"""Programs that tests write on the spot, and agents that run them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
from structlog.testing import capture_logs

from gateway.agents.asked import NOTHING_ASKED, Asked
from gateway.agents.base import AgentEvent, MessageFinished, ModelCallFinished, TextDelta
from gateway.agents.command import CommandAgent, command_of
from gateway.agents.settings import CommandSettings
from gateway.clock import FakeClock, SystemClock
from gateway.errors import AgentError
from gateway.model import Message, Role, ToolCaller, TurnId
from tests.support.toolbox import CALLER

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.clock import Clock
    from gateway.model import ModelCall, ToolCall

PATIENCE_S: Final = 30
"""How long anything may take before the test fails."""
PRELUDE: Final = """\
import json, os, signal, subprocess, sys, time
def say(type, **fields):
    print(json.dumps({"type": type, **fields}), flush=True)
def turn():
    return json.loads(sys.stdin.readline())
"""
"""What stands before every program."""
ECHO: Final = Path(__file__).with_name("echo.py")
GOOD: Final = "say('text', text='fine'); say('done')"
"""A program that answers."""


def python(code: str) -> list[str]:
    """Return the words that run a program; without the site packages it starts in no time."""
    return [sys.executable, "-I", "-S", "-c", PRELUDE + code]


def agent_of(code: str, clock: Clock | None = None, **changes: object) -> CommandAgent:
    """Return an agent that is this program; time stands still unless a clock is given."""
    settings = CommandSettings.model_validate({"argv": python(code), **changes})
    return CommandAgent(settings, command_of("a", settings), clock or FakeClock())


@dataclass(slots=True)
class Talk:
    """A conversation that an agent is asked to answer."""

    said: Sequence[Message]
    cache_key: str = "0123abcd"
    spent_tokens: int = 0
    steps_before: int = 0
    asked_for: Asked = NOTHING_ASKED
    caller: ToolCaller = CALLER

    async def messages(self) -> Sequence[Message]:
        return self.said

    def returned(self, message: Message) -> None:
        """Nothing is lost where nothing is cut off."""

    async def approve(self, call: ToolCall) -> bool:
        raise NotImplementedError(call)


@dataclass(slots=True)
class Run:
    """The events of one run, as far as it came."""

    events: list[AgentEvent] = field(default_factory=list)
    begun: anyio.Event = field(default_factory=anyio.Event)
    """Set by the first event."""
    error: AgentError | None = None
    ended: bool = False

    @property
    def deltas(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, TextDelta)]

    @property
    def messages(self) -> list[Message]:
        return [event.message for event in self.events if isinstance(event, MessageFinished)]

    @property
    def calls(self) -> list[ModelCall]:
        return [event.call for event in self.events if isinstance(event, ModelCallFinished)]

    @property
    def text(self) -> str:
        """What the user reads; the deltas and the messages must agree on it."""
        spoken = [message.text for message in self.messages if message.role is Role.ASSISTANT]
        assert "".join(self.deltas) == "".join(spoken)
        return "".join(spoken)

    async def follow(self, agent: CommandAgent, *said: Message) -> None:
        """Run the agent to its end, and keep its error."""
        talk = Talk(said or (user("hi"),))
        async with aclosing(agent.run(talk)) as events:
            with suppress(AgentError):
                try:
                    async for event in events:
                        self.events.append(event)
                        self.begun.set()
                except AgentError as error:
                    self.error = error
                    raise
        self.ended = True


def user(text: str) -> Message:
    return Message(Role.USER, text, turn_id=TurnId("t1"))


async def run(agent: CommandAgent, *said: Message) -> Run:
    """Run an agent to its end; its error is kept."""
    result = Run()
    with anyio.fail_after(PATIENCE_S):
        await result.follow(agent, *said)
    return result


async def answered(agent: CommandAgent, *said: Message) -> Run:
    """Run an agent that answers."""
    result = await run(agent, *said)
    assert result.error is None, result.error
    return result


async def failed(agent: CommandAgent, *said: Message) -> AgentError:
    """Run an agent that cannot answer; return its error."""
    result = await run(agent, *said)
    assert result.error is not None
    return result.error


def is_running(pid: int) -> bool:
    """Return whether a process does something still; one that waits to be reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def children() -> set[int]:
    """Return the processes that this one has started and not yet reaped."""
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended
            found.update(map(int, path.read_text().split()))
    return found


def descriptors() -> dict[str, str]:
    """Return the open file descriptors of this process, and what they lead to."""
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found[path.name] = str(path.readlink())
    return found


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    with anyio.fail_after(PATIENCE_S):
        while not condition():
            await SystemClock().sleep(0.002)


async def pass_time(clock: FakeClock, condition: Callable[[], bool]) -> None:
    """Let time pass, half a second at once, until something another process does has happened.

    Once a program is killed none passes: to be gone takes it real time.
    """
    with capture_logs() as logs, anyio.fail_after(PATIENCE_S):
        while not condition():
            if not any(line["event"] == "agent.program_killed" for line in logs):
                await clock.advance(0.5)
            await SystemClock().sleep(0.001)
