"""The contexts of sessions in use, so that a turn need not read its whole transcript again.

What stands here is what the database holds: a turn is added once its commit is durable, and a
context that a round changes is forgotten until the round is stored. One lane runs a session at a
time, so nobody else appends meanwhile.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.context.counted import CountedContext
from gateway.context.window import Overflow, overflow
from gateway.model import Projection, ProjectionMode, TurnId
from gateway.transcripts import accounts, projections
from gateway.transcripts.accounts import ContextAccount
from gateway.transcripts.reading import Beginning, beginning_after, messages_after

if TYPE_CHECKING:
    from gateway.durable.batch import Queries
    from gateway.durable.database import Database
    from gateway.model import SessionId

MAX_CHARS: Final = 128_000_000
"""Characters kept in all; the sessions longest not in use leave first."""
_MESSAGE_CHARS: Final = 300
"""What a message takes in memory beside its text."""


@dataclass(slots=True)
class SessionContext:
    """What is sent of a session, and how that was measured."""

    counted: CountedContext = field(default_factory=CountedContext)
    account: ContextAccount = field(default_factory=ContextAccount)
    left_out: Projection | None = None
    """Turns that were not even read, for no window has room for them; not stored yet."""

    @property
    def weight(self) -> int:
        """Roughly its characters in memory."""
        messages = self.counted.messages
        images = sum(len(image.data) for one in messages if one.images for image in one.images)
        return self.counted.chars + _MESSAGE_CHARS * len(messages) + images


async def load_context(
    database: Database, session_id: SessionId, *, max_chars: int
) -> SessionContext:
    """Read what is sent of a session, its projections in place.

    Args:
        database: Where it is.
        session_id: The conversation.
        max_chars: What surely fits no window is left out, so that memory is bounded.
    """
    return await database.read(lambda connection: _load(connection, session_id, max_chars))


def _load(connection: Queries, session_id: SessionId, max_chars: int) -> SessionContext:
    made = projections.read(connection, session_id)
    begins = _beginning(connection, session_id, made)
    counted = CountedContext(
        {one.item: one for one in made if one.mode is not ProjectionMode.OMIT},
        left_out_turns=begins.turns,
        after_answer=begins.last_answer,
    )
    context = SessionContext(counted, accounts.read(connection, session_id))
    last: TurnId | None = None
    for message in messages_after(connection, session_id, begins.position):
        if message.turn_id != last and counted.chars > 2 * max_chars:
            context.left_out = leave_out(counted, overflow(counted, max_chars)) or context.left_out
        last = message.turn_id
        counted.extend([message])
    return context


def _beginning(connection: Queries, session_id: SessionId, made: list[Projection]) -> Beginning:
    for one in made:
        if one.mode is ProjectionMode.OMIT:
            return beginning_after(connection, session_id, TurnId(one.item))
    return Beginning()


def leave_out(counted: CountedContext, beyond: Overflow | None) -> Projection | None:
    """Leave turns out of a context; return what stands in their place."""
    if beyond is None:
        return None

    counted.leave_out(beyond.messages, beyond.turns)
    return Projection(beyond.last_turn, ProjectionMode.OMIT)


class ContextMemory:
    """The contexts of sessions in use, bounded by their characters."""

    def __init__(self, max_chars: int = MAX_CHARS) -> None:
        """Start empty."""
        self._max_chars = max_chars
        self._sessions: OrderedDict[SessionId, tuple[SessionContext, int]] = OrderedDict()
        self._chars = 0

    def keep(self, session_id: SessionId, context: SessionContext) -> None:
        """Keep the context of a session, in place of what was."""
        self.take(session_id)
        weight = context.weight
        self._sessions[session_id] = context, weight
        self._chars += weight
        while self._chars > self._max_chars:
            self.take(next(iter(self._sessions)))

    def take(self, session_id: SessionId) -> SessionContext | None:
        """Return the context of a session and forget it."""
        context, weight = self._sessions.pop(session_id, (None, 0))
        self._chars -= weight
        return context
