"""Laws of the entry and its form on disk."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import (
    AgentId,
    ChatType,
    ContextSource,
    SessionId,
    SessionSource,
    clean_name,
    clean_text,
)
from gateway.sessions.entry import (
    FIELDS,
    EntryError,
    SessionEntry,
    decode_entry,
    decode_member,
    display_name,
    encode_member,
    entry_from_dict,
    entry_to_dict,
    updated_at_text,
)
from gateway.sessions.key import session_key
from gateway.sessions.settings import SessionSettings
from tests.support.state import START, entry, key_of

CLEAN = st.text(max_size=20).map(clean_text)
IDS = st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True).map(SessionId)
INSTANTS = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis wants naive bounds
COUNTS = st.integers(0, 2**63 - 1)
SOURCES = st.builds(
    SessionSource,
    platform=st.text(min_size=1, max_size=9).map(clean_text).filter(bool),
    chat_id=CLEAN,
    chat_type=st.sampled_from(ChatType),
    account=CLEAN,
    thread_id=CLEAN,
    user_id=CLEAN,
    user_name=CLEAN,
    chat_name=CLEAN,
)


@st.composite
def entries(draw: st.DrawFn) -> SessionEntry:
    source = draw(SOURCES)
    agent = AgentId("main")
    context_tokens, more = draw(st.integers(0, 2**40)), draw(st.integers(0, 2**40))
    counts = {
        field.name: draw(COUNTS)
        for field in fields(SessionEntry)
        if field.name in {"turns", "context_step"} or field.name.endswith("_tokens")
    }
    return SessionEntry(
        session_key=session_key(source, agent, SessionSettings()),
        session_id=draw(IDS),
        agent=agent,
        created_at=draw(INSTANTS),
        updated_at=draw(INSTANTS),
        suspended_at=draw(st.none() | INSTANTS),
        suspended_by=draw(st.none() | CLEAN),
        source=source,
        display_name=draw(CLEAN),
        previous_session_id=draw(st.none() | IDS),
        reset_reason=draw(st.none() | CLEAN),
        context_source=draw(st.sampled_from(ContextSource)),
        context_measured_at=draw(st.none() | INSTANTS),
        cache_touched_at=draw(st.none() | INSTANTS),
        cache_agent=draw(CLEAN),
        model=draw(CLEAN),
        **(counts | {"context_tokens": context_tokens, "total_tokens": context_tokens + more}),
    )


@given(entries())
def test_an_entry_comes_back_from_its_member_as_it_was(one: SessionEntry) -> None:
    assert decode_member(one.session_key, encode_member(one)) == one


@given(entries())
def test_an_entry_comes_back_from_its_json_object_as_it_was(one: SessionEntry) -> None:
    raw = entry_to_dict(one)

    assert entry_from_dict(raw) == one
    assert raw.keys() == FIELDS


@given(entries())
def test_a_member_is_one_line_under_its_key_and_tells_when_it_was_updated(
    one: SessionEntry,
) -> None:
    member = encode_member(one)

    assert b"\n" not in member
    assert orjson.loads(b"{" + member + b"}").keys() == {one.session_key}
    assert datetime.fromisoformat(updated_at_text(member).decode()) == one.updated_at


def test_updated_at_is_found_whatever_the_source_is_called() -> None:
    one = entry('"updated_at":"x', display_name='","updated_at":"1970-01-01T00:00:00Z')

    assert updated_at_text(encode_member(one)) == b"2026-01-01T00:00:00Z"


def test_instants_are_written_in_utc_with_a_z() -> None:
    east = datetime(2026, 6, 1, 14, 30, tzinfo=timezone(timedelta(hours=2)))
    raw = entry_to_dict(entry()) | {"updated_at": east.isoformat()}

    assert entry_to_dict(entry_from_dict(raw))["updated_at"] == "2026-06-01T12:30:00Z"


def _minimal() -> dict[str, object]:
    return {
        "session_key": key_of(),
        "session_id": "s1",
        "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-02T00:00:00Z",
        "source": {"platform": "http", "chat_id": "alice"},
    }


def test_five_fields_make_an_entry() -> None:
    one = entry_from_dict(_minimal())

    assert one == SessionEntry(
        session_key=key_of(),
        session_id=SessionId("s1"),
        agent=AgentId("main"),
        created_at=START,
        updated_at=START + timedelta(days=1),
        source=SessionSource("http", "alice"),
    )


@pytest.mark.parametrize("name", sorted(_minimal()))
def test_a_needed_field_that_is_missing_is_named(name: str) -> None:
    raw = _minimal()
    del raw[name]

    with pytest.raises(EntryError, match=f"^{name}: accepted is "):
        entry_from_dict(raw)


WHOLE: list[object] = [0, -1, True, 1.5, "1", None, [], {}]
TEXTS: list[object] = [0, None, True, [], {}]
WRONG_INSTANTS = [0, None, "", "soon", "2026-01-01", "2026-01-01T00:00:00", "2026-13-01T00:00:00Z"]
WRONG_IDS = [0, None, "", "a b", "x" * 65, "é", "a/b", "a\n"]


@pytest.mark.parametrize(
    ("name", "values", "accepted"),
    [
        *((name, WHOLE[1:], "a whole number from 0") for name in ("turns", "context_step")),
        *(
            (field.name, WHOLE[1:], "a whole number from 0")
            for field in fields(SessionEntry)
            if field.name.endswith("_tokens")
        ),
        *((name, TEXTS, "a string") for name in ("display_name", "model")),
        ("reset_reason", [0, True, [], {}], "a string"),
        *((name, WRONG_INSTANTS, "string|RFC 3339") for name in ("created_at", "updated_at")),
        *(
            (name, [value for value in WRONG_INSTANTS if value is not None], "string|RFC 3339")
            for name in ("suspended_at", "context_measured_at", "cache_touched_at")
        ),
        ("session_id", WRONG_IDS, "string|1 to 64 characters"),
        ("previous_session_id", [one for one in WRONG_IDS if one is not None], "string|1 to 64"),
        ("session_key", [0, None, "", "alice", "agent:main:http::dm:a:"], "string|accepted is"),
        ("agent", [0, "", "other"], "string|the agent in the session key"),
        ("context_source", [0, None, "guess"], "string|one of usage, estimate, unknown"),
        ("source", [0, None, [], "http"], "a JSON object with platform and chat_id"),
    ],
)
def test_a_wrong_field_is_named_with_what_is_accepted(
    name: str, values: list[object], accepted: str
) -> None:
    for value in values:
        with pytest.raises(EntryError, match=rf"^{name}: .*({accepted})"):
            entry_from_dict(entry_to_dict(entry()) | {name: value})


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("platform", "", "the name of a channel"),
        ("platform", 1, "a string"),
        ("chat_id", None, "a string"),
        ("user_name", [], "a string"),
        ("chat_type", "letter", "one of dm, group, channel, thread"),
        ("chat_type", 3, "a string"),
    ],
)
def test_a_wrong_field_of_the_source_is_named(name: str, value: object, accepted: str) -> None:
    raw = entry_to_dict(entry())
    raw["source"] = {"platform": "http", "chat_id": "alice", name: value}

    with pytest.raises(EntryError, match=rf"^source\.{name}: .*{accepted}"):
        entry_from_dict(raw)


@pytest.mark.parametrize("raw", [None, [], 1, "x"])
def test_an_entry_is_a_json_object(raw: object) -> None:
    with pytest.raises(EntryError, match="a JSON object"):
        entry_from_dict(raw)


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"])
def test_an_instant_outside_the_calendar_is_an_error_of_the_entry(at: str) -> None:
    with pytest.raises(EntryError, match="updated_at: outside the calendar"):
        entry_from_dict(_minimal() | {"updated_at": at})


def test_unknown_fields_are_not_kept() -> None:
    assert entry_from_dict(_minimal() | {"mood": "fine"}) == entry_from_dict(_minimal())


def test_the_total_is_never_below_the_context() -> None:
    one = entry_from_dict(_minimal() | {"context_tokens": 500, "total_tokens": 20})

    assert (one.total_tokens, one.context_tokens) == (500, 500)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"null", b"[]", b'{"session_key":1}'])
def test_bytes_that_are_no_entry_raise_an_entry_error(data: bytes) -> None:
    with pytest.raises(EntryError):
        decode_entry(data)


@given(st.binary(max_size=60), st.integers(0, 400))
def test_a_poisoned_member_is_an_entry_or_an_entry_error(junk: bytes, place: int) -> None:
    good = encode_member(entry())
    bad = good[:place] + junk + good[place + len(junk) :]

    try:
        decode_member(key_of(), bad)
    except EntryError:
        return


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_a_written_entry_with_one_wrong_value_is_refused_by_the_name_of_its_field(
    name: str,
) -> None:
    raw = orjson.loads(orjson.dumps(entry_to_dict(entry())))

    with pytest.raises(EntryError, match=f"^{name}"):
        decode_entry(orjson.dumps(raw | {name: [1]}))


@pytest.mark.parametrize(
    "change",
    [
        {"updated_at": "2026-01-01T02:00:00+02:00"},
        {"context_measured_at": "2026-01-01T00:00:00+00:00"},
        {"total_tokens": 0, "context_tokens": 9},
        {"unknown": 1},
    ],
)
def test_what_was_not_written_here_is_read_as_carefully_as_an_import(
    change: dict[str, object],
) -> None:
    raw = entry_to_dict(entry()) | change

    assert decode_entry(orjson.dumps(raw)) == entry_from_dict(raw)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (SessionSource("http", "c", chat_name="Chat", user_name="User", user_id="u"), "Chat"),
        (SessionSource("http", "c", user_name="User", user_id="u"), "User"),
        (SessionSource("http", "c", user_id="u"), "c"),
        (SessionSource("http", "", user_id="u"), "u"),
        (SessionSource("http", "c", chat_name="a\nb" + "x" * 200), clean_name("a\nb" + "x" * 200)),
    ],
)
def test_a_session_is_called_by_the_best_name_there_is(source: SessionSource, name: str) -> None:
    assert display_name(source) == name


def test_entries_are_frozen() -> None:
    with pytest.raises(AttributeError):
        entry().turns = 1  # type: ignore[misc]

    assert replace(entry(), turns=1).turns == 1
