"""The reading of one account: what happens in its rooms, in order, and how far it was read.

The place is stored once all before it is stored or refused. A crash between gives the same events
again, each with its own id. Rooms are read one after the other, of each what happened in its order.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.lowlevel
import anyio.to_thread

from gateway.channels.base import ChannelError
from gateway.channels.matrix.api import NoAnswerError, RefusedError, lost
from gateway.channels.matrix.behind import Behind, Piece
from gateway.channels.matrix.gap import Gap
from gateway.channels.matrix.inbound import (
    MESSAGES,
    Origin,
    Where,
    changed_id,
    inbound_of,
    names_in,
    origin_of,
)
from gateway.channels.matrix.joining import Joining
from gateway.channels.matrix.naming import Called, answered_id, heard
from gateway.channels.matrix.place import Place, Room, read_place, write_place
from gateway.channels.matrix.rooms import (
    Part,
    after,
    inviters,
    parts_in,
    read_part,
)
from gateway.log import get_logger
from gateway.model import clean_name

if TYPE_CHECKING:
    from pathlib import Path
    from typing import NoReturn

    from anyio.abc import TaskGroup

    from gateway.channels.matrix.api import Homeserver
    from gateway.channels.matrix.inbound import Event
    from gateway.channels.matrix.settings import MatrixSettings
    from gateway.clock import Clock
    from gateway.model import Inbound

MAX_REMEMBERED: Final = 4_096
"""Messages whose sender and thread are known, for changes of them and answers to them."""
MAX_OPEN: Final = 1_000
"""So many rooms at most are to be joined at a time; further invitations are left open."""
_TWO: Final = 2
LAZY_S: Final = 30.0
"""So often at most the place is stored while there is nothing to hand over."""


HandOver = Callable[["Inbound"], Awaitable[None]]
"""Returns once a message is stored or refused."""


class Reader:
    """Reads what happens in the rooms of one account."""

    def __init__(
        self, account: str, settings: MatrixSettings, path: Path, clock: Clock, server: Homeserver
    ) -> None:
        """Take where the place is kept, and whom to ask."""
        self._account = account
        self._settings = settings
        self._path = path
        self._clock = clock
        self._server = server
        self._place = Place("", "")
        self._stored = Place("", "")
        self._stored_at = 0.0
        self._taking = anyio.Lock()
        self._behind: Behind
        self._called = Called("")
        self._origins: OrderedDict[str, Origin] = OrderedDict()
        self._told: OrderedDict[tuple[str, str], None] = OrderedDict()
        """What was said of a room, once."""

    async def load(self) -> None:
        """Read the place from the file, if there is one.

        Raises:
            ChannelError: it cannot be read.
        """
        place = await anyio.to_thread.run_sync(read_place, self._path)
        self._place = place or Place("", "")
        self._stored = self._place.copy()
        self._stored_at = self._clock.monotonic()

    @property
    def knows_rooms(self) -> bool:
        """Whether it has ever been told of the rooms."""
        return bool(self._place.since)

    def is_encrypted(self, room_id: str) -> bool:
        """Return whether nothing of ours may be written into a room."""
        room = self._place.rooms.get(room_id)
        return room is not None and room.encrypted

    async def run(
        self,
        user_id: str,
        hand_over: HandOver,
        ready: Callable[[], None],
        tasks: TaskGroup,
    ) -> NoReturn:
        """Read for ever, from the place that was loaded.

        Args:
            user_id: Whose rooms they are.
            hand_over: Returns once a message is stored or refused.
            ready: Called once, when the homeserver has told what there is.
            tasks: Rooms are joined in tasks of it; whoever gives it ends them.

        Raises:
            ChannelError: it cannot be read on; what is not stored comes again.
        """
        self._called = await self._who(user_id)
        if self._place.user_id != user_id:
            await self._begin(user_id)
        self._behind = Behind(
            self._account,
            self._place,
            self._server,
            self._clock,
            take=partial(self._take_piece, hand_over),
            store=self._store_between,
        )
        joins = Joining(
            self._server,
            self._clock,
            self._place.invitations,
            self._settings.accepts,
            self._tell_once,
        )
        # First of all: what they bring is told by the next sync at the earliest.
        joins.begin(tasks)
        self._behind.resume(tasks)
        answer = await self._sync(self._place.since, 0)
        await self._take(answer, hand_over, tasks, ready)
        while True:
            joins.begin(tasks)
            answer = await self._sync(self._place.since, self._settings.poll_timeout_s)
            await self._take(answer, hand_over, tasks)

    async def _who(self, user_id: str) -> Called:
        """Return what people call us; where it cannot be asked, as it was told before."""
        try:
            return Called(user_id, await self._server.name_of(user_id))
        except (RefusedError, NoAnswerError) as error:
            get_logger().warning("matrix.name_not_told", account=self._account, reason=str(error))
        return self._called if self._called.user_id == user_id else Called(user_id)

    async def _begin(self, user_id: str) -> None:
        """Mark the place for a start: what was written before is not answered.

        Rooms are joined only once it is stored: what is written there then comes after it.
        """
        reason = "another user" if self._place.user_id else "first start"
        answer = await self._sync(None, 0)
        self._place = Place(user_id, _next(answer))
        for room_id, said in parts_in(answer, "join"):
            read = read_part(said)
            room = Room(members=read.members)
            for event in (*read.state, *read.events):
                room = after(room, event)
            self._place.rooms[room_id] = room
        self._take_invites(answer)
        await self._store(handed=True)
        get_logger().info(
            "matrix.begun",
            account=self._account,
            user_id=clean_name(user_id),
            rooms=len(self._place.rooms),
            reason=reason,
        )

    async def _sync(self, since: str | None, wait_s: int) -> dict[str, Any]:
        """Ask what happened; a pause that is asked for is waited."""
        while True:
            with lost():
                try:
                    return await self._server.sync(since, wait_s)
                except RefusedError as error:
                    if not error.is_busy:
                        raise
                    pause_s = error.pause_s
            await self._clock.sleep(pause_s)

    async def _take(
        self,
        answer: dict[str, Any],
        hand_over: HandOver,
        tasks: TaskGroup,
        noted: Callable[[], None] | None = None,
    ) -> None:
        """Go through what happened, and store the place after it.

        Args:
            answer: What the homeserver tells.
            hand_over: Takes messages.
            tasks: Rooms that are behind are read in tasks of it.
            noted: Called once it is known what the rooms are.
        """
        async with self._taking:
            since, pieces = _next(answer), await self._note(answer)
            if noted is not None:
                noted()
            handed = False
            for piece in pieces:
                # Of hundreds of rooms there may be nothing that waits for anything.
                await anyio.lowlevel.checkpoint()
                handed |= await self._take_room(piece, since, hand_over, tasks)
            self._place.since = since
            await self._store(handed=handed)

    async def _note(self, answer: dict[str, Any]) -> list[Piece]:
        """Note what the rooms are now, and return what is to be taken of them."""
        for room_id, _ in parts_in(answer, "leave"):
            self._behind.drop(room_id)
            self._place.rooms.pop(room_id, None)
            self._place.invitations.pop(room_id, None)
        # Whoever was removed and invited again is told of both at once.
        self._take_invites(answer)
        pieces = []
        for room_id, said in parts_in(answer, "join"):
            await anyio.lowlevel.checkpoint()
            self._place.invitations.pop(room_id, None)
            pieces.append(self._note_room(room_id, read_part(said)))
        return pieces

    async def _store(self, *, handed: bool) -> None:
        """Store the place, unless that can wait: nothing but its name has changed."""
        now, place = self._clock.monotonic(), self._place.copy()
        if place == self._stored:
            return

        same = replace(place, since=self._stored.since) == self._stored
        if not handed and same and now - self._stored_at < LAZY_S:
            return

        await anyio.to_thread.run_sync(write_place, self._path, place)
        self._stored, self._stored_at = place, now

    async def _store_between(self) -> None:
        """Store the place once it is one: amid a sync rooms are further than their place says."""
        async with self._taking:
            await self._store(handed=True)

    def _note_room(self, room_id: str, read: Part) -> Piece:
        """Note what a room is now, and return what is to be taken of it."""
        rooms = self._place.rooms
        gap = Gap(room_id, read.gap_from, self._place.since if room_id in rooms else "")
        gap.told, room = read.events, rooms.get(room_id, Room())
        # That was often said before we were invited: its name, that it is encrypted.
        for event in (*read.state, *read.events):
            room = after(room, event)
        members = room.members if read.members is None else read.members
        rooms[room_id] = replace(room, members=members)
        return Piece(gap, members, dict(names_in(iter(read.state))))

    async def _take_room(
        self, piece: Piece, upto: str, hand_over: HandOver, tasks: TaskGroup
    ) -> bool:
        """Take what was said in a room, or have it wait; return whether anything was handed over.

        It waits where something before it is to be read first: no other room waits for that.
        """
        if piece.gap.room_id in self._behind or piece.gap.is_open(self._place.user_id):
            self._behind.add(tasks, piece, upto)
            return False

        piece.unfold(self._place.user_id)
        try:
            return await self._take_piece(hand_over, piece)
        except (RefusedError, NoAnswerError):
            self._behind.add(tasks, piece, upto)
        return True

    async def _take_piece(self, hand_over: HandOver, piece: Piece) -> bool:
        """Take the events of a piece, and drop each; return whether anything was handed over.

        Raises:
            RefusedError: what is left can be taken later.
            NoAnswerError: so it can.
        """
        room_id, handed = piece.gap.room_id, False
        while piece.events:
            event, members = piece.events[0]
            piece.names.update(names_in(iter((event,))))
            name = self._place.rooms.get(room_id, Room()).name
            direct = members == _TWO
            where = Where(self._account, self._place.user_id, room_id, name, direct, piece.names)
            handed |= await self._take_event(event, where, hand_over)
            piece.events.popleft()
        return handed

    async def _take_event(self, event: Event, where: Where, hand_over: HandOver) -> bool:
        room_id = where.room_id
        if event.get("type") == "m.room.encrypted" or self.is_encrypted(room_id):
            said = event.get("type") in {"m.room.encrypted", *MESSAGES}
            if said and event.get("sender") != where.user_id:
                self._tell_once("matrix.room_encrypted", room_id)
            return False

        changed = changed_id(event)
        origin = await self._origin(room_id, changed, event) if changed else None
        inbound = inbound_of(event, where, origin)
        event_id = event.get("event_id")
        if event.get("type") in MESSAGES and isinstance(event_id, str) and not changed:
            self._remember(event_id, replace(origin_of(event), direct=where.direct))
        if inbound is None:
            return False

        inbound = await self._heard(inbound, event)
        await hand_over(inbound)
        # What is meant for nobody of ours leaves nothing that a second time would change.
        return inbound.named

    async def _heard(self, inbound: Inbound, event: Event) -> Inbound:
        """Return a message with whether it is meant for us."""
        inbound = heard(inbound, event, self._called)
        if inbound.named or self._settings.answer_in_groups == "all":
            return replace(inbound, named=True)

        answered = answered_id(event)
        if not answered:
            return inbound

        origin = await self._origin(inbound.source.chat_id, answered, event)
        return replace(inbound, named=origin is not None and origin.sender == self._called.user_id)

    async def _origin(self, room_id: str, changed: str, event: Event) -> Origin | None:
        """Return who wrote what an event changes or answers, and where; None: nobody knows."""
        known = self._origins.get(changed)
        if known is not None or event.get("sender") == self._place.user_id:
            return known

        try:
            found = origin_of(await self._server.event(room_id, changed))
        except RefusedError as error:
            if error.is_passing or error.is_fault:
                raise
            return None

        self._remember(changed, found)
        return found

    def _remember(self, message_id: str, origin: Origin) -> None:
        self._origins[message_id] = origin
        while len(self._origins) > MAX_REMEMBERED:
            self._origins.popitem(last=False)

    def _take_invites(self, answer: dict[str, Any]) -> None:
        """Note which rooms are to be joined: where whoever is listed invites us."""
        for room_id, said in parts_in(answer, "invite"):
            found = inviters(said, self._place.user_id)
            inviter = " ".join(sorted(found))
            listed = found and all(map(self._settings.accepts, found))
            if listed and len(self._place.invitations) < MAX_OPEN:
                self._place.invitations[room_id] = inviter
            else:
                self._tell_once("matrix.invite_ignored", room_id, inviter=clean_name(inviter))

    def _tell_once(self, event: str, room_id: str, **facts: str) -> None:
        """Log what is so of a room, once as long as there are not many of them."""
        if (event, room_id) in self._told:
            return

        self._told[event, room_id] = None
        while len(self._told) > MAX_REMEMBERED:
            self._told.popitem(last=False)
        log = get_logger().info if event == "matrix.joined" else get_logger().warning
        log(event, account=self._account, room_id=clean_name(room_id), **facts)


def _next(answer: dict[str, Any]) -> str:
    since = answer.get("next_batch")
    if not isinstance(since, str) or not since:
        raise ChannelError("the homeserver's answer cannot be read: there is no next_batch")

    return since
