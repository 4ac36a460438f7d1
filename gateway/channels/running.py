"""All channels of the gateway, each run in a task of its own, and run again when it is lost.

One that breaks backs off alone: no other channel notices, nor does the gateway. A pause that its
platform asks for is kept.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import anyio

from gateway.channels.base import LONGEST_WISH_S, Channel, ChannelError
from gateway.channels.registry import open_channel
from gateway.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from gateway.channels.base import Receive
    from gateway.channels.settings import ChannelSettings
    from gateway.clock import Clock

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 300.0
STEADY_S: Final = 60.0
"""A channel that ran for so long starts anew with the shortest pause."""
_MAX_ERROR_CHARS: Final = 200


class ChannelState(StrEnum):
    """What a channel does."""

    STARTING = "starting"
    RUNNING = "running"
    BACKING_OFF = "backing_off"
    """It is lost, and waits before it is run again."""
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """What is known of a channel since the daemon's start."""

    platform: str
    account: str
    state: ChannelState
    since: datetime
    """When it came into this state."""
    restarts: int
    """How often it was run again."""
    last_error: str
    """Why it was lost the last time; empty: never."""


def longest_pause_s(failures: int) -> float:
    """Return how long to wait at most before a channel is run again, in seconds.

    Args:
        failures: How often in a row it has not run for a minute, at least 1.
    """
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * (1 << min(failures - 1, 16)))


def open_channels(
    settings: Mapping[str, ChannelSettings], state_dir: Path, clock: Clock
) -> Channels:
    """Return the configured channels, by account; they begin with `run`.

    Raises:
        ConfigurationError: the library of a platform is not installed.
    """
    return Channels(
        [open_channel(account, one, state_dir, clock) for account, one in settings.items()], clock
    )


class Channels:
    """The channels there are."""

    def __init__(
        self,
        channels: Sequence[Channel],
        clock: Clock,
        share: Callable[[], float] = random.random,
    ) -> None:
        """Take them; `share` returns random numbers from 0 to 1."""
        self._runners = [ChannelRunner(channel, clock, share) for channel in channels]

    def __iter__(self) -> Iterator[Channel]:
        """Go through them in the order of the configuration."""
        return (runner.channel for runner in self._runners)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._runners)

    async def run(self, receive: Receive, on_reached: Callable[[Channel], None]) -> None:
        """Keep all of them running until cancelled.

        Args:
            receive: Takes their messages; see `gateway.channels.base.Receive`.
            on_reached: Called each time a platform can be reached, or can be again.

        Cancellation: what was taken is stored, or was not acknowledged.
        """
        async with anyio.create_task_group() as tasks:
            for runner in self._runners:
                tasks.start_soon(runner.run, receive, on_reached)

    def statistics(self) -> tuple[ChannelStatistics, ...]:
        """Return what is known of each, in the order of the configuration."""
        return tuple(runner.statistics() for runner in self._runners)


class ChannelRunner:
    """Runs one channel."""

    def __init__(self, channel: Channel, clock: Clock, share: Callable[[], float]) -> None:
        """Take the channel; nothing happens before `run`."""
        self.channel = channel
        self._clock = clock
        self._share = share
        self._state, self._since = ChannelState.STOPPED, clock.now()
        self._up_at: float | None = None
        self._failures = 0
        self._restarts = 0
        self._last_error = ""

    def statistics(self) -> ChannelStatistics:
        """Return what is known of it."""
        return ChannelStatistics(
            platform=self.channel.platform,
            account=self.channel.account,
            state=self._state,
            since=self._since,
            restarts=self._restarts,
            last_error=self._last_error,
        )

    async def run(self, receive: Receive, on_reached: Callable[[Channel], None]) -> None:
        """Keep it running until cancelled."""

        def ready() -> None:
            if self._state is not ChannelState.RUNNING:
                self._up_at = self._clock.monotonic()
                self._enter(ChannelState.RUNNING)
                get_logger().info("channel.running", **self._name())
            on_reached(self.channel)

        try:
            while True:
                self._up_at = None
                self._enter(ChannelState.STARTING)
                error = await self._run_once(receive, ready)
                await self._clock.sleep(self._note_end(str(error), error.retry_after_s or 0.0))
                self._restarts += 1
        finally:
            self._enter(ChannelState.STOPPED)

    async def _run_once(self, receive: Receive, ready: Callable[[], None]) -> ChannelError:
        """Run it until it is lost; return why."""
        try:
            await self.channel.run(receive, ready=ready)
        except Exception as error:  # noqa: BLE001 - the boundary of a channel: no fault of it ends more
            first = _first(error)
            if isinstance(first, ChannelError):
                return first

            get_logger().exception("channel.crashed", **self._name())
            return ChannelError(f"it crashed ({type(first).__name__})")
        return ChannelError("it ended by itself")

    def _note_end(self, error: str, wish_s: float) -> float:
        """Log why it ended, and return how long to wait before it is run again."""
        now = self._clock.monotonic()
        ran_s = 0.0 if self._up_at is None else now - self._up_at
        self._failures = 1 if ran_s >= STEADY_S else self._failures + 1
        error = error[:_MAX_ERROR_CHARS]
        # Once is enough, as long as nothing has changed: statistics tell of each time.
        told_before = self._up_at is None and error == self._last_error
        self._last_error = error
        own_s = self._share() * longest_pause_s(self._failures)
        pause_s = max(own_s, min(wish_s, LONGEST_WISH_S))
        self._enter(ChannelState.BACKING_OFF)
        log = get_logger().debug if told_before else get_logger().warning
        log(
            "channel.lost",
            **self._name(),
            reason=self._last_error,
            ran_s=round(ran_s, 1),
            pause_s=round(pause_s, 1),
        )
        return pause_s

    def _enter(self, state: ChannelState) -> None:
        self._state, self._since = state, self._clock.now()

    def _name(self) -> dict[str, str]:
        return {"platform": self.channel.platform, "account": self.channel.account}


def _first(error: BaseException) -> BaseException:
    """Return the first error of a group, at any depth."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
