"""Rooms of which something is still to be read, each in a task of its own: none stops the others.

What a sync tells of such a room waits behind that, in its order. The stored place says where each
of them begins: nothing of a room is passed over but what is logged as such.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import anyio

from gateway.channels.matrix.api import NoAnswerError, RefusedError, pause_before_s
from gateway.channels.matrix.gap import MAX_MISSED, Gap
from gateway.channels.matrix.inbound import Event, names_in
from gateway.channels.matrix.rooms import counts, joining, since_invited
from gateway.log import get_logger
from gateway.model import clean_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskGroup

    from gateway.channels.matrix.api import Homeserver
    from gateway.channels.matrix.place import Place
    from gateway.clock import Clock

TRIES: Final = 8
"""So often something is asked of a room in vain before it goes on without, over ten minutes."""
AT_ONCE: Final = 4
"""Of so many rooms something is asked at the same time."""


@dataclass(slots=True)
class Piece:
    """What is to be taken of a room, in order, after what is missing before it."""

    gap: Gap
    members: int | None
    """How many are in it after all that; None: nobody has said."""
    names: dict[str, str] = field(default_factory=dict)
    """What people call themselves there, by their ids."""
    events: deque[tuple[Event, int | None]] = field(default_factory=deque)
    """What is still to be taken, once `unfold` was called, with how many were in the room."""

    def unfold(self, user_id: str) -> None:
        """Make of what was read and told what is to be taken."""
        events = self.gap.events
        joined = joining(events, user_id)
        if joined is not None:
            events = since_invited(events, user_id, joined)
        self.names = dict(names_in(iter(self.gap.members))) | self.names
        self.events.extend(zip(events, counts(events, user_id, self.members), strict=True))


@dataclass(slots=True)
class _Tries:
    """How often something was asked in vain without coming further."""

    tried: int = 0
    at: tuple[str, int] = ("", 0)

    def pause_s(self, error: RefusedError | NoAnswerError, at: tuple[str, int]) -> float | None:
        """Return how long to leave the homeserver alone; None: it was asked often enough.

        Args:
            error: Why it was in vain.
            at: Something else once it has come further.
        """
        if isinstance(error, RefusedError) and error.is_passing:
            # It refuses nothing of the room.
            return error.asked_s

        self.tried = self.tried + 1 if at == self.at else 1
        self.at = at
        if self.tried >= TRIES:
            return None

        return pause_before_s(self.tried, error.pause_s if isinstance(error, RefusedError) else 0.0)


class Behind:
    """Reads what is missing of rooms, and takes that and what waits behind it."""

    def __init__(
        self,
        account: str,
        place: Place,
        server: Homeserver,
        clock: Clock,
        *,
        take: Callable[[Piece], Awaitable[object]],
        store: Callable[[], Awaitable[None]],
    ) -> None:
        """Take what it works on.

        Args:
            account: Whose rooms they are, for logs.
            place: How far all other rooms are read; what is still to be read is noted there.
            server: Where the rooms are.
            clock: Pauses go by it.
            take: Takes the events of a piece, and drops each; what is left it can take later.
            store: Stores the place.
        """
        self._server = server
        self._clock = clock
        self._account = account
        self._place = place
        self._take = take
        self._store = store
        self._waiting: dict[str, deque[Piece]] = {}
        self._scopes: dict[str, anyio.CancelScope] = {}
        self._limit = anyio.Semaphore(AT_ONCE)

    def __contains__(self, room_id: str) -> bool:
        """Return whether something is still to be read of a room."""
        return room_id in self._waiting

    def resume(self, tasks: TaskGroup) -> None:
        """Go on with the rooms that were behind at the place that is stored."""
        since = self._place.since
        for room_id, room in list(self._place.rooms.items()):
            if room.unread_since is not None:
                gap = Gap(room_id, since, room.unread_since)
                self.add(tasks, Piece(gap, room.members), since)

    def add(self, tasks: TaskGroup, piece: Piece, upto: str) -> None:
        """Have a piece taken after all that waits of its room.

        Args:
            tasks: The room is read in a task of it; whoever gives it ends that.
            piece: Not unfolded, if there is something to read before it.
            upto: The place where it ends.
        """
        room_id, since = piece.gap.room_id, piece.gap.since
        waiting = self._waiting.get(room_id)
        if waiting is None:
            self._waiting[room_id] = waiting = deque((piece,))
            self._note(room_id, since)
            tasks.start_soon(self._read, room_id, waiting)
            return

        waiting.append(piece)
        first, *later = waiting
        if sum(len(one.gap.told) for one in later) > MAX_MISSED:
            # It can be read again: memory stays flat, however long the first one takes.
            whole = Piece(Gap(room_id, upto, later[0].gap.since), piece.members)
            waiting.clear()
            waiting.extend((first, whole))

    def drop(self, room_id: str) -> None:
        """Give up a room that we are in no more."""
        self._waiting.pop(room_id, None)
        if scope := self._scopes.pop(room_id, None):
            scope.cancel()

    async def _read(self, room_id: str, waiting: deque[Piece]) -> None:
        """Take what waits of a room, until there is nothing."""
        if self._waiting.get(room_id) is not waiting:
            return

        with anyio.CancelScope() as scope:
            self._scopes[room_id] = scope
            while waiting:
                await self._take_piece(waiting[0])
                if self._waiting.get(room_id) is not waiting:
                    return

                waiting.popleft()
                self._note(room_id, waiting[0].gap.since if waiting else None)
            del self._waiting[room_id], self._scopes[room_id]
            await self._store()

    async def _take_piece(self, piece: Piece) -> None:
        """Fill the gap before a piece, or give it up, and take all of it.

        Of no more rooms than `AT_ONCE` gaps are read at a time, up to their last message: what is
        read is held. A room that pauses lets others go on.
        """
        tries = _Tries()
        while True:
            async with self._limit:
                pause_s = await self._go_on(piece, tries)
            if pause_s is None:
                return

            await self._clock.sleep(pause_s)

    async def _go_on(self, piece: Piece, tries: _Tries) -> float | None:
        """Read and take what can be; return the pause before the next try, None: all is taken."""
        gap, user_id = piece.gap, self._place.user_id
        if not piece.events:
            try:
                reason = await gap.fill(self._server, user_id)
            except (RefusedError, NoAnswerError) as error:
                pause_s = tries.pause_s(error, ("read", gap.read))
                if pause_s is not None:
                    return pause_s
                reason = str(error)
            gap.log(self._account, reason)
            piece.unfold(user_id)
        while piece.events:
            try:
                await self._take(piece)
            except (RefusedError, NoAnswerError) as error:
                pause_s = tries.pause_s(error, ("take", len(piece.events)))
                if pause_s is not None:
                    return pause_s

                piece.events.popleft()
                get_logger().warning(
                    "matrix.event_passed_over",
                    account=self._account,
                    room_id=clean_name(gap.room_id),
                    reason=str(error),
                )
        return None

    def _note(self, room_id: str, since: str | None) -> None:
        room = self._place.rooms[room_id]
        self._place.rooms[room_id] = replace(room, unread_since=since)
