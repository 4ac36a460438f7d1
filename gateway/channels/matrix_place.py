"""How far an account has read, and what it knows of its rooms there: a file of its own.

`<account>.matrix.json` in the state directory, replaced as a whole. What is known of a room goes
with the place: read again from there, an event is taken for what it was taken for before.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from gateway.channels.base import ChannelError
from gateway.durable.files import write_whole
from gateway.errors import GatewayError

if TYPE_CHECKING:
    from pathlib import Path

PLACES: Final = "*.matrix.json"
"""The files of all accounts; no name of an account is hidden."""
_VERSION: Final = 1
_TWO: Final = 2


@dataclass(slots=True)
class Room:
    """What is known of a room that we are in."""

    members: int | None = None
    """How many are in it, we among them; None: nobody has said."""
    name: str = ""
    encrypted: bool = False


@dataclass(slots=True)
class Place:
    """A place in what happens, as one user sees it."""

    user_id: str
    since: str
    """The homeserver's name of the place: all before it is stored or refused."""
    direct: set[str] = field(default_factory=set)
    """Rooms that the account marks as direct chats (`m.direct`)."""
    rooms: dict[str, Room] = field(default_factory=dict)

    def is_direct(self, room_id: str) -> bool:
        """Return whether a room is a direct chat: marked as one, or of two people."""
        room = self.rooms.get(room_id)
        return room_id in self.direct or (room is not None and room.members == _TWO)


def place_path(state_dir: Path, account: str) -> Path:
    """Return the file of an account."""
    return state_dir / PLACES.replace("*", account)


def read_place(path: Path) -> Place | None:
    """Return what the file says; None where there is none.

    Raises:
        ChannelError: it cannot be read, or says nothing that we have written.
    """
    try:
        return _place(orjson.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ChannelError(
            f"{path} does not say how far was read ({type(error).__name__}); without the file "
            "what is written from then on is answered"
        ) from error


def write_place(path: Path, place: Place) -> None:
    """Store a place.

    Durability: on return it survives power loss.

    Raises:
        ChannelError: it could not be stored; the one before stands.
    """
    said = {"version": _VERSION, **asdict(place), "direct": sorted(place.direct)}
    try:
        write_whole(path, orjson.dumps(said))
    except GatewayError as error:
        raise ChannelError(f"how far was read could not be stored: {error}") from error


def _place(said: dict[str, Any]) -> Place:
    if said["version"] != _VERSION:
        raise ValueError("another version")

    rooms = {}
    for room_id, one in said["rooms"].items():
        members, name, encrypted = one["members"], one["name"], one["encrypted"]
        if not (members is None or type(members) is int) or type(encrypted) is not bool:
            raise TypeError("no room")
        rooms[room_id] = Room(members, _text(name), encrypted)
    user_id, since = _text(said["user_id"]), _text(said["since"])
    if not user_id or not since:
        raise ValueError("no place")

    return Place(user_id, since, set(map(_text, said["direct"])), rooms)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value
