"""What a sync says of one room, put in order: what is read, and what the room becomes. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from gateway.channels.matrix.inbound import Event, part

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.channels.matrix.place import Room

WELCOME_MS: Final = 600_000
"""What was written so long before we came, and after we were invited, is answered: many clients
make a room with the first message."""
_JOIN: Final = "join"
_INVITE: Final = "invite"
_LEFT: Final = ("leave", "ban")
_ENOUGH: Final = 50
"""So many events in a row from before what is answered, and nothing older is looked for: a single
one may bear a false time."""


@dataclass(frozen=True, slots=True)
class Part:
    """What a sync says of a room that we are in."""

    events: tuple[Event, ...]
    """What happened, the oldest first."""
    state: tuple[Event, ...]
    """What changed before that, and who is who."""
    members: int | None
    """How many are in it after all that; None: as many as before."""
    gap_from: str
    """Where what is missing before the events ends; empty: nothing is missing."""


def parts_in(answer: Event, kind: str) -> Iterator[tuple[str, Event]]:
    """Return the rooms of a sync by what we are to them, `join`, `invite` or `leave`."""
    rooms = part(part(answer, "rooms"), kind)
    return ((room_id, said) for room_id, said in rooms.items() if isinstance(said, dict))


def read_part(said: Event) -> Part:
    """Return what a sync says of a room that we are in."""
    timeline = part(said, "timeline")
    count = part(said, "summary").get("m.joined_member_count")
    place = timeline.get("prev_batch")
    is_gap = timeline.get("limited") is True and isinstance(place, str)
    return Part(
        events=events_in(timeline),
        state=events_in(part(said, "state")),
        members=count if type(count) is int else None,
        gap_from=str(place) if is_gap else "",
    )


def events_in(said: Event, key: str = "events") -> tuple[Event, ...]:
    """Return a list of events, without what is none."""
    found = said.get(key)
    return tuple(one for one in found if isinstance(one, dict)) if isinstance(found, list) else ()


def joining(events: tuple[Event, ...], user_id: str) -> int | None:
    """Return where a user comes into a room; None where that is not told."""
    for at in range(len(events) - 1, -1, -1):
        before = part(part(events[at], "unsigned"), "prev_content").get("membership")
        if _membership(events[at], user_id) == _JOIN and before != _JOIN:
            return at
    return None


def since_invited(events: tuple[Event, ...], user_id: str, joined: int) -> tuple[Event, ...]:
    """Return what is for a user who came into a room: nothing from before the invitation."""
    start = joined
    for at in range(joined - 1, -1, -1):
        if _membership(events[at], user_id) == _INVITE:
            start = at
            break
    earliest = _at_ms(events[joined]) - WELCOME_MS
    welcome = tuple(one for one in events[start:joined] if _at_ms(one) >= earliest)
    return (*welcome, *events[joined:])


def reaches_back(events: tuple[Event, ...], user_id: str) -> bool:
    """Return whether events hold all that is for a user who came into a room by one of them."""
    joined = joining(events, user_id)
    if joined is None:
        return False
    if any(_membership(one, user_id) == _INVITE for one in events[:joined]):
        return True

    earliest, oldest = _at_ms(events[joined]) - WELCOME_MS, events[: min(joined, _ENOUGH)]
    return bool(oldest) and all(_at_ms(one) < earliest for one in oldest)


def counts(events: tuple[Event, ...], user_id: str, last: int | None) -> list[int | None]:
    """Return how many were in a room when each event happened, it included.

    Args:
        events: In order.
        user_id: Our own: we count as one of them also before we came.
        last: How many were in it after the last one; None: nobody knows, of none of them.
    """
    found: list[int | None] = []
    for event, was_in in zip(reversed(events), reversed(_before(events)), strict=True):
        found.append(last)
        if last is not None and moves_people(event) and event.get("state_key") != user_id:
            is_in = part(event, "content").get("membership") == _JOIN
            last = max(0, last - (is_in - was_in))
    return found[::-1]


def _before(events: tuple[Event, ...]) -> list[bool]:
    """Return of each event about a member whether that one was in the room before."""
    members: dict[str, bool] = {}
    found = []
    for event in events:
        now = part(event, "content").get("membership")
        who = str(event.get("state_key")) if moves_people(event) else ""
        before = part(part(event, "unsigned"), "prev_content").get("membership")
        # Who leaves was in it, and who comes was not, where nobody says otherwise.
        known = members.get(who, now in _LEFT)
        found.append(before == _JOIN if isinstance(before, str) else known)
        if who:
            members[who] = now == _JOIN
    return found


def inviters(said: Event, user_id: str) -> set[str]:
    """Return who has invited a user, as an invitation says.

    What an invitation says beside itself its sender has made up: several answers are suspicious.
    """
    events = events_in(part(said, "invite_state"))
    return {str(one.get("sender")) for one in events if _membership(one, user_id) == _INVITE}


def after(room: Room, event: Event) -> Room:
    """Return a room as it is after an event."""
    kind = event.get("type") if "state_key" in event else ""
    if kind == "m.room.encryption":
        # That is for good, whatever a later one says.
        return replace(room, encrypted=True)
    if kind == "m.room.name":
        name = part(event, "content").get("name")
        return replace(room, name=name if isinstance(name, str) else "")
    return room


def moves_people(event: Event) -> bool:
    """Return whether people may have come or left by an event."""
    return "state_key" in event and event.get("type") == "m.room.member"


def _membership(event: Event, user_id: str) -> object:
    if event.get("type") != "m.room.member" or event.get("state_key") != user_id:
        return None

    return part(event, "content").get("membership")


def _at_ms(event: Event) -> int:
    at = event.get("origin_server_ts")
    return at if type(at) is int else 0
