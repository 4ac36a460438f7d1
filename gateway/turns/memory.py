"""The messages of sessions in use, so that a turn need not read its whole transcript again.

What stands here is what the transcript holds. One lane runs a session at a time, so nobody else
appends meanwhile; whoever commits forgets first and keeps again once the commit is durable.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.context.estimate import estimate_context_chars
from gateway.model import Message, Role

if TYPE_CHECKING:
    from gateway.model import SessionId

MAX_CHARS: Final = 32_000_000
"""Characters kept in all; the sessions longest not in use leave first."""


@dataclass(slots=True)
class Known:
    """The newest whole turns of a session."""

    messages: list[Message]
    """Oldest first, notices left out."""
    chars: int
    older_turns: int
    """Turns before them, which no window has room for."""

    def add(self, added: list[Message], max_chars: int) -> None:
        """Add a turn; the oldest turns leave where there is twice of what is of use."""
        fresh = [message for message in added if message.role is not Role.NOTICE]
        self.messages.extend(fresh)
        self.chars += estimate_context_chars(fresh)
        if self.chars > 2 * max_chars:
            self._shorten(max_chars)

    def _shorten(self, max_chars: int) -> None:
        place = 0
        while self.chars > max_chars and place < len(self.messages):
            turn_id = self.messages[place].turn_id
            while place < len(self.messages) and self.messages[place].turn_id == turn_id:
                self.chars -= estimate_context_chars(self.messages[place : place + 1])
                place += 1
            self.older_turns += 1
        del self.messages[:place]


class ContextMemory:
    """What is known of sessions in use, bounded by its characters."""

    def __init__(self, max_chars: int = MAX_CHARS) -> None:
        """Start empty."""
        self._max_chars = max_chars
        self._sessions: OrderedDict[SessionId, Known] = OrderedDict()
        self._chars = 0

    def get(self, session_id: SessionId) -> Known | None:
        """Return what is known of a session."""
        return self._sessions.get(session_id)

    def keep(self, session_id: SessionId, known: Known) -> None:
        """Keep what is known of a session, in place of what was."""
        self.take(session_id)
        self._sessions[session_id] = known
        self._chars += known.chars
        while self._chars > self._max_chars:
            self.take(next(iter(self._sessions)))

    def take(self, session_id: SessionId) -> Known | None:
        """Return what is known of a session and forget it."""
        known = self._sessions.pop(session_id, None)
        if known is not None:
            self._chars -= known.chars
        return known
