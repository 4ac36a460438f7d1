"""Laws of the entries in memory and their index by hour."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from gateway.model import SessionKey
from gateway.sessions.entry import HOUR_CHARS, encode_member
from gateway.sessions.history import stamp
from gateway.sessions.table import LIVE_ENTRIES, EntryTable
from tests.support.state import START, entry, key_of

if TYPE_CHECKING:
    from gateway.sessions.entry import SessionEntry

# A name and the minute of its update; None drops the name.
CHANGES = st.lists(st.tuples(st.sampled_from("abcdef"), st.none() | st.integers(0, 600)))


def _put(table: EntryTable, one: SessionEntry) -> bytes:
    member = encode_member(one)
    table.put(one.session_key, member)
    return member


@given(CHANGES, st.integers(0, 600))
def test_the_index_finds_exactly_what_may_be_as_old(
    changes: list[tuple[str, int | None]], cutoff_minute: int
) -> None:
    table, minutes = EntryTable(), dict[str, int]()
    for name, minute in changes:
        if minute is None:
            minutes.pop(name, None)
            table.drop(key_of(name))
        else:
            minutes[name] = minute
            _put(table, entry(name, updated_at=START + timedelta(minutes=minute)))

    hours = list(table.oldest_first(stamp(START + timedelta(minutes=cutoff_minute)).encode()))

    found = [sorted(keys + paused) for _, keys, paused in hours]
    last_hour = cutoff_minute // 60
    wanted: dict[int, list[str]] = {}
    for name, minute in minutes.items():
        if minute // 60 <= last_hour:
            wanted.setdefault(minute // 60, []).append(key_of(name))
    assert found == [sorted(wanted[hour]) for hour in sorted(wanted)]
    assert len(table) == len(minutes)


@given(CHANGES, st.integers(1, 4))
def test_the_order_of_keys_is_the_same_from_any_place(
    changes: list[tuple[str, int | None]], limit: int
) -> None:
    table = EntryTable()
    for name, minute in changes:
        if minute is not None:
            _put(table, entry(name))

    order = table.keys_after("", 100)
    assert set(order) == {key_of(name) for name, minute in changes if minute is not None}
    for place, key in enumerate(order):
        assert table.keys_after(key, limit) == order[place + 1 : place + 1 + limit]


def test_what_is_kept_decoded_is_never_another_entrys_and_is_bounded() -> None:
    table = EntryTable()
    entries = [entry(f"c{n}") for n in range(LIVE_ENTRIES + 50)]
    for one in entries:
        table.keep_decoded(one.session_key, _put(table, one), one)

    assert all(table.get(one.session_key) == one for one in entries)
    assert table.get(entries[-1].session_key) is entries[-1]
    assert table.get(entries[0].session_key) is not entries[0]


def test_an_entry_kept_before_its_change_was_durable_is_not_shown() -> None:
    table = EntryTable()
    old, new = entry(), entry(turns=1)
    _put(table, old)
    table.keep_decoded(new.session_key, encode_member(new), new)

    assert table.get(old.session_key) == old


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 240), st.booleans())))
def test_who_may_be_suspended_is_indexed_apart(changes: list[tuple[str, int, bool]]) -> None:
    table, last = EntryTable(), dict[str, tuple[int, bool]]()
    for name, minute, suspended in changes:
        last[key_of(name)] = (minute // 60, suspended)
        at = START + timedelta(minutes=minute)
        _put(table, entry(name, updated_at=at, suspended_at=START if suspended else None))

    found = {
        key: (hour, suspended)
        for hour, keys, paused in table.oldest_first()
        for suspended, group in ((False, keys), (True, paused))
        for key in group
    }
    wanted = {
        key: (stamp(START + timedelta(hours=hour)).encode()[:HOUR_CHARS], suspended)
        for key, (hour, suspended) in last.items()
    }
    assert found == wanted
    for key in last:
        table.drop(SessionKey(key))
    assert list(table.oldest_first()) == []
