"""What must hold of a state directory by itself, and between two looks at one.

Pure functions of what `stored` read; they know no client and no history.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from tests.torture.laws import Law, Violation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.torture.stored import Entry, Row, Stored


WITHOUT_TURN: Final = frozenset({"answered", "command"})
"""The statuses of replies to messages that are no part of a conversation."""


def check_stored(stored: Stored) -> list[Violation]:
    """Return what does not fit together in one state directory."""
    return [
        *_check_files(stored),
        *_check_turns(stored),
        *_check_entries(stored),
        *_check_conversations(stored),
    ]


def check_later(before: Stored, after: Stored) -> list[Violation]:
    """Return what went back between two looks, whatever happened between them."""
    return list(_went_back(before, after))


def check_recovered(before: Stored, after: Stored) -> list[Violation]:
    """Return what a start changed that no client had a hand in.

    Messages that were owed an answer may have got it, and their sessions may show that.
    """
    owed = {row.key for row in before.inbox}
    return [
        *_went_back(before, after),
        *(
            Violation(Law.CHANGED, f"entry of {key}")
            for key in before.entries.keys() | after.entries.keys()
            if key not in owed and before.entries.get(key) != after.entries.get(key)
        ),
        *(
            Violation(Law.CHANGED, f"message {row.position}")
            for row in set(before.messages) - set(after.messages)
        ),
        *(
            Violation(Law.CHANGED, f"message {row.position}")
            for row in set(after.messages) - set(before.messages)
            if row.turn_id not in {one.turn_id for one in before.inbox}
        ),
        *(
            Violation(Law.CHANGED, f"reply of {one.turn_id}")
            for one in before.outbox
            if one not in after.outbox
        ),
        *(
            Violation(Law.CHANGED, f"owed {one.turn_id}")
            for one in after.inbox
            if one not in before.inbox
        ),
    ]


def turns_of(stored: Stored) -> dict[str, list[Row]]:
    """Return the rows of each turn, in order."""
    turns: dict[str, list[Row]] = defaultdict(list)
    for row in stored.messages:
        turns[row.turn_id].append(row)
    return turns


def _check_files(stored: Stored) -> Iterator[Violation]:
    if stored.integrity != "ok":
        yield Violation(Law.INTEGRITY, stored.integrity)
    for name, one in (("sessions.json", stored.snapshot), ("sessions.json.prev", stored.previous)):
        if one is not None and one.problem:
            yield Violation(Law.SNAPSHOT, f"{name}: {one.problem}")
        if one is not None and not stored.floor <= one.sequence <= stored.last:
            yield Violation(
                Law.COVER, f"{name} at {one.sequence}, log {stored.floor} to {stored.last}"
            )
    if stored.snapshot is None:
        if stored.used:
            yield Violation(Law.SNAPSHOT, "missing beside a used database")
    elif stored.previous is not None:
        if stored.previous.sequence > stored.snapshot.sequence:
            yield Violation(Law.BACK, "sessions.json is older than its .prev")
        if stored.replayed(stored.previous) != stored.entries:
            yield Violation(Law.COVER, ".prev and its log lead elsewhere than sessions.json")


def _check_turns(stored: Stored) -> Iterator[Violation]:
    turns = turns_of(stored)
    with_turn = [one for one in stored.outbox if one.reply.get("status") not in WITHOUT_TURN]
    answered = {one.turn_id: one for one in with_turn}
    owed = {one.turn_id for one in stored.inbox}
    for turn_id in turns.keys() ^ answered.keys():
        what = "only its transcript" if turn_id in turns else "only its reply"
        yield Violation(Law.TORN, f"{turn_id}: {what}")
    for turn_id in owed & (turns.keys() | answered.keys()):
        yield Violation(Law.TORN, f"{turn_id}: answered and still owed an answer")
    for turn_id, rows in turns.items():
        reply = answered[turn_id].reply if turn_id in answered else None
        sessions = {row.session_id for row in rows}
        if len(sessions) > 1:
            yield Violation(Law.TWICE, f"{turn_id} is in {sorted(sessions)}")
        elif reply is not None and sessions != {reply["session_id"]}:
            yield Violation(Law.REPLY, f"{turn_id} is in {sessions}, its reply is not")
        if rows[0].role != "user" or rows[-1].role not in {"assistant", "notice"}:
            yield Violation(Law.TORN, f"{turn_id}: {[row.role for row in rows]}")
    handled = [(one.key, one.message_id) for one in stored.inbox]
    handled += [(one.key, one.message_id) for one in stored.outbox]
    if len(handled) != len(set(handled)):
        yield Violation(Law.TWICE, "a message id is owed an answer and has one")
    places: dict[str, int] = {}
    for one in with_turn:
        first = turns[one.turn_id][0].position if one.turn_id in turns else 0
        if first < places.get(one.key, 0):
            yield Violation(Law.ORDER, f"{one.turn_id}: reply and transcript differ in order")
        places[one.key] = max(first, places.get(one.key, 0))


def _check_entries(stored: Stored) -> Iterator[Violation]:
    counted: dict[str, set[str]] = defaultdict(set)
    for row in stored.messages:
        counted[row.session_id].add(row.turn_id)
    current = [(key, entry) for key, entry in stored.entries.items()]
    ended = [(one.key, one.entry) for one in stored.conversations if one.entry is not None]
    for key, entry in (*current, *ended):
        turns = len(counted[entry["session_id"]])
        if entry["session_key"] != key:
            yield Violation(Law.ENTRY, f"{key} holds the entry of {entry['session_key']}")
        if entry["turns"] != turns:
            yield Violation(Law.ENTRY, f"{key}: {entry['turns']} turns, committed are {turns}")


def _check_conversations(stored: Stored) -> Iterator[Violation]:
    entries: dict[str, Entry] = stored.entries
    going_on = {one.session_id: one.key for one in stored.conversations if not one.ended}
    for key, entry in entries.items():
        if going_on.pop(entry["session_id"], None) != key:
            yield Violation(Law.CONVERSATION, f"{key}: {entry['session_id']} is not going on")
    for session_id, key in going_on.items():
        yield Violation(Law.CONVERSATION, f"{key}: {session_id} goes on without an entry")
    known = {one.session_id for one in stored.conversations}
    for session_id in {row.session_id for row in stored.messages} - known:
        yield Violation(Law.CONVERSATION, f"{session_id} has messages and no key")


def _went_back(before: Stored, after: Stored) -> Iterator[Violation]:
    if after.sequence < before.sequence:
        yield Violation(Law.BACK, f"from {before.sequence} to {after.sequence}")
    if after.floor < before.floor:
        yield Violation(Law.BACK, f"the log's beginning, from {before.floor} to {after.floor}")
    if before.snapshot is not None:
        now = -1 if after.snapshot is None else after.snapshot.sequence
        if now < before.snapshot.sequence:
            yield Violation(Law.BACK, f"sessions.json, from {before.snapshot.sequence} to {now}")
    for sequence, change in after.log.items():
        # An erasure takes rows out of the log; nothing ever puts one in again.
        if before.floor < sequence <= before.sequence and before.log.get(sequence) != change:
            yield Violation(Law.BACK, f"the number {sequence} was given twice")
