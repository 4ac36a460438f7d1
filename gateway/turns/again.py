"""Which message comes a second time, of clients that give their messages no id.

A text is taken for the session's last message only where the answer to that one surely was not
handed out whole, and not long ago: else somebody who says the same once more would read an old
answer, and what they said would be lost. Results of tools are known by the ids of their calls.
Stores nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from gateway.errors import ConflictError
from gateway.model import Role
from gateway.transcripts import inbox, outbox
from gateway.transcripts.outbox import WITHOUT_TURN
from gateway.transcripts.reading import turn_backwards
from gateway.turns.handed import HandedOut
from gateway.turns.records import decode_reply

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from gateway.clock import Clock
    from gateway.durable.batch import Queries
    from gateway.model import Inbound, SessionId, SessionKey, TurnId
    from gateway.turns.brought import Brought
    from gateway.turns.ticket import Reply

TRIES_S: Final = 900.0
"""How long after an answer its client may still try to get it: one try of OpenAI's SDK takes up to
600 seconds."""


class MaybeAnsweredError(ConflictError):
    """Nobody knows whether a message is new or was answered before this process began."""


class _Said(NamedTuple):
    message_id: str
    at: datetime
    reply: Reply


class Again:
    """Knows messages that come again."""

    def __init__(self, clock: Clock) -> None:
        """Know of no answer that was handed out."""
        self.handed = HandedOut()
        self._clock = clock

    def message_id(
        self,
        place: Queries,
        key: SessionKey,
        session_id: SessionId,
        inbound: Inbound,
        brought: Brought,
    ) -> str:
        """Return the id of the message of a session that this is, come again; else none.

        Raises:
            MaybeAnsweredError: it may be the last one, and nobody knows.
        """
        if brought.results and not inbound.text:
            return _returned(place, key, session_id, brought.results)
        if not brought.again:
            return ""

        row = inbox.newest(place, key)
        if row is not None:
            # A message with an id of its client's comes again with that.
            same = row.text == inbound.text and row.message_id == row.turn_id
            return row.message_id if same else ""

        said = turn_backwards(place, session_id)
        asked = [message for message in said if message.role is Role.USER]
        if not asked or asked[-1].text != inbound.text:
            return ""

        return self._answered(place, key, asked[-1].turn_id, brought.heard)

    def _answered(
        self, place: Queries, key: SessionKey, turn_id: TurnId, heard: tuple[str, ...]
    ) -> str:
        """Return the id of the newest turn's message if its client surely lacks the answer."""
        replies, before = _replies(place, key, turn_id)
        if not replies or replies[0].message_id != turn_id:
            return ""

        reply = replies[0].reply
        tells = before is None or _marks(reply) != _marks(before)
        if len(replies) > 1 or (tells and heard == _marks(reply)):
            # Its client goes on from the answer.
            return ""

        whole = self.handed.is_whole(turn_id)
        if whole or (self._clock.now() - replies[0].at).total_seconds() >= TRIES_S:
            return ""
        if whole is None:
            raise MaybeAnsweredError(
                "The last message of this session says the same and was answered shortly before "
                "the gateway was started: this may be that message, answered already, so it was "
                "not taken. Send it anew if it is another one. With an Idempotency-Key it is known "
                "which of them a message is."
            )

        return turn_id


def has_failed(place: Queries, key: SessionKey, session_id: SessionId) -> bool:
    """Return whether the newest turn came to an error, so that it may go on with its results."""
    said = turn_backwards(place, session_id)
    replies = _replies(place, key, said[0].turn_id)[0] if said else []
    return bool(replies) and replies[-1].reply.status != "ok"


def _returned(
    place: Queries, key: SessionKey, session_id: SessionId, results: Mapping[str, str]
) -> str:
    """Return the id of the message that brought these results, unless an error came of it."""
    said = turn_backwards(place, session_id)
    there = {one.tool_call_id: one.text for one in said if one.role is Role.TOOL}
    if any(there.get(call_id) != text for call_id, text in results.items()):
        return ""

    turn_id = said[0].turn_id
    replies, _ = _replies(place, key, turn_id)
    # Where the reply that asked for them is not kept any more, all that are kept came after them.
    gone = 0 if replies and replies[0].reply.continues else len(replies)
    asking = (
        number
        for number, one in enumerate(replies, 1)
        if {call.call_id for call in one.reply.calls} == set(results)
    )
    for one in replies[next(asking, gone) :]:
        if one.reply.status == "ok":
            return one.message_id
    row = inbox.newest(place, key)
    return row.message_id if row is not None and row.continues == turn_id else ""


def _replies(
    place: Queries, key: SessionKey, turn_id: TurnId
) -> tuple[Sequence[_Said], Reply | None]:
    """Return what the newest turn came to each time, oldest first, and the reply before it."""
    found: list[_Said] = []
    for message_id, at, text in outbox.newest_first(place, key):
        reply = decode_reply(text)
        if turn_id in {reply.turn_id, reply.continues}:
            found.append(_Said(message_id, at, reply))
        elif reply.status not in WITHOUT_TURN:
            return found[::-1], reply
    return found[::-1], None


def _marks(reply: Reply) -> tuple[str, ...]:
    """Return what an answer is known by in a client's copy of the conversation; see `Brought`."""
    return tuple(call.call_id for call in reply.calls) or (reply.text,)
