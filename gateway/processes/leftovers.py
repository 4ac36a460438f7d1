"""What lives on of a process whose keeper was killed: its command dies with it, the others do not.

All of them are of the session that the keeper made, which bears the keeper's own number, and the
kernel gives a number to nobody while a session bears it. So a single member that is proven to be of
the keeper's time proves all; where none is, none is signalled, for all of them may be strangers.
"""

from __future__ import annotations

import errno
import os
import signal
from contextlib import contextmanager, suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from gateway.processes.identity import Seen, boot_id, is_within, seen, start_ticks

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from gateway.clock import Clock
    from gateway.processes.identity import KeeperIdentity

TERM_WAIT_S: Final = 5.0
"""How long they may take to end after SIGTERM."""
KILL_WAIT_S: Final = 2.0
"""How long the kernel may take to end one after SIGKILL."""
_SWEEPS: Final = 100
"""How often it is looked for more to kill: who forks all the time might outrun it."""


class Left(StrEnum):
    """What became of what a command had started."""

    NOTHING = "nothing"
    """Nobody was there beside the command."""
    ENDED = "ended"
    UNKNOWN = "unknown"
    """Some are there who are not proven to be its, or cannot be ended."""


async def end_leftovers(
    keeper: KeeperIdentity,
    directory: Path,
    clock: Clock,
    *,
    child: int | None = None,
    met: bool = False,
) -> Left:
    """End who lives in the session of a keeper that is gone: SIGTERM, later SIGKILL.

    Cancellation: some may have been ended.

    Args:
        keeper: The keeper.
        directory: Where it worked.
        clock: What the waits go by.
        child: The command itself, which the kernel ends with its keeper.
        met: Whether this process has seen the keeper alive.

    Raises:
        UnavailableError: Nothing tells the life of the machine.
    """
    if keeper.boot_id != boot_id():
        return Left.NOTHING

    found: set[int] = set()
    with _holding(keeper, directory, met=met) as session:
        for number, wait_s in ((signal.SIGTERM, TERM_WAIT_S), (signal.SIGKILL, KILL_WAIT_S)):
            found |= await anyio.to_thread.run_sync(session.signal, number)
            with clock.move_on_after(wait_s):
                await session.gone()
        if await anyio.to_thread.run_sync(session.members):
            return Left.UNKNOWN

    return Left.ENDED if found - {child} else Left.NOTHING


class _Session:
    """The session of a keeper, and descriptors of those who are proven to be of it."""

    def __init__(self, keeper: KeeperIdentity, directory: Path, *, met: bool) -> None:
        self._keeper = keeper
        self._directory = directory
        self._met = met
        self._held: dict[int, int] = {}

    def members(self) -> dict[int, Seen]:
        """Return who bears the session's number, beside the keeper."""
        leader = seen(self._keeper.pid)
        if leader is not None and leader.start_ticks != self._keeper.start_ticks:
            return {}  # the number is another's, so nobody has borne it for a while

        found = ((int(name), seen(int(name))) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208 - names are enough
        return {
            pid: one
            for pid, one in found
            if one is not None
            and one.session == self._keeper.pid != pid
            and one.state not in {"Z", "X"}
        }

    def signal(self, number: signal.Signals) -> set[int]:
        """Signal all who are proven, also whoever they fork meanwhile; return who they are."""
        done: set[int] = set()
        for _ in range(_SWEEPS):
            members = self.members()
            if not self._are_proven(members):
                break
            self._hold(members)
            new = self._held.keys() - done
            if not new:
                break
            for pid in new:
                with suppress(OSError):  # gone, or it became another user's
                    signal.pidfd_send_signal(self._held[pid], number)
                    # One that is stopped would never hear of it.
                    signal.pidfd_send_signal(self._held[pid], signal.SIGCONT)
            done |= new
        return done

    async def gone(self) -> None:
        """Wait until all who were signalled have ended."""
        for descriptor in self._held.values():
            await anyio.wait_readable(descriptor)

    def close(self) -> None:
        for descriptor in self._held.values():
            os.close(descriptor)

    def _hold(self, members: dict[int, Seen]) -> None:
        for pid, one in members.items():
            if pid in self._held:
                continue
            try:
                descriptor = os.pidfd_open(pid)
            except OSError as exc:
                if exc.errno == errno.ESRCH:
                    continue
                raise
            now = seen(pid)
            if now is not None and (now.session, now.start_ticks) == (one.session, one.start_ticks):
                self._held[pid] = descriptor
            else:
                os.close(descriptor)

    def _are_proven(self, members: dict[int, Seen]) -> bool:
        leader = seen(self._keeper.pid)
        if leader is not None:
            # Dead and not reaped, so the number is still its own; alive, it looks after them.
            return leader.start_ticks == self._keeper.start_ticks and leader.state == "Z"

        if any(pid in self._held for pid in members):
            return True

        # A stranger could have got the number only after the keeper, which was there after we were.
        before = start_ticks(os.getpid()) or 0
        return any(
            (self._met and one.start_ticks < before) or is_within(pid, self._directory)
            for pid, one in members.items()
        )


@contextmanager
def _holding(keeper: KeeperIdentity, directory: Path, *, met: bool) -> Generator[_Session]:
    session = _Session(keeper, directory, met=met)
    try:
        yield session
    finally:
        session.close()
