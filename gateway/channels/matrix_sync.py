"""The reading of one account: what happens in its rooms, in order, and how far it was read.

The place is stored once all before it is stored or refused. A crash between gives the same events
again, each with its own id. Rooms are read one after the other, of each what happened in its order.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import anyio.to_thread

from gateway.channels.base import ChannelError
from gateway.channels.matrix_api import RefusedError, lost
from gateway.channels.matrix_inbound import (
    MESSAGES,
    Origin,
    Where,
    changed_id,
    inbound_of,
    names_in,
    origin_of,
)
from gateway.channels.matrix_joining import Joining
from gateway.channels.matrix_place import Place, Room, read_place, write_place
from gateway.channels.matrix_rooms import (
    Part,
    after,
    events_in,
    inviters,
    joining,
    moves_people,
    parts_in,
    read_part,
    since_invited,
)
from gateway.log import get_logger
from gateway.model import Change, clean_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from typing import NoReturn

    from anyio.abc import TaskGroup

    from gateway.channels.matrix_api import Homeserver
    from gateway.channels.matrix_inbound import Event
    from gateway.channels.matrix_settings import MatrixSettings
    from gateway.clock import Clock
    from gateway.model import Inbound

MAX_MISSED: Final = 1_000
"""So many events of a room are fetched at most after an absence; what is older is passed over."""
MAX_REMEMBERED: Final = 4_096
"""Messages whose sender and thread are known, for changes of them."""
MAX_OPEN: Final = 1_000
"""So many rooms at most are to be joined at a time; further invitations are left open."""
LAZY_S: Final = 30.0
"""So often at most the place is stored while there is nothing to hand over."""


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
        hand_over: Callable[[Inbound], Awaitable[None]],
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
        if self._place.user_id != user_id:
            await self._begin(user_id)
        joins = Joining(self._server, self._clock, self._place.invitations, self._tell_once)
        # First of all: what they bring is told by the next sync at the earliest.
        joins.begin(tasks)
        answer = await self._sync(self._place.since, 0)
        ready()
        while True:
            handed = await self._take(answer, hand_over)
            joins.begin(tasks)
            await self._store(handed=handed)
            answer = await self._sync(self._place.since, self._settings.poll_timeout_s)

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
        self, answer: dict[str, Any], hand_over: Callable[[Inbound], Awaitable[None]]
    ) -> bool:
        """Go through what happened; return whether anything was handed over."""
        since = _next(answer)
        self._take_invites(answer)
        handed = False
        for room_id, said in parts_in(answer, "join"):
            self._place.invitations.pop(room_id, None)
            handed |= await self._take_room(room_id, read_part(said), hand_over)
        for room_id, _ in parts_in(answer, "leave"):
            self._place.rooms.pop(room_id, None)
            self._place.invitations.pop(room_id, None)
        self._place.since = since
        return handed

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

    async def _take_room(
        self, room_id: str, read: Part, hand_over: Callable[[Inbound], Awaitable[None]]
    ) -> bool:
        """Hand over what was said in a room, in order; return whether there was anything."""
        rooms = self._place.rooms
        is_new = room_id not in rooms
        rooms.setdefault(room_id, Room())
        names = dict(names_in(iter(read.state)))
        events, joined = read.events, joining(read.events, self._place.user_id)
        if read.gap_from and joined is None:
            missed, more = await self._missed(room_id, read.gap_from)
            names = dict(names_in(iter(more))) | names
            events = (*missed, *events)
            joined = joining(events, self._place.user_id)
        before = events
        if joined is not None:
            events = since_invited(events, self._place.user_id, joined)
        # What the room is was often said before we were invited: its name, that it is encrypted.
        for event in (*read.state, *before):
            rooms[room_id] = after(rooms[room_id], event)
        if is_new or joined is not None:
            self._count(room_id, read.members)
        handed = False
        for event in events:
            names.update(names_in(iter((event,))))
            rooms[room_id] = after(rooms[room_id], event)
            if moves_people(event):
                # Until somebody came or left they were as many as before.
                self._count(room_id, read.members)
            handed |= await self._take_event(room_id, event, names, hand_over)
        self._count(room_id, read.members)
        return handed

    def _count(self, room_id: str, members: int | None) -> None:
        """Note how many are in a room; None: as many as before."""
        room = self._place.rooms[room_id]
        if members is not None and members != room.members:
            self._place.rooms[room_id] = replace(room, members=members)

    async def _take_event(
        self,
        room_id: str,
        event: Event,
        names: dict[str, str],
        hand_over: Callable[[Inbound], Awaitable[None]],
    ) -> bool:
        room, user_id = self._place.rooms[room_id], self._place.user_id
        if event.get("type") == "m.room.encrypted" or room.encrypted:
            said = event.get("type") in {"m.room.encrypted", *MESSAGES}
            if said and event.get("sender") != user_id:
                self._tell_once("matrix.room_encrypted", room_id)
            return False

        sender = event.get("sender")
        if event.get("type") in MESSAGES and isinstance(sender, str) and sender != user_id:
            room = self._place.rooms[room_id] = room.with_writer(sender)
        where = Where(self._account, user_id, room_id, room.name, room.peer_now(), names)
        changed = changed_id(event)
        origin = await self._origin(room_id, changed, event) if changed else None
        inbound = inbound_of(event, where, origin)
        if inbound is None:
            return False

        if inbound.change is Change.NEW:
            self._remember(inbound.message_id, origin_of(event))
        await hand_over(inbound)
        return True

    async def _origin(self, room_id: str, changed: str, event: Event) -> Origin | None:
        """Return who wrote the message that an event changes, and where; None: nobody knows."""
        known = self._origins.get(changed)
        if known is not None or event.get("sender") == self._place.user_id:
            return known

        with lost():
            try:
                found = origin_of(await self._server.event(room_id, changed))
            except RefusedError as error:
                if error.is_passing:
                    raise
                return None

        self._remember(changed, found)
        return found

    def _remember(self, message_id: str, origin: Origin) -> None:
        self._origins[message_id] = origin
        while len(self._origins) > MAX_REMEMBERED:
            self._origins.popitem(last=False)

    async def _missed(self, room_id: str, place: str) -> tuple[tuple[Event, ...], list[Event]]:
        """Return what happened in a room between what was read and what a sync tells, in order.

        Also who is who there.
        """
        found: list[Event] = []
        members: list[Event] = []
        reason = "there are too many"
        while place and len(found) < MAX_MISSED:
            with lost():
                try:
                    answer = await self._server.before(room_id, place, self._place.since)
                except RefusedError as error:
                    if error.is_passing or error.is_fault:
                        raise
                    reason = str(error)
                    break
            chunk, ended = events_in(answer, "chunk"), answer.get("end")
            found += chunk
            members += events_in(answer, "state")
            place = ended if chunk and isinstance(ended, str) else ""
        facts = {"account": self._account, "room_id": clean_name(room_id), "events": len(found)}
        if place:
            get_logger().warning("matrix.gap_not_filled", **facts, reason=reason)
        else:
            get_logger().info("matrix.gap_filled", **facts)
        return tuple(reversed(found)), members

    def _take_invites(self, answer: dict[str, Any]) -> None:
        """Note which rooms are to be joined: where whoever is listed invites us."""
        for room_id, said in parts_in(answer, "invite"):
            found = inviters(said, self._place.user_id)
            inviter = clean_name(" ".join(sorted(found)))
            listed = found and all(map(self._settings.accepts, found))
            if listed and len(self._place.invitations) < MAX_OPEN:
                self._place.invitations[room_id] = inviter
            else:
                self._tell_once("matrix.invite_ignored", room_id, inviter=inviter)

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
