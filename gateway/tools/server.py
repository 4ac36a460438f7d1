"""One server: connected, asked for its tools, watched, and started again when it is lost.

Its task is the only one that changes its state. A call waits a short while for a server that is
about to be back; whatever goes wrong, the model is told. Knows neither SDK nor transport.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import anyio
import orjson
from pydantic import ValidationError

from gateway.log import get_logger
from gateway.tools.connection import (
    BrokenCallError,
    CallError,
    Outcome,
    SessionEndedError,
    Watch,
)
from gateway.tools.results import ResultBounds, failure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.clock import Clock
    from gateway.model import ToolResult
    from gateway.tools.connection import Connect, Connection, ListedTool, Target

SHORTEST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 60.0
STEADY_S: Final = 60.0
"""A server that ran for so long starts anew with the shortest pause."""
WAIT_S: Final = 10.0
"""How long a call waits for a server that starts, is looked at or is about to start."""
LOOK_TIMEOUT_S: Final = 3.0
"""How long a server may take to tell its tools once a call has found no answer; three times as long
as it took at its start, if that is more."""
LOOK_PAUSE_S: Final = 1.0
"""How long a server is left alone between two such listings, however often its tools change."""
_MAX_REASON_CHARS: Final = 200

log = get_logger()


class ServerState(StrEnum):
    """What a server does."""

    STARTING = "starting"
    RUNNING = "running"
    BACKING_OFF = "backing_off"
    """It waits before it is started again."""


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """What is known of a server since the daemon's start."""

    server: str
    state: ServerState
    since: datetime
    """When it came into this state."""
    tools: int
    """How many it has, or had last."""
    calls: int
    failures: int
    """Calls that ended without a result or with an error of the tool, `timeouts` among them."""
    timeouts: int
    """Calls that the server had and did not answer in time."""
    restarts: int
    """How often it was started again."""
    last_error: str
    """Why it was lost, or did not start, the last time; empty: never."""


@dataclass(slots=True)
class _Progress:
    """How far a call has come."""

    begun: bool = False
    """Whether the server may have run it."""


def pause_s(failures: int, share: float) -> float:
    """Return how long to wait before the next start, in seconds.

    Args:
        failures: How often in a row it has not run for a minute, at least 1.
        share: A random number from 0 to 1, so that not all servers start at once.
    """
    longest = min(LONGEST_PAUSE_S, SHORTEST_PAUSE_S * (1 << min(failures, 16)))
    return max(SHORTEST_PAUSE_S, longest * (1 + share) / 2)


class McpServer:
    """A server and its tools."""

    def __init__(
        self,
        target: Target,
        connect: Connect,
        clock: Clock,
        share: Callable[[], float] = random.random,
    ) -> None:
        """Take what `run` works with; `share` returns random numbers from 0 to 1."""
        self.name = target.name
        self.tools: tuple[ListedTool, ...] = ()
        """What it has, or had last; the same tuple until they change."""
        self.settled = anyio.Event()
        """Set once the first start has gone well or not."""
        self.listed = anyio.Event()
        """Set once it has told its tools for the first time."""
        self._target = target
        self._settings = target.settings
        self._bounds = ResultBounds.of(target.settings)
        self._connect = connect
        self._clock = clock
        self._share = share
        self._places = anyio.Semaphore(target.settings.max_parallel)
        self._watch = Watch()
        self._connection: Connection | None = None
        self._ready = anyio.Event()
        """Set while calls may go to the connection."""
        self._retry_at = 0.0
        self._state, self._since = ServerState.STARTING, clock.now()
        self._up_at: float | None = None
        self._failures_in_a_row = 0
        self._legacy = False
        self._listing_s = 0.0
        self._calls = self._failures = self._timeouts = self._restarts = 0
        self._last_error = ""

    def statistics(self) -> ServerStatistics:
        """Return what is known of it."""
        return ServerStatistics(
            self.name,
            self._state,
            self._since,
            len(self.tools),
            self._calls,
            self._failures,
            self._timeouts,
            self._restarts,
            self._last_error,
        )

    async def run(self) -> None:
        """Keep it running until cancelled."""
        while True:
            self._enter(ServerState.STARTING)
            self._watch = Watch()
            await self._run_once()
            self.settled.set()
            pause = self._note_end()
            self._retry_at = self._clock.monotonic() + pause
            self._enter(ServerState.BACKING_OFF)
            await self._clock.sleep(pause)
            self._restarts += 1

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> ToolResult:
        """Run a tool; every failure is a result.

        Cancellation: the server is told, and the place is free.
        """
        self._calls += 1
        progress = _Progress()
        outcome: Outcome | None = None
        with self._clock.move_on_after(self._settings.call_timeout_s):
            async with self._places:
                outcome = await self._outcome(tool, arguments, progress)
        if outcome is None:
            outcome = self._late(progress)
        self._failures += outcome.failed
        return outcome.result

    def _late(self, progress: _Progress) -> Outcome:
        """Return how a call ended that took too long."""
        timeout_s = self._settings.call_timeout_s
        if not progress.begun:
            # Which says nothing of the server: others had its places, or it was about to start.
            return self._failed(
                f"The call waited {timeout_s:g} seconds for its turn at the tool server "
                f"{self.name} and was not begun."
            )

        self._timeouts += 1
        self._suspect()
        return self._failed(
            f"The tool gave no answer within {timeout_s:g} seconds; the call was cancelled. "
            "Whether the tool did its work is not known."
        )

    async def _outcome(
        self, tool: str, arguments: Mapping[str, Any], progress: _Progress
    ) -> Outcome:
        problem = self._problem_of(arguments)
        if problem:
            return self._failed(problem)

        # A second try where the server has run nothing, for it had forgotten our session.
        for _ in range(2):
            progress.begun = False
            connection = await self._usable_connection()
            if connection is None:
                break
            progress.begun = True
            outcome = await self._attempt(connection, tool, arguments)
            if outcome is not None:
                return outcome
        return self._failed(f"The tool server {self.name} is not running. Please try again later.")

    async def _attempt(
        self, connection: Connection, tool: str, arguments: Mapping[str, Any]
    ) -> Outcome | None:
        """Return how a call ended; None: the server has run nothing."""
        try:
            return await connection.call(tool, arguments)
        except SessionEndedError as exc:
            self._lose(str(exc))
            return None
        except BrokenCallError as exc:
            self._suspect()
            text = (
                f"The tool server {self.name} broke off the call: {self._watch.reason or exc}. "
                "Whether the tool did its work is not known."
            )
        except CallError as exc:
            text = str(exc)
        except Exception as exc:  # noqa: BLE001 - what a server made go wrong costs the call
            # Without its message, which may quote what was returned.
            log.warning("tools.call_broken", server=self.name, error=type(exc).__name__)
            text = f"The result cannot be shown: {type(exc).__name__}."
        return self._failed(text)

    def _problem_of(self, arguments: Mapping[str, Any]) -> str:
        try:
            size = len(orjson.dumps(dict(arguments)))
        except TypeError as exc:  # half of a surrogate pair, say
            return f"The arguments cannot be sent: {exc}."

        most = self._settings.max_message_bytes
        return f"The arguments are longer than {most:,} bytes." if size > most else ""

    async def _usable_connection(self) -> Connection | None:
        """Return the connection, waiting a short while for a server that is about to be back."""
        back_in_s = self._retry_at - self._clock.monotonic()
        if self._state is not ServerState.BACKING_OFF or back_in_s < WAIT_S:
            with self._clock.move_on_after(WAIT_S):
                # Each wait lets others run, who may have the calls held again.
                while not self._ready.is_set():
                    await self._ready.wait()
        return self._connection if self._ready.is_set() else None

    def _failed(self, text: str) -> Outcome:
        return Outcome(failure(text, self._bounds), failed=True)

    def _suspect(self) -> None:
        """Let calls wait until the server has shown that it answers."""
        if self._connection is not None:
            self._hold_calls()
            self._watch.look()

    def _lose(self, reason: str) -> None:
        self._hold_calls()
        self._watch.end(reason)

    def _hold_calls(self) -> None:
        if self._ready.is_set():
            self._ready = anyio.Event()

    async def _run_once(self) -> None:
        """Start it and serve until it is lost; `self._watch.reason` says why."""
        self._up_at = None
        watch = self._watch
        try:
            async with anyio.create_task_group() as tasks:
                up = anyio.Event()
                tasks.start_soon(self._limit_start, up, tasks.cancel_scope)
                async with self._connect(self._target, watch, legacy=self._legacy) as connection:
                    began = self._clock.monotonic()
                    await self._take_tools(connection)
                    self._listing_s = self._clock.monotonic() - began
                    up.set()
                    await self._serve(connection)
        except Exception as exc:  # noqa: BLE001 - the boundary of a server: no fault of it ends more
            watch.end(_described(exc) + (f" ({watch.hint})" if watch.hint else ""))
        finally:
            self._connection = None
            self._hold_calls()

    async def _limit_start(self, up: anyio.Event, scope: anyio.CancelScope) -> None:
        with self._clock.move_on_after(self._settings.start_timeout_s):
            await up.wait()
        if not up.is_set():
            self._watch.end(f"it did not start within {self._settings.start_timeout_s:g} seconds")
            self.settled.set()  # stopping it may take seconds more
            scope.cancel()

    async def _serve(self, connection: Connection) -> None:
        """Let calls through, and look at the server whenever there is a reason, until it ends."""
        self._up_at = self._clock.monotonic()
        self._connection = connection
        self._enter(ServerState.RUNNING)
        self._ready.set()
        self.settled.set()
        self.listed.set()
        log.info("tools.server_started", server=self.name, tools=len(self.tools))
        while not self._watch.ended:
            await self._watch.wait()
            if not self._watch.ended:
                await self._look(connection)
                with self._clock.move_on_after(LOOK_PAUSE_S):
                    await self._watch.over.wait()
        self._hold_calls()

    async def _look(self, connection: Connection) -> None:
        answered = False
        limit_s = self._settings.start_timeout_s
        if not self._ready.is_set():
            limit_s = min(limit_s, max(LOOK_TIMEOUT_S, 3 * self._listing_s))
        with self._clock.move_on_after(limit_s):
            try:
                await self._take_tools(connection)
            except (BrokenCallError, SessionEndedError) as exc:
                self._watch.end(str(exc))
            except CallError as exc:
                log.warning("tools.listing_failed", server=self.name, reason=str(exc))
            answered = True
        if not answered:
            self._watch.end(f"it did not answer within {limit_s:g} seconds")
        if not self._watch.ended:
            self._ready.set()

    async def _take_tools(self, connection: Connection) -> None:
        tools = tuple(sorted(await connection.list_tools(), key=lambda tool: tool.name))
        if tools != self.tools:
            if self.tools:
                log.info("tools.changed", server=self.name, tools=len(tools))
            self.tools = tools

    def _note_end(self) -> float:
        """Log why it ended, and return how long to wait before the next start."""
        now = self._clock.monotonic()
        started = self._up_at is not None
        ran_s = now - self._up_at if self._up_at is not None else 0.0
        self._failures_in_a_row = 1 if ran_s >= STEADY_S else self._failures_in_a_row + 1
        self._last_error = self._watch.reason[:_MAX_REASON_CHARS]
        pause = pause_s(self._failures_in_a_row, self._share())
        log.warning(
            "tools.server_lost" if started else "tools.server_failed",
            server=self.name,
            reason=self._last_error,
            ran_s=round(ran_s, 1),
            pause_s=round(pause, 1),
        )
        if not started:
            # A server that the question for the newer handshake confuses may know the older one.
            self._legacy = not self._legacy
        return pause

    def _enter(self, state: ServerState) -> None:
        self._state, self._since = state, self._clock.now()


def _described(error: BaseException) -> str:
    """Return the first error of a group in words."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, ValidationError):  # it would quote what came
        return "its answer does not fit the protocol"

    return f"{type(error).__name__}: {error}"
