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
from gateway.agents.direct import Alone, DirectRequest, Takes
from gateway.errors import AgentError, AgentFailure, ConfigurationError
from gateway.variables import environment

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence

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

        Cancellation: the program and all of its process group are ended first; then the calls that
        it told, and their results so far, are yielded.

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
            except (AgentError, anyio.get_cancelled_exc_class()):
                # Also where the turn is cut off: a tool of its own may have run, and whoever
                # follows takes these events without waiting.
                for event in answer.unfinished():
                    yield event
                raise

    def takes(self) -> Takes:
        """Return nothing: the line that a program is given has no place for it."""
        return Takes()

    def ask(self, request: DirectRequest) -> AsyncGenerator[AgentEvent]:
        """Let the program answer, with an empty session; see `gateway.agents.direct.Direct`."""
        return self.run(Alone(request.messages))

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
    env, problems = _environment(settings)
    found = _found(settings, env)
    problems += lacking_here(settings)
    if problems or found is None:
        raise ConfigurationError(
            [f"agents.{agent_id}.{key}: {problem}" for key, problem in problems]
        )

    argv = (os.path.abspath(found), *settings.argv[1:])  # noqa: PTH100 - a link stays a link
    return Command(settings.program, argv, settings.cwd, env)


def lacking_here(settings: CommandSettings) -> Iterator[tuple[str, str]]:
    """Yield each key whose program or directory is not there, and what is wrong with it."""
    env, _ = _environment(settings)
    if _found(settings, env) is None:
        problem = f"there is no program {settings.argv[0]!r} that can be executed"
        yield "argv", f"{problem}; accepted is an absolute path, or a name that is found on PATH"
    if settings.cwd is not None and not settings.cwd.is_dir():
        problem = f"there is no directory {str(settings.cwd)!r}"
        yield "cwd", f"{problem}; accepted is one that there is"


def _environment(settings: CommandSettings) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Return the variables of a program, and each secret that cannot be had, with the reason."""
    env, missing = environment(settings.inherit_env, settings.env, settings.secret_env)
    return env, [(f"secret_env.{name}", text) for name, text in missing.items()]


def _found(settings: CommandSettings, env: Mapping[str, str]) -> str | None:
    return shutil.which(settings.argv[0], path=env.get("PATH"))


def _ended(answer: Answer, status: int | None) -> AgentError:
    """Return the error of a program whose output ended before its answer."""
    if status is None:
        return answer.failure("closed its output before its answer was whole")

    how = f"exited with {status}" if status >= 0 else f"was ended by signal {-status}"
    kind = AgentFailure.OUTAGE if status else AgentFailure.OTHER
    return answer.failure(f"{how} before its answer was whole", kind=kind)
