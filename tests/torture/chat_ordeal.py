"""A gateway and the platform before it, hit again and again, and checked after each time."""

from __future__ import annotations

import signal
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

from tests.support.daemon import NeverReadyError, started_daemon
from tests.support.loopback import short_directory
from tests.torture import diary
from tests.torture.chat_laws import Chats, End, check_ends, check_look, check_quiet
from tests.torture.chatting import CONFIG, Platform
from tests.torture.diary import Diary, Died, Taken
from tests.torture.look import take_look
from tests.torture.tracing import Gate, gate, tracer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from tests.support.daemon import Daemon, Started
    from tests.torture.diary import Event, Written
    from tests.torture.laws import Violation

ROOT: Final = Path(__file__).parent.parent.parent
STEPS: Final = "fdatasync,fsync,sendto,recvfrom,rename,unlink"
"""What makes a commit last, what a client is told and what it tells, what a snapshot and an end
leave: of what a daemon does nobody sees anything between two of them."""
ALL: Final = f"{STEPS},pwrite64,write,ftruncate,accept4"


@dataclass(slots=True)
class ChatOrdeal:
    """One state directory with its platform, and what each daemon left."""

    folder: Path
    diary: Diary
    config: str = CONFIG
    platform: Platform = field(init=False)
    ends: list[End] = field(default_factory=list)
    log: bytes = b""
    """What the last daemon wrote."""

    def __post_init__(self) -> None:
        """Open the platform."""
        self.platform = Platform(self.diary)

    @property
    def state_dir(self) -> Path:
        """Where the daemons work."""
        return self.folder / "state"

    @property
    def idempotent(self) -> bool:
        """Whether the platform shows the same delivery once."""
        return "idempotent = true" in self.config

    def end(self) -> None:
        """Take note that a daemon has ended, and of what it left."""
        at = diary.now()
        self.diary.note(Died(at))
        self.ends.append(End(len(self.diary.events), at, take_look(self.state_dir)))

    def violations(self, *, quiet: bool = False) -> list[Violation]:
        """Return what is wrong by now with what the platform wrote down."""
        events, look = diary.read(self.folder / "diary.jsonl"), self.ends[-1].look
        found = [
            *check_look(events, look),
            *check_ends(events, self.ends, idempotent=self.idempotent),
        ]
        if quiet:
            found += check_quiet(events, look, Chats(), may_die=len(self.ends) > 2)
        return found

    async def hit(
        self,
        kill_at: int,
        calls: str = STEPS,
        *,
        starting: bool = False,
        stop_at: Written | None = None,
    ) -> Gate:
        """Run a daemon until a number of calls, counted from when it is ready, and kill it there.

        Args:
            kill_at: The call after which it is killed; where there are fewer, it ends by itself.
            calls: Which calls are counted.
            starting: Whether they are counted from its very start.
            stop_at: The message at whose acknowledgement it is asked to stop; they are counted
                from there.
        """
        with gate(kill_at if starting else 0) as at:

            def arm() -> None:
                at.kill_at = at.kill_at or at.stops + kill_at

            async with (
                started_daemon(
                    self.state_dir,
                    self.config,
                    tracer=tracer(
                        self.state_dir, (), calls, "signal=SIGSTOP", f"/dev/fd/{at.writer}"
                    ),
                    pass_fds=[at.writer],
                ) as started,
                anyio.create_task_group() as group,
            ):
                group.start_soon(at.run, started.process.pid)
                if stop_at is None:
                    code = await self._live(started, lambda _: arm())
                else:
                    code = await self._live(started, lambda one: self._stop_at(stop_at, one, arm))
        assert code == (-signal.SIGKILL if at.killed else 0), self.log.decode()
        return at

    async def run(self, *, plant: Sequence[str] = (), stop_at: Written | None = None) -> int:
        """Run a daemon until the platform has done all, or it is gone; return its exit code.

        Args:
            plant: A command that runs the daemon with a bug in it.
            stop_at: The message at whose acknowledgement it is asked to stop.
        """
        async with started_daemon(
            self.state_dir,
            self.config,
            tracer=plant,
            env={"PYTHONPATH": str(ROOT)} if plant else None,
        ) as started:
            return await self._live(started, lambda daemon: self._stop_at(stop_at, daemon))

    async def survive(self, *, plant: Sequence[str] = ()) -> list[Violation]:
        """Run a daemon to a good end, and return all that is wrong."""
        assert await self.run(plant=plant) == 0, self.log.decode()
        return self.violations(quiet=True)

    async def _live(self, started: Started, on_ready: Callable[[Daemon], None]) -> int:
        with suppress(NeverReadyError):
            async with started.ready() as daemon:
                on_ready(daemon)
                if await self.platform.live(daemon):
                    # A daemon that was hit late may have ended after its last answer.
                    with suppress(ProcessLookupError):
                        daemon.signal(signal.SIGTERM)
        code = await started.ended()
        self.log = bytes(started.log.raw)
        self.end()
        return code

    def _stop_at(
        self, message: Written | None, daemon: Daemon, then: Callable[[], None] = lambda: None
    ) -> None:
        def look(event: Event) -> None:
            if message and isinstance(event, Taken) and event.message_id == message.message_id:
                self.platform.on_event = lambda _: None
                daemon.signal(signal.SIGTERM)
                then()

        self.platform.on_event = look


@contextmanager
def chat_ordeal(config: str = CONFIG) -> Generator[ChatOrdeal]:
    """Begin an ordeal in a new directory whose path leaves room for a socket."""
    with short_directory() as folder, diary.opened(Path(folder) / "diary.jsonl") as written:
        yield ChatOrdeal(Path(folder), written, config)
