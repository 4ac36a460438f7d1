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
    """All messages of a session, and their characters."""

    messages: list[Message]
    chars: int


class ContextMemory:
    """Messages by session id, notices left out, bounded by their characters."""

    def __init__(self, max_chars: int = MAX_CHARS) -> None:
        """Start empty."""
        self._max_chars = max_chars
        self._sessions: OrderedDict[SessionId, Known] = OrderedDict()
        self._chars = 0

    def get(self, session_id: SessionId) -> list[Message] | None:
        """Return a session's messages, oldest first; None where they are not known."""
        known = self._sessions.get(session_id)
        return None if known is None else known.messages

    def keep(self, session_id: SessionId, messages: list[Message]) -> None:
        """Keep all messages of a session."""
        self.forget(session_id)
        self.put_back(session_id, Known([], 0), messages)

    def take(self, session_id: SessionId) -> Known | None:
        """Return what is known of a session and forget it, until `put_back`."""
        known = self._sessions.pop(session_id, None)
        if known is not None:
            self._chars -= known.chars
        return known

    def put_back(self, session_id: SessionId, known: Known, added: list[Message]) -> None:
        """Keep what was taken, with what a turn has added."""
        fresh = [message for message in added if message.role is not Role.NOTICE]
        known.messages.extend(fresh)
        known.chars += estimate_context_chars(fresh)
        self._sessions[session_id] = known
        self._chars += known.chars
        while self._chars > self._max_chars:
            self.forget(next(iter(self._sessions)))

    def forget(self, session_id: SessionId) -> None:
        """Drop a session's messages; one that is not known is no error."""
        self.take(session_id)
