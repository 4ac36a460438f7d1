"""Which message comes a second time, of clients that give their messages no id.

The transcript and what is owed are all that is known of it. Stores nothing.
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

from gateway.model import Role
from gateway.transcripts import inbox, outbox
from gateway.transcripts.reading import turn_backwards

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.durable.batch import Queries
    from gateway.model import SessionId, SessionKey


def asked_last(place: Queries, key: SessionKey, session_id: SessionId, text: str) -> str:
    """Return the id of the last message of a session's user where it has this text, else none."""
    row = inbox.newest(place, key)
    if row is not None:
        return row.message_id if row.text == text and not row.continues else ""

    said = turn_backwards(place, session_id)
    asked = [message for message in said if message.role is Role.USER]
    if not asked or asked[-1].text != text:
        return ""

    return outbox.message_of_turn(place, key, asked[-1].turn_id)


def returned_last(
    place: Queries, key: SessionKey, session_id: SessionId, results: Mapping[str, str]
) -> str:
    """Return the id of the message that brought these results, else none.

    It is being answered, or what it came to is the last thing that was said.
    """
    row = inbox.newest(place, key)
    if row is not None and not row.continues:
        return ""

    said = turn_backwards(place, session_id)
    answered = bool(said) and said[0].role is Role.ASSISTANT
    if not (answered or row is not None):
        # They are there, and what came of them was an error: the turn goes on with them.
        return ""

    group = takewhile(lambda one: one.role is Role.TOOL, said[1:] if answered else said)
    if {one.tool_call_id: one.text for one in group} != results:
        return ""

    return row.message_id if row is not None else outbox.newest_message(place, key)
