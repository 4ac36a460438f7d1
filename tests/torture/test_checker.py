"""The checker catches what it is for: each planted bug, by the law that it breaks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.torture.agreement import check_later, check_recovered, check_stored
from tests.torture.checker import check_all
from tests.torture.history import Attempt, Event, History, Kind, Outcome, Restarted, read_history
from tests.torture.laws import Law, laws_of
from tests.torture.stored import Answered, Conversation, Entry, Owed, Row, Snapshot, Stored

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY = "agent:main:http::dm:alice::"
OTHER = "agent:main:http::dm:bob::"
AT = "2026-01-01T00:00:00+00:00"


def entry(key: str, session_id: str, turns: int, **more: object) -> Entry:
    fields = {"session_key": key, "session_id": session_id, "turns": turns, "suspended_at": None}
    return fields | more


def answer(session_id: str, turn_id: str, text: str, **more: object) -> dict[str, Any]:
    body = {"session_id": session_id, "turn_id": turn_id, "reply": text}
    return body | {"duplicate": False, "status": "ok"} | more


def tried(moment: int, kind: Kind, key: str = KEY, text: str = "", message_id: str = "") -> Attempt:
    return Attempt(moment, AT, "c", kind, key, text, message_id)


def told(moment: int, body: dict[str, Any], status: int = 200) -> Outcome:
    return Outcome(moment, moment - 1, status, body)


def rows(position: int, session_id: str, turn_id: str, text: str) -> tuple[Row, Row]:
    return (
        Row(position, session_id, turn_id, "user", text),
        Row(position + 1, session_id, turn_id, "assistant", text),
    )


def kept(position: int, key: str, session_id: str, turn_id: str, text: str) -> Answered:
    reply = {"session_id": session_id, "text": text}
    return Answered(position, key, f"m-{text}", turn_id, reply)


# Alice says two things, the second twice; Bob says one thing and starts anew.
EVENTS: list[Event] = [
    tried(1, Kind.SAY, text="one", message_id="m-one"),
    told(2, answer("a1", "t1", "one")),
    tried(3, Kind.SAY, text="two", message_id="m-two"),
    told(4, answer("a1", "t2", "two")),
    tried(5, Kind.SAY, text="two", message_id="m-two"),
    told(6, answer("a1", "t2", "two", duplicate=True)),
    tried(7, Kind.SAY, OTHER, text="three", message_id="m-three"),
    told(8, answer("b1", "t3", "three")),
    tried(9, Kind.RESET, OTHER),
    told(10, entry(OTHER, "b2", 0)),
]
LOG: dict[int, tuple[str, Entry | None]] = {
    2: (KEY, entry(KEY, "a1", 1)),
    3: (KEY, entry(KEY, "a1", 2)),
    4: (OTHER, entry(OTHER, "b1", 1)),
    5: (OTHER, entry(OTHER, "b2", 0)),
}
GOOD = Stored(
    snapshot=Snapshot(3, {KEY: entry(KEY, "a1", 2)}),
    previous=Snapshot(1, {KEY: entry(KEY, "a1", 0)}),
    floor=1,
    last=5,
    used=True,
    log=LOG,
    messages=(
        *rows(1, "a1", "t1", "one"),
        *rows(3, "a1", "t2", "two"),
        *rows(5, "b1", "t3", "three"),
    ),
    outbox=(
        kept(1, KEY, "a1", "t1", "one"),
        kept(2, KEY, "a1", "t2", "two"),
        kept(3, OTHER, "b1", "t3", "three"),
    ),
    conversations=(
        Conversation("a1", KEY, ended=False, entry=None),
        Conversation("b1", OTHER, ended=True, entry=entry(OTHER, "b1", 1)),
        Conversation("b2", OTHER, ended=False, entry=None),
    ),
)
OWED = Owed(4, KEY, "m-four", "t4", "four")
FOUR = tried(11, Kind.SAY, text="four", message_id="m-four")


def logged(**changes: tuple[str, Entry | None]) -> Stored:
    """Return the good state with rows of the log replaced, as `at_<sequence>`."""
    return replace(GOOD, log=LOG | {int(at[3:]): row for at, row in changes.items()})


def without(turn_id: str) -> Stored:
    """Return the good state without a turn's messages and reply."""
    return replace(
        GOOD,
        messages=tuple(row for row in GOOD.messages if row.turn_id != turn_id),
        outbox=tuple(one for one in GOOD.outbox if one.turn_id != turn_id),
    )


def lost_commit() -> Stored:
    """Return the state before the last turn of Alice: whole, but too old."""
    one = replace(without("t2"), log={n: row for n, row in LOG.items() if n != 3})
    return replace(one, snapshot=Snapshot(2, {KEY: entry(KEY, "a1", 1)}))


def swapped() -> Stored:
    messages = (*rows(1, "a1", "t2", "two"), *rows(3, "a1", "t1", "one"), *GOOD.messages[4:])
    return replace(GOOD, messages=messages)


def said_again() -> Stored:
    more = rows(7, "b2", "t9", "three"), kept(4, OTHER, "b2", "t9", "three")
    once_more = replace(more[1], message_id="m-other")
    stored = logged(at_5=(OTHER, entry(OTHER, "b2", 1)))
    return replace(stored, messages=(*GOOD.messages, *more[0]), outbox=(*GOOD.outbox, once_more))


def reply_of_another() -> Stored:
    first = replace(GOOD.outbox[0], reply={"session_id": "a1", "text": "else"})
    return replace(GOOD, outbox=(first, *GOOD.outbox[1:]))


def nobodys_message() -> Stored:
    messages = (*GOOD.messages, *rows(7, "b2", "t9", "nobody's"))
    stored = logged(at_5=(OTHER, entry(OTHER, "b2", 1)))
    outbox = (*GOOD.outbox, kept(4, OTHER, "b2", "t9", "nobody's"))
    return replace(stored, messages=messages, outbox=outbox)


def test_what_is_right_breaks_no_law() -> None:
    assert check_all(EVENTS, GOOD) == []
    assert check_later(GOOD, GOOD) == check_recovered(GOOD, GOOD) == []


def test_an_attempt_that_was_cut_off_may_have_had_its_effect_or_not() -> None:
    assert check_all([*EVENTS, FOUR], GOOD) == []
    assert check_all([*EVENTS, FOUR], replace(GOOD, inbox=(OWED,))) == []
    cut_off = [*EVENTS[:-1]]
    assert check_all(cut_off, GOOD) == []
    before_reset = logged(at_5=(OTHER, entry(OTHER, "b1", 1)))
    conversations = (GOOD.conversations[0], Conversation("b1", OTHER, ended=False, entry=None))
    assert check_all(cut_off, replace(before_reset, conversations=conversations)) == []


PLANTED = [
    pytest.param(lost_commit, Law.LOST, id="a-whole-turn-lost"),
    pytest.param(lambda: logged(at_5=(OTHER, None)), Law.LOST, id="an-entry-lost"),
    pytest.param(lambda: logged(at_5=(OTHER, entry(OTHER, "b1", 1))), Law.LOST, id="a-reset-lost"),
    pytest.param(lambda: without("t2"), Law.ENTRY, id="an-entry-without-its-turn"),
    pytest.param(
        lambda: logged(at_5=(OTHER, entry(OTHER, "b1", 0))), Law.ENTRY, id="a-turn-without-entry"
    ),
    pytest.param(
        lambda: replace(GOOD, messages=GOOD.messages[:4]), Law.TORN, id="a-reply-without-transcript"
    ),
    pytest.param(
        lambda: replace(GOOD, outbox=GOOD.outbox[:2]), Law.TORN, id="a-transcript-without-reply"
    ),
    pytest.param(
        lambda: replace(GOOD, messages=GOOD.messages[:5]), Law.TORN, id="half-a-transcript"
    ),
    pytest.param(
        lambda: replace(GOOD, inbox=(Owed(1, KEY, "m-one", "t1", "one"),)),
        Law.TORN,
        id="answered-and-still-owed",
    ),
    pytest.param(nobodys_message, Law.UNATTEMPTED, id="a-message-nobody-sent"),
    pytest.param(
        lambda: replace(GOOD, inbox=(OWED,)), Law.UNATTEMPTED, id="an-owed-message-nobody-sent"
    ),
    pytest.param(
        lambda: logged(at_5=(OTHER, entry(OTHER, "b9", 0))),
        Law.UNATTEMPTED,
        id="a-reset-nobody-asked-for",
    ),
    pytest.param(
        lambda: logged(at_5=("agent:main:http::dm:eve::", entry("x", "e1", 0))),
        Law.UNATTEMPTED,
        id="an-entry-nobody-made",
    ),
    pytest.param(swapped, Law.ORDER, id="two-messages-swapped"),
    pytest.param(said_again, Law.TWICE, id="a-message-answered-twice"),
    pytest.param(reply_of_another, Law.REPLY, id="another-reply"),
    pytest.param(
        lambda: replace(GOOD, snapshot=Snapshot(6, GOOD.entries)), Law.COVER, id="a-newer-snapshot"
    ),
    pytest.param(lambda: replace(GOOD, floor=2), Law.COVER, id="a-log-cut-off-beyond-prev"),
    pytest.param(
        lambda: replace(GOOD, previous=Snapshot(1, {"x": entry("x", "x", 0)})),
        Law.COVER,
        id="a-prev-that-leads-elsewhere",
    ),
    pytest.param(lambda: replace(GOOD, snapshot=None), Law.SNAPSHOT, id="no-snapshot"),
    pytest.param(
        lambda: replace(GOOD, snapshot=replace(GOOD.snapshot or Snapshot(), problem="torn")),
        Law.SNAPSHOT,
        id="a-torn-snapshot",
    ),
    pytest.param(lambda: replace(GOOD, integrity="page 3"), Law.INTEGRITY, id="a-damaged-database"),
    pytest.param(
        lambda: replace(GOOD, conversations=GOOD.conversations[:2]),
        Law.CONVERSATION,
        id="an-entry-without-conversation",
    ),
    pytest.param(
        lambda: logged(at_4=(OTHER, entry(OTHER, "b1", 1)), at_5=(KEY, None)),
        Law.CONVERSATION,
        id="a-conversation-without-entry",
    ),
]


@pytest.mark.parametrize(("broken", "law"), PLANTED)
def test_a_planted_bug_is_caught_by_the_law_it_breaks(
    broken: Callable[[], Stored], law: Law
) -> None:
    assert law in laws_of(check_all(EVENTS, broken()))


@pytest.mark.parametrize(
    ("kind", "body", "law"),
    [
        pytest.param(Kind.SUSPEND, entry(OTHER, "b2", 0, suspended_at=AT), Law.LOST, id="a-pause"),
        pytest.param(Kind.REMOVE, {"removed": True}, Law.LOST, id="a-removal"),
        pytest.param(Kind.UNDO, entry(OTHER, "b1", 1), Law.LOST, id="an-undo"),
        pytest.param(Kind.ERASE, {"erased": True}, Law.ERASED, id="an-erasure"),
        pytest.param(Kind.PRUNE, {"pruned": 2}, Law.LOST, id="a-prune"),
    ],
)
def test_an_acknowledged_change_of_a_session_that_is_lost_is_caught(
    kind: Kind, body: dict[str, Any], law: Law
) -> None:
    key = "" if kind is Kind.PRUNE else OTHER
    events = [*EVENTS, tried(11, kind, key), told(12, body)]
    assert law in laws_of(check_all(events, GOOD))
    assert check_all([*EVENTS, tried(11, kind, key)], GOOD) == []


def test_a_message_id_that_is_answered_anew_is_caught() -> None:
    again = told(6, answer("a1", "t5", "two"))
    assert Law.TWICE in laws_of(check_all([*EVENTS[:5], again, *EVENTS[6:]], GOOD))


def test_what_is_said_again_after_an_erasure_is_said_anew() -> None:
    events: list[Event] = [
        tried(1, Kind.SAY, text="two", message_id="m-two"),
        told(2, answer("a0", "t0", "two")),
        tried(3, Kind.ERASE),
        told(4, {"erased": True}),
        tried(5, Kind.SAY, text="one", message_id="m-one"),
        told(6, answer("a1", "t1", "one")),
        tried(7, Kind.SAY, text="two", message_id="m-two"),
        told(8, answer("a1", "t2", "two")),
    ]
    of_alice = replace(
        GOOD,
        snapshot=Snapshot(3, {KEY: entry(KEY, "a1", 2)}),
        previous=None,
        log={3: LOG[3]},
        messages=GOOD.messages[:4],
        outbox=GOOD.outbox[:2],
        conversations=GOOD.conversations[:1],
    )
    assert check_all(events, of_alice) == []
    # Without the erasure it would have been answered twice.
    assert Law.TWICE in laws_of(check_all([*events[:2], *events[4:]], of_alice))


def test_a_change_that_was_refused_and_made_is_caught() -> None:
    full = {"type": "urn:session-gateway:problem:storage-full"}
    events = [*EVENTS[:-1], told(10, full, status=503)]
    assert Law.UNATTEMPTED in laws_of(check_all(events, GOOD))


def test_an_entry_that_a_restarted_daemon_does_not_show_is_caught() -> None:
    shown = {KEY: entry(KEY, "a1", 2)}
    found = check_all([*EVENTS, Restarted(11, shown)], GOOD)
    assert Law.LOST in laws_of(found)


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(replace(GOOD, last=4, log={2: LOG[2], 3: LOG[3], 4: LOG[4]}), id="sequence"),
        pytest.param(replace(GOOD, snapshot=GOOD.previous), id="sessions-json"),
        pytest.param(replace(GOOD, snapshot=None), id="sessions-json-gone"),
        pytest.param(replace(GOOD, floor=0), id="floor"),
        pytest.param(logged(at_5=(OTHER, entry(OTHER, "b7", 0))), id="a-number-given-twice"),
    ],
)
def test_a_sequence_that_goes_back_is_caught(after: Stored) -> None:
    assert Law.BACK in laws_of(check_later(GOOD, after))


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(logged(at_5=(OTHER, entry(OTHER, "b2", 1))), id="an-entry"),
        pytest.param(without("t3"), id="a-turn"),
        pytest.param(replace(GOOD, messages=(*GOOD.messages, *rows(7, "b2", "x", "x"))), id="more"),
        pytest.param(replace(GOOD, inbox=(OWED,)), id="a-message-owed"),
    ],
)
def test_a_recovery_that_changes_something_is_caught(after: Stored) -> None:
    assert Law.CHANGED in laws_of(check_recovered(GOOD, after))


def test_a_history_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    history = History(tmp_path)
    first = history.attempt("c1", Kind.SAY, KEY, text="one", message_id="m1")
    other = history.attempt("c2", Kind.PRUNE)
    outcomes = [
        history.outcome(first, 200, answer("a1", "t1", "one")),
        history.outcome(other, 503, {}),
    ]
    history.restarted({KEY: entry(KEY, "a1", 1)})
    history.close()
    assert read_history(tmp_path) == [
        first,
        other,
        *outcomes,
        Restarted(5, {KEY: entry(KEY, "a1", 1)}),
    ]
    assert check_stored(GOOD) == []
