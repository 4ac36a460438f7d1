"""An agent that is any program: it reads one JSON line and answers in JSON lines.

Each turn starts the program anew, with the configured words, environment and directory and nothing
else, and ends its whole process group. What it is given and what it may write stands in
`gateway.agents.command_wire`.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Final

import anyio

from gateway.agents.command_process import Command, Program, running
from gateway.agents.command_wire import Answer, turn_line
from gateway.errors import AgentError, AgentFailure, ConfigurationError
from gateway.settings import SecretError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from gateway.agents.base import AgentEvent, AgentFacts, Completion, Conversation
    from gateway.agents.settings import CommandSettings
    from gateway.clock import Clock
    from gateway.model import Message

TIMED_OUT: Final = "The agent did not answer in time. Please try again later."


class CommandAgent:
    """Runs a program for each turn, so many at once and no more."""

    def __init__(self, settings: CommandSettings, command: Command, clock: Clock) -> None:
        """Take what `command_of` made of the settings."""
        self._settings = settings
        self._command = command
        self._clock = clock
        self._places = anyio.Semaphore(settings.max_parallel)

    def facts(self) -> AgentFacts:
        """Return what of it the size of a request depends on."""
        return self._settings.facts()

    async def run(self, conversation: Conversation) -> AsyncGenerator[AgentEvent]:
        """Let the program answer the user's message.

        Cancellation: the program and all of its process group are ended first.

        Raises:
            AgentError: There is no whole answer; events may have been yielded before.
        """
        async with self._places:
            messages = await conversation.messages()
            answer = self._begin(messages)
            ends_at = self._clock.monotonic() + self._settings.timeout_s
            try:
                line = turn_line(conversation.cache_key, messages)
                async with running(self._command, line, self._clock) as program:
                    while not answer.done:
                        piece = await self._receive(program, ends_at)
                        for event in answer.take(piece, self._clock.now()):
                            yield event
                        if not piece and not answer.done:
                            raise _ended(answer, await program.status())
            except AgentError:
                for event in answer.unfinished():
                    yield event
                raise

    async def complete(self, messages: Sequence[Message], *, cache_key: str = "") -> Completion:
        """Refuse: a program answers turns alone.

        Raises:
            AgentError: Always.
        """
        raise AgentError(f"{self._command.name}: a program answers turns alone")

    async def aclose(self) -> None:
        """Do nothing: each turn ends its own program."""

    def _begin(self, messages: Sequence[Message]) -> Answer:
        settings = self._settings
        return Answer(
            self._command.name,
            settings.facts().model,
            messages[-1].turn_id,
            self._clock.now(),
            max_bytes=settings.max_output_bytes,
            max_line_bytes=settings.max_line_bytes,
        )

    async def _receive(self, program: Program, ends_at: float) -> bytes:
        """Return what comes next, empty at the end.

        Raises:
            AgentError: Nothing came in time.
        """
        settings = self._settings
        left_s = ends_at - self._clock.monotonic()
        with self._clock.move_on_after(min(settings.idle_timeout_s, left_s)):
            return await program.receive()

        reason = f"was silent for {settings.idle_timeout_s:g} s"
        if left_s <= settings.idle_timeout_s:
            reason = f"had not answered within {settings.timeout_s:g} s"
        raise AgentError(
            f"{self._command.name}: {reason}", user_text=TIMED_OUT, failure=AgentFailure.OUTAGE
        )


def command_of(agent_id: str, settings: CommandSettings) -> Command:
    """Return what a settings table starts: the program found, its environment complete.

    Raises:
        ConfigurationError: The program, the directory or a secret cannot be had; all are told.
    """
    problems: list[str] = []
    env = {name: os.environ[name] for name in settings.inherit_env if name in os.environ}
    env |= settings.env
    for name, source in settings.secret_env.items():
        try:
            env[name] = source.resolve()
        except SecretError as exc:
            problems.append(f"agents.{agent_id}.secret_env.{name}: {exc}")
    found = shutil.which(settings.argv[0], path=env.get("PATH"))
    if found is None:
        problem = f"there is no program {settings.argv[0]!r} that can be executed"
        accepted = "an absolute path, or a name that is found on PATH"
        problems.append(f"agents.{agent_id}.argv: {problem}; accepted is {accepted}")
    if settings.cwd is not None and not settings.cwd.is_dir():
        problem = f"there is no directory {str(settings.cwd)!r}; accepted is one that there is"
        problems.append(f"agents.{agent_id}.cwd: {problem}")
    if problems or found is None:
        raise ConfigurationError(problems)

    argv = (os.path.abspath(found), *settings.argv[1:])  # noqa: PTH100 - a link stays a link
    return Command(settings.program, argv, settings.cwd, env)


def _ended(answer: Answer, status: int | None) -> AgentError:
    """Return the error of a program whose output ended before its answer."""
    if status is None:
        return answer.failure("closed its output before its answer was whole")

    how = f"exited with {status}" if status >= 0 else f"was ended by signal {-status}"
    kind = AgentFailure.OUTAGE if status else AgentFailure.OTHER
    return answer.failure(f"{how} before its answer was whole", kind=kind)
