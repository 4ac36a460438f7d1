"""The contexts of sessions in use, so that a turn need not read its whole transcript again.

What stands here is what the database holds: a turn is added once its commit is durable, and a
context that a round changes is forgotten until the round is stored. One lane runs a session at a
time, so nobody else appends meanwhile.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from gateway.context.compaction import summary_message
from gateway.context.counted import CountedContext
from gateway.context.estimate import CHARS_PER_TOKEN_ESTIMATE
from gateway.context.window import Overflow, overflow, too_many_images
from gateway.model import Projection, ProjectionMode, TurnId
from gateway.transcripts import accounts, projections, summaries
from gateway.transcripts.accounts import LEAST_RATE, ContextAccount
from gateway.transcripts.reading import Beginning, beginning_after, messages_after

if TYPE_CHECKING:
    from gateway.durable.batch import Queries
    from gateway.durable.database import Database
    from gateway.model import SessionId, Summary

MAX_CHARS: Final = 128_000_000
"""Characters kept in all; the sessions longest not in use leave first."""
MAX_IMAGE_CHARS: Final = 64_000_000
"""Characters of images read of one session, in base64: no provider takes a request so large."""
_MESSAGE_CHARS: Final = 300
"""What a message takes in memory beside its text."""


@dataclass(slots=True)
class SessionContext:
    """What is sent of a session, and how that was measured."""

    counted: CountedContext = field(default_factory=CountedContext)
    account: ContextAccount = field(default_factory=ContextAccount)
    others: dict[str, ContextAccount] = field(default_factory=dict)
    """The same as it was when another model was asked last, by model; forgotten with the rest."""
    left_out: Projection | None = None
    """Turns that were not even read, for no window has room for them; not stored yet."""

    @property
    def dropped(self) -> list[str]:
        """Projections of turns that have left: who stores that empties it, once they are deleted.

        See `gateway.transcripts.projections.drop`.
        """
        return self.counted.dropped

    def ask(self, model: str) -> None:
        """Let the account speak of a model from here on.

        Where agents stand in for each other, each goes on from what its own provider counted.
        """
        if self.account.model != model:
            self.others[self.account.model] = self.account
            self.account = self.account.of(model, self.others)

    @property
    def weight(self) -> int:
        """Roughly its characters in memory."""
        counted = self.counted
        return counted.chars + counted.image_chars + _MESSAGE_CHARS * len(counted.messages)


def readable_chars(window_tokens: int) -> int:
    """Return how many characters a window has room for if a provider counts as little as it can."""
    return int(window_tokens * CHARS_PER_TOKEN_ESTIMATE / LEAST_RATE)


async def load_context(
    database: Database,
    session_id: SessionId,
    *,
    max_chars: int,
    max_image_chars: int = MAX_IMAGE_CHARS,
) -> SessionContext:
    """Read what is sent of a session, its summary in front and its projections in place.

    Args:
        database: Where it is.
        session_id: The conversation.
        max_chars: What surely fits no window is left out, so that memory is bounded.
        max_image_chars: So are turns whose images, in base64, surely fit no request.
    """
    return await database.read(
        lambda connection: _load(connection, session_id, max_chars, max_image_chars)
    )


def _load(
    connection: Queries, session_id: SessionId, max_chars: int, max_image_chars: int
) -> SessionContext:
    made = projections.read(connection, session_id)
    summary = summaries.newest(connection, session_id)
    begins = _beginning(connection, session_id, made, summary)
    counted = CountedContext(
        {one.item: one for one in made if one.mode is not ProjectionMode.OMIT},
        left_out_turns=begins.turns,
        after_answer=begins.last_answer,
        summary=summary_message(summary.text, summary.through_turn) if summary else None,
        summarised_turns=summary.turns if summary else 0,
    )
    context = SessionContext(counted, accounts.read(connection, session_id))
    for message in messages_after(connection, session_id, begins.position):
        counted.extend([message])
        if context.left_out is not None and message.turn_id == context.left_out.item:
            # The rest of a turn that is too much by itself.
            counted.leave_out(1, 0)
        else:
            _bound(context, max_chars, max_image_chars)
    return context


def _bound(context: SessionContext, max_chars: int, max_image_chars: int) -> None:
    """Leave out what is too much to be held."""
    counted = context.counted
    gone = leave_out(counted, too_many_images(counted, max_image_chars))
    if counted.chars > 2 * max_chars:
        gone = leave_out(counted, overflow(counted, max_chars)) or gone
    context.left_out = gone or context.left_out


def _beginning(
    connection: Queries, session_id: SessionId, made: list[Projection], summary: Summary | None
) -> Beginning:
    """Return where the turns begin that are sent: after those summarised and those left out."""
    before = [TurnId(one.item) for one in made if one.mode is ProjectionMode.OMIT]
    before += [] if summary is None else [summary.through_turn]
    begins = [beginning_after(connection, session_id, turn_id) for turn_id in before]
    return max(begins, key=attrgetter("position"), default=Beginning())


def leave_out(counted: CountedContext, beyond: Overflow | None) -> Projection | None:
    """Leave turns out of a context; return what stands in their place.

    What was made of their tool results is noted in `SessionContext.dropped`.
    """
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
