"""Whether a state directory keeps what clients were told: all laws together, and the messages.

Pure functions of a history and of what is stored. The parts: `agreement` looks at the directory
alone, `worlds` at the entries of sessions, this module at what was said.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any

from tests.torture.agreement import check_stored, turns_of
from tests.torture.history import Attempt, Event, Kind, Outcome
from tests.torture.laws import Law, Violation
from tests.torture.worlds import check_entries

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.torture.stored import Answered, Row, Stored


@dataclass(frozen=True, slots=True)
class Erasure:
    """An attempt to erase a session that was not refused."""

    moment: int
    done: bool
    """Whether it was acknowledged; else it may have come to anything."""


@dataclass(slots=True)
class Saying:
    """One message, however often it was sent."""

    key: str
    message_id: str
    text: str
    tried: int
    """The moment of its first attempt."""
    finished: float = inf
    """The moment of its last outcome; infinite while an attempt has none."""
    told: float = inf
    """The moment of its first acknowledgement."""
    answers: list[dict[str, Any]] = field(default_factory=list)
    doubtful: bool = False
    """Whether it was tried again after an erasure: nobody can tell which of the two is there."""

    def take(self, outcome: Outcome) -> None:
        """Note what came of an attempt."""
        self.finished = outcome.moment
        if outcome.done and outcome.body["status"] != "paused":
            self.told = min(self.told, outcome.moment)
            self.answers.append(outcome.body)

    def erased_before(self, moment: int, erasures: Sequence[Erasure]) -> bool:
        """Return whether it is gone by a moment; note where that cannot be told."""
        between = [one for one in erasures if self.tried < one.moment < moment]
        self.doubtful = bool(between)
        return any(one.done for one in between)


def check_all(events: Sequence[Event], stored: Stored) -> list[Violation]:
    """Return every law that is broken, and where."""
    erasures = _erasures_of(events)
    sayings = _sayings_of(events, erasures)
    return [
        *check_stored(stored),
        *check_entries(events, stored.entries),
        *_check_told(sayings, erasures, stored),
        *_check_attempted(sayings, stored),
        *_check_order(sayings, stored),
    ]


def _erasures_of(events: Sequence[Event]) -> dict[str, list[Erasure]]:
    outcomes = {event.attempt: event for event in events if isinstance(event, Outcome)}
    erasures: dict[str, list[Erasure]] = defaultdict(list)
    for event in events:
        if isinstance(event, Attempt) and event.kind is Kind.ERASE:
            outcome = outcomes.get(event.moment)
            if outcome is None or not outcome.refused or outcome.lacked_storage:
                made = Erasure(event.moment, outcome is not None and outcome.done)
                erasures[event.key].append(made)
    return erasures


def _sayings_of(events: Sequence[Event], erasures: dict[str, list[Erasure]]) -> list[Saying]:
    """Return what was said; a text is of one message only, but for one said again once erased."""
    sayings: list[Saying] = []
    latest: dict[tuple[str, str], Saying] = {}
    of_attempt: dict[int, Saying] = {}
    for event in events:
        if isinstance(event, Attempt) and event.kind is Kind.SAY:
            place = event.key, event.text
            saying = latest.get(place)
            if saying is None or saying.erased_before(event.moment, erasures[event.key]):
                saying = Saying(event.key, event.message_id, event.text, event.moment)
                latest[place] = saying
                sayings.append(saying)
            saying.finished = inf
            of_attempt[event.moment] = saying
        elif isinstance(event, Outcome) and event.attempt in of_attempt:
            of_attempt[event.attempt].take(event)
    return sayings


def _check_told(
    sayings: list[Saying], erasures: dict[str, list[Erasure]], stored: Stored
) -> Iterator[Violation]:
    """Everything that was answered is there, once, as it was told; but for what was erased."""
    turns, replies = turns_of(stored), {one.turn_id: one for one in stored.outbox}
    for saying in sayings:
        later = [one for one in erasures[saying.key] if one.moment > saying.tried]
        if any(one.done and one.moment > saying.finished for one in later):
            yield from _check_gone(saying, turns, replies)
        elif not later and saying.answers:
            yield from _check_kept(saying, turns, replies)


def _check_gone(
    saying: Saying, turns: dict[str, list[Row]], replies: dict[str, Answered]
) -> Iterator[Violation]:
    for answer in saying.answers:
        if answer["turn_id"] in turns or answer["turn_id"] in replies:
            yield Violation(Law.ERASED, f"{saying.key}: {saying.text!r}")


def _check_kept(
    saying: Saying, turns: dict[str, list[Row]], replies: dict[str, Answered]
) -> Iterator[Violation]:
    place = f"{saying.key}: {saying.text!r}"
    first, *again = saying.answers
    if any(_given(answer) != _given(first) or not answer["duplicate"] for answer in again):
        yield Violation(Law.TWICE, f"{place}: the same message id was answered anew")
    rows, kept = turns.get(first["turn_id"], []), replies.get(first["turn_id"])
    if [row.text for row in rows if row.role == "user"] != [saying.text]:
        yield Violation(Law.LOST, f"{place}: not in the transcript")
    elif {row.session_id for row in rows} != {first["session_id"]}:
        yield Violation(Law.LOST, f"{place}: not in its conversation")
    if kept is None:
        yield Violation(Law.LOST, f"{place}: no stored reply")
    elif (kept.reply["session_id"], kept.turn_id, kept.reply["text"]) != _given(first):
        yield Violation(Law.REPLY, place)
    elif saying.message_id and kept.message_id != saying.message_id:
        yield Violation(Law.REPLY, f"{place}: stored for {kept.message_id}")


def _given(answer: dict[str, Any]) -> tuple[str, str, str]:
    return answer["session_id"], answer["turn_id"], answer["reply"]


def _check_attempted(sayings: list[Saying], stored: Stored) -> Iterator[Violation]:
    """Everything that is there was said by a client, and is there once."""
    said = {(saying.key, saying.text) for saying in sayings}
    turns: dict[tuple[str, str], set[str]] = defaultdict(set)
    for key, row in _users(stored):
        turns[key, row.text].add(row.turn_id)
    for one in stored.inbox:
        turns[one.key, one.text].add(one.turn_id)
    for (key, text), turn_ids in turns.items():
        if (key, text) not in said:
            yield Violation(Law.UNATTEMPTED, f"{key}: {text!r}")
        if len(turn_ids) > 1:
            yield Violation(Law.TWICE, f"{key}: {text!r} in {sorted(turn_ids)}")


def _check_order(sayings: list[Saying], stored: Stored) -> Iterator[Violation]:
    """What was answered before another message was tried comes before it."""
    known = {(saying.key, saying.text): saying for saying in sayings}
    of_key: dict[str, list[Saying]] = defaultdict(list)
    for key, row in _users(stored):
        saying = known.get((key, row.text))
        if saying is not None and not saying.doubtful:
            of_key[key].append(saying)
    for key, said in of_key.items():
        earliest = inf
        for saying in reversed(said):
            if earliest < saying.tried:
                yield Violation(Law.ORDER, f"{key}: {saying.text!r} is before what came first")
            earliest = min(earliest, saying.told)


def _users(stored: Stored) -> Iterator[tuple[str, Row]]:
    """Return what users said, with the session key, in order."""
    keys = {one.session_id: one.key for one in stored.conversations}
    for row in stored.messages:
        if row.role == "user":
            yield keys.get(row.session_id, ""), row
