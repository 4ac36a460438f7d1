"""How far an account has read, and what it knows of its rooms there: a file of its own.

`<account>.matrix.json` in the state directory, replaced as a whole. What is known of a room goes
with the place: read again from there, an event is taken for what it was taken for before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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


@dataclass(frozen=True, slots=True)
class Room:
    """What is known of a room that we are in; what changes makes another."""

    members: int | None = None
    """How many are in it, we among them; None: nobody has said."""
    name: str = ""
    encrypted: bool = False
    unread_since: str | None = None
    """Where that begins which is still to be read of it, as the homeserver names the place; empty:
    when we came. None: it is read as far as all rooms are."""


@dataclass(slots=True)
class Place:
    """A place in what happens, as one user sees it."""

    user_id: str
    since: str
    """The homeserver's name of the place: all before it is stored or refused."""
    rooms: dict[str, Room] = field(default_factory=dict)
    invitations: dict[str, str] = field(default_factory=dict)
    """Rooms that are to be joined, and who has invited us."""

    def copy(self) -> Place:
        """Return one that does not change with this; it takes no long time, however many rooms."""
        return Place(self.user_id, self.since, dict(self.rooms), dict(self.invitations))


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
    said = {
        "version": _VERSION,
        "user_id": place.user_id,
        "since": place.since,
        "rooms": place.rooms,
        "invitations": place.invitations,
    }
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
        # Files of before this key have all rooms read alike.
        unread = one.get("unread_since")
        unread_since = None if unread is None else _text(unread)
        rooms[room_id] = Room(members, _text(name), encrypted, unread_since)
    user_id, since = _text(said["user_id"]), _text(said["since"])
    if not user_id or not since:
        raise ValueError("no place")

    # Files of before this key have none.
    invitations = {room_id: _text(one) for room_id, one in said.get("invitations", {}).items()}
    return Place(user_id, since, rooms, invitations)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value
