"""The messages of sessions in use, so that a turn need not read its whole transcript again.

What stands here is what the transcript holds. One lane runs a session at a time, so nobody else
appends meanwhile; whoever commits forgets first and keeps again once the commit is durable.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from gateway.context.estimate import estimate_context_chars
from gateway.model import Role

if TYPE_CHECKING:
    from gateway.model import Message, SessionId

MAX_CHARS: Final = 32_000_000
"""Characters kept in all; the sessions longest not in use leave first."""


class ContextMemory:
    """Messages by session id, notices left out, bounded by their characters."""

    def __init__(self, max_chars: int = MAX_CHARS) -> None:
        """Start empty."""
        self._max_chars = max_chars
        self._sessions: OrderedDict[SessionId, tuple[list[Message], int]] = OrderedDict()
        self._chars = 0

    def get(self, session_id: SessionId) -> list[Message] | None:
        """Return a session's messages, oldest first; None where they are not known."""
        known = self._sessions.get(session_id)
        return None if known is None else known[0]

    def keep(self, session_id: SessionId, messages: list[Message]) -> None:
        """Keep all messages of a session."""
        self.forget(session_id)
        kept = [message for message in messages if message.role is not Role.NOTICE]
        chars = estimate_context_chars(kept)
        self._sessions[session_id] = (kept, chars)
        self._chars += chars
        while self._chars > self._max_chars:
            self.forget(next(iter(self._sessions)))

    def forget(self, session_id: SessionId) -> None:
        """Drop a session's messages; one that is not known is no error."""
        known = self._sessions.pop(session_id, None)
        if known is not None:
            self._chars -= known[1]
