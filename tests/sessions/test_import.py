"""Laws of a `sessions.json` without a database beside it: backups and imports."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest

from gateway.errors import DamagedDataError
from gateway.model import AgentId, SessionId, SessionSource
from gateway.sessions.entry import SessionEntry, entry_to_dict
from gateway.sessions.recovery import PREVIOUS, SNAPSHOT
from gateway.sessions.snapshot import Trusted, read_snapshot
from tests.support.state import START, create_all, entry, import_file, key_of, open_state, resolve

if TYPE_CHECKING:
    from pathlib import Path


def _minimal(chat_id: str, **more: object) -> dict[str, object]:
    return {
        "session_key": key_of(chat_id),
        "session_id": f"s-{chat_id}",
        "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z",
        "source": {"platform": "http", "chat_id": chat_id},
        **more,
    }


def _content(*entries: dict[str, object], **top: object) -> dict[str, object]:
    return {"version": 1, "sessions": {str(one["session_key"]): one for one in entries}, **top}


async def test_minimal_entries_are_a_complete_state(tmp_path: Path) -> None:
    path = import_file(tmp_path / "state", _content(_minimal("a"), _minimal("b")))

    for _ in range(2):
        async with open_state(path) as state:
            assert state.store.get(key_of("a")) == SessionEntry(
                session_key=key_of("a"),
                session_id=SessionId("s-a"),
                agent=AgentId("main"),
                created_at=START,
                updated_at=START,
                source=SessionSource("http", "a"),
            )
            assert (await resolve(state.store, "b")).entry.session_id == "s-b"
            assert state.store.statistics().quarantined == 0
            assert len(state.store) == 2
    assert isinstance(read_snapshot(path / SNAPSHOT), Trusted)
    assert not (path / "quarantine").exists()


async def test_the_imported_file_stays_as_the_one_before(tmp_path: Path) -> None:
    path = import_file(tmp_path / "state", _content(_minimal("a")))
    imported = (path / SNAPSHOT).read_bytes()

    async with open_state(path):
        assert (path / PREVIOUS).read_bytes() == imported


async def test_a_backup_of_a_running_store_is_a_complete_state(tmp_path: Path) -> None:
    async with open_state(tmp_path / "old") as state:
        await create_all(state.store, (entry(name, turns=3) for name in "abc"))
    content = (tmp_path / "old" / SNAPSHOT).read_bytes()

    async with open_state(import_file(tmp_path / "new", content)) as state:
        assert sorted(one.display_name for one in state.store.entries()) == ["a", "b", "c"]
        # Numbers go on from where they were, or the backup would seem newer than its database.
        assert state.store.statistics().sequence == 3
        await state.store.create(entry("d"))
        assert state.store.statistics().sequence == 4


async def test_a_byte_order_mark_is_no_damage(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + orjson.dumps(_content(_minimal("a")))

    async with open_state(import_file(tmp_path / "state", content)) as state:
        assert len(state.store) == 1


def _deep(levels: int) -> object:
    deep: object = 1
    for _ in range(levels):
        deep = [deep]
    return deep


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        pytest.param("turns", "-1", "turns: accepted is a whole number from 0", id="count"),
        pytest.param("session_id", '"a b"', "session_id: accepted are 1 to 64", id="id"),
        pytest.param("source", "null", "source: accepted is a JSON object", id="source"),
        pytest.param("turns", str(_deep(300)), "turns: accepted is a whole number", id="deep"),
        pytest.param("turns", str(2**64), "turns: accepted is a whole number", id="too large"),
    ],
)
async def test_a_bad_entry_is_set_aside_with_its_reason_and_the_rest_load(
    tmp_path: Path, name: str, value: str, reason: str
) -> None:
    content = orjson.dumps(_content(_minimal("a"), _minimal("x", **{name: "BAD"}), _minimal("b")))
    content = content.replace(b'"BAD"', value.encode())
    path = import_file(tmp_path / "state", content)

    async with open_state(path) as state:
        assert sorted(one.source.chat_id for one in state.store.entries()) == ["a", "b"]
        assert state.store.statistics().quarantined == 1

    (aside,) = (path / "quarantine").glob("*.jsonl")
    record = orjson.loads(aside.read_bytes())
    assert record["key"] == key_of("x")
    assert record["reason"].startswith(reason)
    assert "entry" in record


async def test_an_entry_under_a_key_that_is_not_its_own_is_set_aside(tmp_path: Path) -> None:
    content = {"version": 1, "sessions": {key_of("b"): _minimal("a"), "free text": _minimal("c")}}
    path = import_file(tmp_path / "state", content)

    async with open_state(path) as state:
        assert len(state.store) == 0
        assert state.store.statistics().quarantined == 2
    (aside,) = (path / "quarantine").glob("*.jsonl")
    assert aside.read_bytes().count(b"session_key: accepted is the key it stands under") == 2


@pytest.mark.parametrize("extra", ["fine", _deep(300)])
async def test_unknown_fields_are_kept_in_a_record_and_the_entry_loads(
    tmp_path: Path, extra: object
) -> None:
    content = orjson.dumps(_content(_minimal("a", mood=None))).replace(b"null", _dumped(extra))
    path = import_file(tmp_path / "state", content)

    async with open_state(path) as state:
        assert len(state.store) == 1
        assert state.store.statistics().quarantined == 0
    (aside,) = (path / "quarantine").glob("*.jsonl")
    record = orjson.loads(aside.read_bytes())
    assert record["reason"] == "loaded, but these fields are not known: mood"
    if extra == "fine":
        assert record["entry"] == _minimal("a", mood="fine")
    else:
        (whole,) = (path / "quarantine").glob("*.json")
        assert whole.read_bytes() == content


def _dumped(value: object) -> bytes:
    return str(value).encode() if isinstance(value, list) else orjson.dumps(value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "the file is empty", id="empty"),
        pytest.param(b"\0" * 4096, "the file is empty", id="zero bytes"),
        pytest.param(b" \n", "the file is empty", id="blank"),
        pytest.param(b"\xff\xfe{", "not JSON", id="garbage"),
        pytest.param(b'{"version":1,"sessions":{"a":{', "not JSON", id="cut short"),
        pytest.param(b"[" * 5000, "not JSON", id="too deep"),
        pytest.param(b"[]", "accepted is an object", id="a list"),
        pytest.param(b"null", "accepted is an object", id="null"),
        pytest.param(b"{}", "accepted is an object", id="no version"),
        pytest.param(b'{"version":true,"sessions":{}}', "accepted is an object", id="version"),
        pytest.param(b'{"version":"1","sessions":{}}', "accepted is an object", id="text version"),
        pytest.param(b'{"version":2,"sessions":{}}', "version 2: accepted is 1", id="newer"),
        pytest.param(b'{"version":0,"sessions":{}}', "version 0: accepted is 1", id="older"),
        pytest.param(b'{"version":1}', '"sessions" as an object', id="no sessions"),
        pytest.param(b'{"version":1,"sessions":[]}', '"sessions" as an object', id="sessions"),
        pytest.param(
            b'{"version":1,"sequence":-1,"sessions":{}}', '"sequence" from 0', id="sequence"
        ),
        pytest.param(
            b'{"version":1,"sessions":{},"check":{"entries":0,"crc32":"00000000"}}',
            'take out its member "check"',
            id="wrong check",
        ),
    ],
)
async def test_what_is_no_snapshot_is_refused_and_left_as_it_is(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = import_file(tmp_path / "state", content)

    with pytest.raises(DamagedDataError) as refused:
        async with open_state(path):
            pass

    assert refused.value.path == path / SNAPSHOT
    assert str(refused.value).startswith(f"{path / SNAPSHOT}: ")
    assert reason in str(refused.value)
    assert (path / SNAPSHOT).read_bytes() == content
    assert not (path / PREVIOUS).exists()


async def test_a_refused_file_that_is_mended_is_taken(tmp_path: Path) -> None:
    path = import_file(tmp_path / "state", b"{")
    with pytest.raises(DamagedDataError):
        async with open_state(path):
            pass

    async with open_state(import_file(path, _content(_minimal("a")))) as state:
        assert len(state.store) == 1


async def test_every_field_of_an_entry_can_be_imported(tmp_path: Path) -> None:
    one = entry("a", turns=3, suspended_at=START, model="m", total_tokens=9, context_tokens=4)
    path = import_file(tmp_path / "state", _content(entry_to_dict(one)))

    async with open_state(path) as state:
        assert state.store.get(key_of("a")) == one
