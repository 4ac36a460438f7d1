"""One daemon with clients on all sides at once, while the servers and the daemon die and return."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

import anyio

from gateway.clock import SystemClock
from tests.support.daemon import Daemon, running_daemon

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from anyio.abc import TaskGroup, TaskStatus

    from tests.everywhere.side import Side

PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
FIRST_KILL_S: Final = 0.3
QUIET_S: Final = 120.0
"""How long what is owed may take to come once nobody writes any more."""


@dataclass
class Report:
    """What a trial saw."""

    lives: int = 0
    said: int = 0
    memory: list[int] = field(default_factory=list)
    """Resident memory of the last daemon, in bytes, second by second."""
    quiet_after_s: float = 0.0
    """How long it took, once nobody wrote any more, until nothing was owed."""
    violations: list[str] = field(default_factory=list)


class Trial:
    """Runs it; `report` says what came of it."""

    def __init__(
        self, folder: Path, sides: Sequence[Side], *, users: int, seconds: float, pause_s: float
    ) -> None:
        """Prepare.

        Args:
            folder: Where the state is.
            sides: Who takes part.
            users: How many on each side.
            seconds: How long they write.
            pause_s: How long a user pauses between two messages, on average.
        """
        self._state = folder / "state"
        self._sides = sides
        self._users = users
        self._seconds = seconds
        self._pause_s = pause_s
        self._clock = SystemClock()
        self._daemon: Daemon | None = None
        self._over = anyio.Event()
        self._group: TaskGroup | None = None
        self.report = Report()

    async def run(self) -> None:
        """Run the whole trial, and look at everything afterwards."""
        async with AsyncExitStack() as stack:
            for side in self._sides:
                await stack.enter_async_context(side.serving())
            async with self._living():
                async with anyio.create_task_group() as people:
                    for side in self._sides:
                        for user in range(self._users):
                            people.start_soon(self._talk, side, user)
                        people.start_soon(self._intrude, side)
                    await self._trouble()
                    await self._watch_memory(self._seconds * 0.45)
                self.report.quiet_after_s = await self._quiet()
                await self._look_at_sessions()
        for side in self._sides:
            self.report.violations += [f"{side.name}: {one}" for one in side.book.violations()]

    # -- the daemon ------------------------------------------------------------------------------

    @asynccontextmanager
    async def _living(self) -> AsyncGenerator[None]:
        async with anyio.create_task_group() as group:
            self._group = group
            await group.start(self._live)
            try:
                yield
            finally:
                self._over.set()

    async def _live(self, *, task_status: TaskStatus[None]) -> None:
        """Have a daemon run until its life is over, and say once it is ready."""
        self._over = over = anyio.Event()
        config = "".join(side.config() for side in self._sides)
        async with running_daemon(self._state, config) as daemon:
            self._daemon = daemon
            self.report.lives += 1
            for side in self._sides:
                await side.begin_life(daemon)
            task_status.started()
            await over.wait()
            for side in self._sides:
                await side.end_life()

    async def _again(self, *, kill: bool) -> None:
        """End the daemon, and begin another."""
        daemon = self._here()
        await (daemon.kill() if kill else daemon.terminate())
        self._over.set()
        assert self._group is not None
        await self._group.start(self._live)

    def _here(self) -> Daemon:
        assert self._daemon is not None
        return self._daemon

    # -- what happens ----------------------------------------------------------------------------

    async def _talk(self, side: Side, user: int) -> None:
        """Write at times, now and then several at once, until the time is over."""
        end = self._clock.monotonic() + self._seconds
        random = Random(f"{side.name} {user}")
        number = 0
        while True:
            await self._clock.sleep(random.uniform(0, 2 * self._pause_s))
            if self._clock.monotonic() >= end:
                return

            for _ in range(random.choice((1, 1, 1, 2, 3))):
                number += 1
                await side.say(user, f"{side.name} {user} {number}")
                self.report.said += 1

    async def _intrude(self, side: Side) -> None:
        """Write as a stranger, at times."""
        for number in range(5):
            await side.say_as_stranger(f"{side.name} stranger {number}")
            await self._clock.sleep(self._seconds / 6)

    async def _trouble(self) -> None:
        """Kill and restart, for about half of the time."""
        step = self._seconds / 12
        # Channels have just begun: the first of all starts may be cut off too.
        await self._clock.sleep(FIRST_KILL_S)
        await self._again(kill=True)
        await self._clock.sleep(step)
        await self._again(kill=True)
        for side in self._sides:
            async with side.away():
                await self._clock.sleep(step / 2)
        await self._again(kill=False)
        for side in self._sides:
            async with side.away():
                await self._again(kill=True)
            await self._clock.sleep(step / 4)

    async def _watch_memory(self, seconds: float) -> None:
        end = self._clock.monotonic() + seconds
        while self._clock.monotonic() < end:
            self.report.memory.append(resident_bytes(self._here().pid))
            await self._clock.sleep(1.0)

    # -- afterwards ------------------------------------------------------------------------------

    async def _quiet(self) -> float:
        """Wait until nothing is owed; return for how long that was, in seconds."""
        began_at = self._clock.monotonic()
        with anyio.move_on_after(QUIET_S):
            while True:
                for side in self._sides:
                    await side.look()
                if not any(side.owed() for side in self._sides):
                    break
                await self._clock.sleep(0.5)
        quiet_after_s = self._clock.monotonic() - began_at
        # What is shown once too often comes a little later.
        await self._clock.sleep(1.0)
        for side in self._sides:
            await side.look()
        return quiet_after_s

    async def _look_at_sessions(self) -> None:
        """Compare what each session holds with what was accepted."""
        for side in self._sides:
            for user in range(self._users):
                key = side.key_of(user)
                said = await self._said(key)
                texts = side.book.accepted[side.chat_of(user)]
                wanted = [(role, text) for text in texts for role in ("user", "assistant")]
                if said != wanted:
                    self.report.violations.append(f"{key} holds {said}, not {wanted}")
        status: dict[str, Any] = await self._here().get("/v1/status")
        expected = len(self._sides) * self._users
        if status["store"]["entries"] != expected:
            self.report.violations.append(
                f"{status['store']['entries']} sessions instead of {expected}"
            )

    async def _said(self, key: str) -> list[tuple[str, str]]:
        """Return what a session holds; nothing where there is none."""
        answer = await self._here().client.get(f"/v1/sessions/{key}")
        return await self._here().said(key) if answer.is_success else []


def grown_bytes(memory: Sequence[int]) -> int:
    """Return by how much memory has grown from the middle third of its samples to the last."""
    third = len(memory) // 3
    return max(memory[2 * third :]) - max(memory[third : 2 * third])


def resident_bytes(pid: int) -> int:
    """Return how much memory a process holds."""
    pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * PAGE_BYTES
