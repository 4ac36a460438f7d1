"""One daemon with clients on all sides at once, while the servers and the daemon die and return."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

import anyio

from gateway.clock import SystemClock
from gateway.turns.running import GIVEN_UP
from tests.everywhere import growing
from tests.everywhere.book import Break
from tests.everywhere.growing import SLOWLY
from tests.everywhere.side import ASIDE
from tests.support.daemon import Daemon, running_daemon

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from anyio.abc import TaskGroup, TaskStatus

    from tests.everywhere.side import Side

PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
BASE: Final = (
    # A stop cuts off no answer, however slow the machine is.
    "[sessions]\nshare_groups = true\n[turns]\nmax_waiting_per_session = 1_000\ngrace_s = 45\n"
    f"{growing.config()}"
)
FIRST_KILL_S: Final = 0.3
START_S: Final = 4.0
"""How long people wait for a daemon that starts before they write all the same."""
SLOW_EVERY: Final = 3
"""Each so many times that somebody writes where answers may take their time, one does."""
QUIET_S: Final = 240.0
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
    sent_again: int = 0
    """Replies that platforms did not take at once, by the log."""


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
            seconds: About how long they write; a daemon that starts slowly makes it longer.
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
        self._up = anyio.Event()
        """Set while there is a daemon."""
        self._is_over = anyio.Event()
        """Set once nobody is to write any more."""
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
                    # People go on: whoever rests needs no memory.
                    await self._watch_memory(self._seconds * 0.45)
                    self._is_over.set()
                self.report.quiet_after_s = await self._quiet()
                await self._look_at_sessions()
        for side in self._sides:
            self.report.violations += [f"{side.name}: {one}" for one in side.book.violations()]
        taken = sum(len(side.book.said) for side in self._sides)
        if taken != self.report.said:
            self.report.violations.append(f"{self.report.said} said, {taken} taken")

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
        config = BASE + "".join(side.config() for side in self._sides)
        async with running_daemon(self._state, config) as daemon:
            self._daemon = daemon
            self.report.lives += 1
            for side in self._sides:
                await side.begin_life(daemon)
            self._up.set()
            task_status.started()
            await over.wait()
            for side in self._sides:
                await side.end_life()
            self.report.sent_again += len(daemon.log.of("outbox.send_failed"))

    async def _again(self, *, kill: bool) -> None:
        """End the daemon, and begin another."""
        daemon, self._up = self._here(), anyio.Event()
        begin = self._clock.now()
        await (daemon.kill() if kill else daemon.terminate())
        for side in self._sides:
            side.book.breaks.append(Break(begin, self._clock.now(), kills=kill))
        self._over.set()
        assert self._group is not None
        await self._group.start(self._live)

    @asynccontextmanager
    async def _away(self, side: Side) -> AsyncGenerator[None]:
        """Have the server of a side away meanwhile."""
        begin = self._clock.now()
        async with side.away():
            side.book.breaks.append(Break(begin, self._clock.now(), kills=False))
            yield

    def _here(self) -> Daemon:
        assert self._daemon is not None
        return self._daemon

    # -- what happens ----------------------------------------------------------------------------

    async def _talk(self, side: Side, user: int) -> None:
        """Write at times, now and then several at once, until nobody writes any more."""
        random = Random(f"{side.name} {user}")
        number = bursts = 0
        while True:
            await self._clock.sleep(random.uniform(0, 2 * self._pause_s))
            if self._is_over.is_set():
                return

            # Where a machine is slow, no more is written while there is no daemon than elsewhere.
            with anyio.move_on_after(START_S):
                await self._up.wait()
            place, bursts = random.choice(side.places_of(user)), bursts + 1
            slow = side.grows(place) and bursts % SLOW_EVERY == 1
            # Behind one that takes its time comes one that does not: three starts that cut
            # off a session's answers pause it.
            for nth in range(2 if slow else random.choice((1, 1, 1, 2, 3))):
                number += 1
                text = f"{side.name} {user} {number}"
                self.report.said += 1
                await side.say(user, place, f"{text} {SLOWLY}" if slow and not nth else text)

    async def _intrude(self, side: Side) -> None:
        """Write as a stranger, at times, and what is none of the gateway's business."""
        for number in range(5):
            await side.say_as_stranger(f"{side.name} stranger {number}")
            await side.say_aside(f"{side.name} {ASIDE} {number}")
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
            async with self._away(side):
                await self._clock.sleep(step / 2)
        await self._again(kill=False)
        for side in self._sides:
            async with self._away(side):
                await self._again(kill=True)
            # What is sent again at a start is to be known as sent, or it would be in doubt twice;
            # and a session is paused of which three starts find a turn cut off.
            await self._clock.sleep(step / 2)
            await self._answers_what_was_cut_off()

    async def _answers_what_was_cut_off(self) -> None:
        """Wait until the daemon has answered what it found cut off at its start."""
        log = self._here().log
        found = sum(one["cut_off"] for one in log.of("turns.recovered"))
        with anyio.fail_after(QUIET_S):
            while sum(one["recoveries"] > 0 for one in log.of("turn.completed")) < found:
                await self._clock.sleep(0.2)

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
                await self._look()
                if not any(side.owed() for side in self._sides):
                    break
                await self._clock.sleep(1.0)
        quiet_after_s = self._clock.monotonic() - began_at
        # What is shown once too often comes a little later.
        await self._clock.sleep(1.0)
        await self._look()
        return quiet_after_s

    async def _look_at_sessions(self) -> None:
        """Compare what each session holds with what was accepted, and find no others."""
        keys = set()
        for side in self._sides:
            answers = side.book.answers()
            for place, texts in side.book.texts().items():
                key = side.key_of(place)
                keys.add(key)
                pairs = zip(texts, answers[place], strict=True)
                wanted = [one for text, answer in pairs for one in _turn(text, answer)]
                held = await self._said(key)
                wrong = next(
                    (pair for pair in zip_longest(held, wanted) if pair[0] != pair[1]), None
                )
                if wrong is not None:
                    self.report.violations.append(
                        f"{side.name}: {place}: {key} holds {wrong[0]} in place of {wrong[1]}"
                    )
        found = await self._here().get("/v1/sessions?limit=1000")
        others = {entry["session_key"] for entry in found["sessions"]} - keys
        self.report.violations += [f"there is a session of nobody: {key}" for key in others]

    async def _look(self) -> None:
        """Bring all books up to date."""
        dead = (await self._here().get("/v1/outbox?state=dead&limit=1000"))["replies"]
        for side in self._sides:
            await side.look()
            side.note_dead(dead)

    async def _said(self, key: str) -> list[tuple[str, str]]:
        """Return what a session holds; nothing where there is none."""
        answer = await self._here().client.get(f"/v1/sessions/{key}")
        return await self._here().said(key) if answer.is_success else []


def _turn(text: str, answer: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("user", text), ("notice" if answer == GIVEN_UP else "assistant", answer)


def grown_bytes(memory: Sequence[int]) -> int:
    """Return by how much memory has grown from the middle third of its samples to the last."""
    third = len(memory) // 3
    return max(memory[2 * third :]) - max(memory[third : 2 * third])


def resident_bytes(pid: int) -> int:
    """Return how much memory a process holds."""
    pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * PAGE_BYTES
