"""The contexts of sessions in use, so that a turn need not read its whole transcript again.

What stands here is what the database holds: a turn is added once its commit is durable, and a
context that a round changes is forgotten until the round is stored. One lane runs a session at a
time, so nobody else appends meanwhile. Rules over stored messages may change what was said: then
the context is forgotten, also where a turn has it in hand.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from gateway.context.counted import CountedContext
from gateway.context.estimate import CHARS_PER_TOKEN_ESTIMATE
from gateway.context.mending import mended
from gateway.context.summary import summary_message
from gateway.context.window import Overflow, overflow, too_many_images
from gateway.model import Projection, ProjectionMode, TurnId
from gateway.transcripts import accounts, projections, summaries
from gateway.transcripts.accounts import LEAST_RATE, ContextAccount
from gateway.transcripts.reading import (
    Beginning,
    beginning_after,
    count_gone_since,
    placed_after,
    turns_between,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gateway.durable.batch import Queries
    from gateway.durable.database import Database
    from gateway.model import Message, SessionId, Summary

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
    positions: dict[TurnId, int] = field(default_factory=dict)
    """The last message of each turn in it, and of the newest one that is not sent any more."""
    begins_after: int = 0
    """The position of the last message that was left out when it was read."""
    is_closed: bool = False
    """Whether it surely holds all that was said: a turn that waits for its caller is not in it."""

    def leave_out(self, beyond: Overflow | None) -> Projection | None:
        """Leave turns out; return what stands in their place."""
        left = leave_out(self.counted, beyond)
        return left and replace(left, through=self.left_through(TurnId(left.item)))

    def left_through(self, turn_id: TurnId) -> int | None:
        """Return the last message of the newest turn that has left; those before are forgotten."""
        through = self.positions.get(turn_id)
        if through is not None:
            self.positions = {one: at for one, at in self.positions.items() if at >= through}
        return through

    @property
    def summarised_through(self) -> int:
        """The last message that the summary covers; 0 where none is known."""
        summary = self.counted.summary
        return 0 if summary is None else self.positions.get(summary.turn_id, 0)

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
    live_turn: TurnId | None = None,
    counted_at: str = "",
) -> SessionContext:
    """Read what is sent of a session, its summary in front and its projections in place.

    Args:
        database: Where it is.
        session_id: The conversation.
        max_chars: What surely fits no window is left out, so that memory is bounded.
        max_image_chars: So are turns whose images, in base64, surely fit no request.
        live_turn: The turn that runs: what was made of its results waits for them, and what it
            has said already is left to it.
        counted_at: When the account's last request began, as
            `gateway.transcripts.pruned.instant` writes it; empty: the account is as it is stored.
    """

    def query(connection: Queries) -> SessionContext:
        context = _load(connection, session_id, max_chars, max_image_chars, live_turn)
        context.counted.drop_unused(live_turn)
        if counted_at and context.account.request_tokens:
            gone = count_gone_since(
                connection, session_id, after=context.begins_after, since=counted_at
            )
            context.account = context.account.without_messages(gone)
        return context

    return await database.read(query)


def _load(
    connection: Queries,
    session_id: SessionId,
    max_chars: int,
    max_image_chars: int,
    live_turn: TurnId | None,
) -> SessionContext:
    made = projections.read(connection, session_id)
    summary = summaries.newest(connection, session_id)
    covered = Beginning()
    if summary is not None:
        covered = beginning_after(connection, session_id, summary.through_turn, summary.through)
    begins = _beginning(connection, session_id, made, summary, covered)
    in_place = {one.item: one for one in made if one.mode is not ProjectionMode.OMIT}
    counted = CountedContext(
        in_place,
        left_out_turns=begins.turns,
        after_answer=begins.last_answer,
        summary=summary_message(summary.text, summary.through_turn) if summary else None,
        summarised_turns=summary.turns if summary else 0,
    )
    context = SessionContext(
        counted, accounts.read(connection, session_id), begins_after=begins.position
    )
    if summary is not None and covered.position:
        context.positions[summary.through_turn] = covered.position
    placed = placed_after(connection, session_id, begins.position)
    said = (one for one in _placed(placed, context.positions) if one.turn_id != live_turn)
    unheard: set[TurnId] = set()
    begun = False
    for message, mend in mended(said, leads=summary is None, skipped=in_place):
        if not mend.is_sent:
            if not begun:
                unheard.add(message.turn_id)
            continue
        unheard.discard(message.turn_id)
        begun = True
        counted.extend([message])
        if context.left_out is not None and message.turn_id == context.left_out.item:
            # The rest of a turn that is too much by itself.
            counted.leave_out(len(counted.messages) - counted.begins, 0)
        else:
            _bound(context, max_chars, max_image_chars)
    counted.left_out_turns += len(unheard)
    if context.left_out is not None:
        # Its last message was not read when it left.
        turn_id = TurnId(context.left_out.item)
        context.left_out = replace(context.left_out, through=context.left_through(turn_id))
    return context


def _placed(rows: Iterable[tuple[int, Message]], positions: dict[TurnId, int]) -> Iterator[Message]:
    """Yield messages, and note where the last one of each turn is."""
    for position, message in rows:
        positions[message.turn_id] = position
        yield message


def _bound(context: SessionContext, max_chars: int, max_image_chars: int) -> None:
    """Leave out what is too much to be held."""
    counted = context.counted
    gone = leave_out(counted, too_many_images(counted, max_image_chars))
    if counted.chars > 2 * max_chars:
        gone = leave_out(counted, overflow(counted, max_chars)) or gone
    context.left_out = gone or context.left_out


def _beginning(
    connection: Queries,
    session_id: SessionId,
    made: list[Projection],
    summary: Summary | None,
    covered: Beginning,
) -> Beginning:
    """Return where the turns begin that are sent: after those summarised and those left out.

    Of turns that are summarised and gone, the summary itself tells how many they were.
    """
    begins = covered
    for one in made:
        if one.mode is ProjectionMode.OMIT:
            after = beginning_after(connection, session_id, TurnId(one.item), one.through)
            begins = after if after.position > begins.position else begins
    if summary is None or not covered.position:
        return begins

    since = turns_between(connection, session_id, covered.position, begins.position)
    return replace(begins, turns=max(covered.turns, summary.turns) + since)


def leave_out(counted: CountedContext, beyond: Overflow | None) -> Projection | None:
    """Leave turns out of a context; return what stands in their place, its place not noted yet.

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
        self._in_hand: dict[SessionId, bool] = {}
        """Sessions whose context is worked on, and whether it may be kept after that."""

    @contextmanager
    def in_hand(self, session_id: SessionId) -> Iterator[None]:
        """Let a context be taken, or read, worked on and kept; of one session one at a time."""
        self._in_hand[session_id] = True
        try:
            yield
        finally:
            del self._in_hand[session_id]

    def is_closed(self, session_id: SessionId) -> bool:
        """Return whether a session's context is here and surely whole."""
        found = self._sessions.get(session_id)
        return found is not None and found[0].is_closed

    def keep(self, session_id: SessionId, context: SessionContext) -> None:
        """Keep the context of a session, in place of what was, unless that was forgotten."""
        self.take(session_id)
        if not self._in_hand.get(session_id, True):
            return

        weight = context.weight
        self._sessions[session_id] = context, weight
        self._chars += weight
        while self._chars > self._max_chars:
            self.take(next(iter(self._sessions)))

    def take(self, session_id: SessionId) -> SessionContext | None:
        """Return the context of a session and remove it."""
        context, weight = self._sessions.pop(session_id, (None, 0))
        self._chars -= weight
        return context

    def forget(self, session_id: SessionId) -> None:
        """Drop the context of a session, and let nobody keep it who has it in hand."""
        self.take(session_id)
        if session_id in self._in_hand:
            self._in_hand[session_id] = False
