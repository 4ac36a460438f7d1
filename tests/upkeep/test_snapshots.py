"""Laws of the check of one entry's bytes: as strict as whoever reads them later."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import orjson
import pytest

from gateway.errors import GatewayError
from gateway.model import ContextSource, SessionId
from gateway.sessions.entry import (
    EntryError,
    decode_member,
    encode_member,
    entry_from_dict,
    identity,
    updated_hour,
)
from gateway.sessions.key import parse_key
from gateway.sessions.table import EntryTable
from gateway.upkeep.snapshots import member_problem
from tests.support.state import START, entry

if TYPE_CHECKING:
    from gateway.sessions.entry import SessionEntry

FULL = entry(
    "ann",
    suspended_at=START,
    previous_session_id=SessionId("before"),
    reset_reason="idle",
    context_source=ContextSource.USAGE,
    context_measured_at=START,
    cache_touched_at=START,
    model="m",
)
KEY = FULL.session_key
GOOD = encode_member(FULL)


def with_value(name: str, value: object) -> bytes:
    raw = orjson.loads(b"{%b}" % GOOD)[KEY]
    place = raw["source"] if name.startswith("source.") else raw
    assert name.removeprefix("source.") in place
    place[name.removeprefix("source.")] = value
    return b'"%b":%b' % (KEY.encode(), orjson.dumps(raw))


def test_what_the_store_writes_is_right() -> None:
    assert member_problem(KEY, GOOD) == ""
    assert member_problem(KEY, encode_member(entry("ann"))) == ""


@pytest.mark.parametrize("value", [None, True, -1, 1.5, "", "x", [], {}, 2**64 - 1], ids=repr)
@pytest.mark.parametrize(
    "name",
    [
        *(name for name in orjson.loads(b"{%b}" % GOOD)[KEY]),
        *(f"source.{name}" for name in orjson.loads(b"{%b}" % GOOD)[KEY]["source"]),
    ],
)
def test_a_value_is_right_where_an_import_would_take_it(name: str, value: object) -> None:
    member = with_value(name, value)

    assert bool(member_problem(KEY, member)) == (_imported(member) is None)


def _imported(member: bytes) -> SessionEntry | None:
    """Return the entry as an import makes it, where its bytes are as the store needs them."""
    try:
        (key, raw), *others = orjson.loads(b"{%b}" % member).items()
        made = entry_from_dict(raw)
        parse_key(key)
        identity(member)
        EntryTable().put(made.session_key, member)
    except (orjson.JSONDecodeError, GatewayError, ValueError):
        return None

    return None if others or made.session_key != key != KEY else made


@pytest.mark.parametrize(
    "member",
    [
        pytest.param(GOOD.replace(b'"turns":', b'\n"turns":'), id="two lines"),
        pytest.param(GOOD.replace(b'"updated_at":', b'"updated_at": '), id="hour not to be found"),
        pytest.param(GOOD.replace(b'"session_id":', b'"session_id": '), id="id not to be found"),
        pytest.param(
            GOOD.replace(b'"updated_at":"', b'"updated_at":"2020-01-01T00:00:00Z","updated_at":"'),
            id="two hours",
        ),
        pytest.param(
            GOOD.replace(b'"session_id":"', b'"session_id":"other","session_id":"'), id="two ids"
        ),
        pytest.param(
            with_value("updated_at", "2026-01-01T05:00:00+05:00"), id="an hour of another zone"
        ),
        pytest.param(GOOD + b"}", id="more behind"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_what_the_store_would_misread_is_wrong(member: bytes) -> None:
    assert member_problem(KEY, member)


@pytest.mark.parametrize(
    "key",
    ["agent:main:x", "agent:main:http::dm:~1::", "agent:main:http::wrong:ann::", "agent:main:é"],
)
def test_a_key_that_none_can_be_is_wrong(key: str) -> None:
    member = GOOD.replace(KEY.encode(), key.encode())
    assert orjson.loads(b"{%b}" % member)[key]["session_key"] == key

    assert "not a session key" in member_problem(key, member)


@pytest.mark.parametrize("seed", range(5))
def test_no_flipped_byte_passes_that_a_reader_stumbles_over(seed: int) -> None:
    dice, passed = random.Random(seed), 0
    for _ in range(2_000):
        damaged = bytearray(GOOD)
        damaged[dice.randrange(len(KEY) + 3, len(GOOD))] = dice.randrange(256)
        if member_problem(KEY, bytes(damaged)):
            continue

        passed += 1
        try:
            made = decode_member(KEY, bytes(damaged))
            assert identity(bytes(damaged))[0] == made.session_id
            assert updated_hour(bytes(damaged)).decode() == f"{made.updated_at:%Y-%m-%dT%H}"
        except EntryError:
            pytest.fail(f"seed {seed}: {bytes(damaged)!r}")
    assert 0 < passed < 2_000
