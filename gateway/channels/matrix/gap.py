"""What happened in a room and a sync leaves out, read back page by page."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.channels.matrix.api import RefusedError
from gateway.channels.matrix.inbound import Event
from gateway.channels.matrix.rooms import events_in, reaches_back
from gateway.log import get_logger
from gateway.model import clean_name

if TYPE_CHECKING:
    from gateway.channels.matrix.api import Homeserver

MAX_MISSED: Final = 1_000
"""So many events of a room are fetched at most after an absence; what is older is passed over."""


@dataclass(slots=True)
class Gap:
    """What is missing before some events; what was read of it is kept from one try to the next."""

    room_id: str
    until: str
    """The place where it ends, the next page's start."""
    since: str
    """The place where it begins; empty: all that is for who has just come into the room."""
    told: tuple[Event, ...] = ()
    """What happened after it, in order."""
    members: list[Event] = field(default_factory=list)
    """Who is who there."""
    _found: list[Event] = field(default_factory=list)
    """The newest first."""

    @property
    def events(self) -> tuple[Event, ...]:
        """What was read of it and what happened after it, in order."""
        return (*reversed(self._found), *self.told)

    @property
    def read(self) -> int:
        """How many events were read of it."""
        return len(self._found)

    def is_open(self, user_id: str) -> bool:
        """Return whether there is more to read, as far as it is for us."""
        return bool(self.until) and not reaches_back(self.events, user_id)

    async def fill(self, server: Homeserver, user_id: str) -> str:
        """Read it; return why it cannot be read whole, empty where it was.

        Args:
            server: Of whom the user is.
            user_id: Our own.

        Raises:
            RefusedError: it can be read later, from where this has come to.
            NoAnswerError: so can it.
        """
        while self.is_open(user_id):
            if len(self._found) >= MAX_MISSED:
                return "there are too many"
            try:
                answer = await server.before(self.room_id, self.until, self.since)
            except RefusedError as error:
                if error.is_passing or error.is_fault:
                    raise
                return str(error)

            chunk, ended = events_in(answer, "chunk"), answer.get("end")
            self._found += chunk
            self.members += events_in(answer, "state")
            self.until = ended if chunk and isinstance(ended, str) else ""
        return ""

    def log(self, account: str, reason: str) -> None:
        """Log that it is filled, or, for a reason, that it is not."""
        room_id, events = clean_name(self.room_id), len(self._found)
        if reason:
            get_logger().warning(
                "matrix.gap_not_filled",
                account=account,
                room_id=room_id,
                events=events,
                reason=reason,
            )
        elif events:
            get_logger().info("matrix.gap_filled", account=account, room_id=room_id, events=events)
