"""Answers that grow in their chats while they are made, until their replies take their place.

In memory only: after a crash nobody knows what was shown, and the reply is sent anew. Whoever makes
an answer grow stands above; the line that delivers the reply closes its stream first, so that
nothing of a part comes after the whole.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import anyio

from gateway.delivery.planning import granted_s

if TYPE_CHECKING:
    from gateway.clock import Clock

MAX_KEPT: Final = 10_000
"""Streams remembered; the reply of one that is forgotten is sent anew."""
BUSY_S: Final = 60.0
"""How long after the pause that a platform asked for it counts as busy."""
_MAX_PACES: Final = 1_024
"""Chats whose paces are remembered before those that are over are dropped."""


@dataclass(slots=True)
class Stream:
    """The message in which one answer grows."""

    chat: str
    """As the outbox names it."""
    shown_id: str = ""
    """The platform's id of the message; empty: nothing is shown yet."""
    closed: bool = False
    """Whether the reply takes its place: no part is shown any more."""
    lock: anyio.Lock = field(default_factory=lambda: anyio.Lock(fast_acquire=True))
    """Held while the platform is asked to show a part, and to close it."""

    async def close(self) -> str:
        """Let it grow no more, and return the platform's id of it; empty: nothing is shown."""
        async with self.lock:
            self.closed = True
        return self.shown_id


class Streams:
    """What grows now, and how fast each chat may be edited."""

    def __init__(self, clock: Clock) -> None:
        """Begin with none."""
        self._clock = clock
        self._streams: OrderedDict[str, Stream] = OrderedDict()
        self._next_at: dict[str, float] = {}
        """By chat, when it may be edited next, monotonic."""
        self._paused_until: dict[str, float] = {}
        """By chat, when the pause is over that a part was answered with, monotonic."""
        self._busy_until: dict[str, float] = {}
        """By channel, until when its platform counts as busy, monotonic."""

    def __len__(self) -> int:
        """Return how many are remembered."""
        return len(self._streams)

    def open(self, delivery_id: str, chat: str) -> Stream:
        """Return the stream of a reply that will bear this id."""
        stream = self._streams[delivery_id] = Stream(chat)
        if len(self._streams) > MAX_KEPT:
            self._streams.popitem(last=False)
        return stream

    def find(self, delivery_id: str) -> Stream | None:
        """Return the stream of a reply, if there is one."""
        return self._streams.get(delivery_id)

    def forget(self, delivery_id: str) -> None:
        """Drop the stream of a reply that is shown, or given up; harmless where there is none."""
        self._streams.pop(delivery_id, None)

    def wait_s(self, chat: str) -> float:
        """Return in how many seconds a chat may be edited; 0: now."""
        return max(0.0, self._next_at.get(chat, 0.0) - self._clock.monotonic())

    def take(self, chat: str, interval_s: float) -> float:
        """Take the next edit of a chat; return in how many seconds it may be made."""
        wait_s = self.wait_s(chat)
        self.hold(chat, wait_s + interval_s)
        return wait_s

    def hold(self, chat: str, seconds: float) -> None:
        """Leave a chat alone for at least so long, or as long as a platform is granted."""
        self._next_at = self._put_off(self._next_at, chat, seconds)

    def pause(self, chat: str, wish_s: float) -> None:
        """Take note that a platform asks for a pause before anything is sent to a chat."""
        self._paused_until = self._put_off(self._paused_until, chat, wish_s)

    def pause_s(self, chat: str) -> float:
        """Return in how many seconds such a pause of a chat is over; 0: there is none."""
        return max(0.0, self._paused_until.get(chat, 0.0) - self._clock.monotonic())

    def note_busy(self, channel: str, chat: str, wish_s: float) -> None:
        """Take note that a channel's platform asks for a pause: it counts messages of all chats."""
        self.hold(chat, wish_s)
        until = self._clock.monotonic() + granted_s(wish_s) + BUSY_S
        self._busy_until[channel] = max(self._busy_until.get(channel, 0.0), until)

    def _put_off(self, until: dict[str, float], chat: str, seconds: float) -> dict[str, float]:
        now, seconds = self._clock.monotonic(), granted_s(seconds)
        if len(until) >= _MAX_PACES:
            until = {name: at for name, at in until.items() if at > now}
        until[chat] = max(until.get(chat, 0.0), now + seconds)
        return until

    def is_busy(self, channel: str) -> bool:
        """Return whether what is owed to a channel goes before parts of answers."""
        return self._clock.monotonic() < self._busy_until.get(channel, 0.0)
