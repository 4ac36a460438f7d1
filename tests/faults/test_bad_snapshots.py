"""Laws of every kind of bad `sessions.json`: the one before, or a refusal; never silently empty."""

from __future__ import annotations

import os
import shutil
import stat
from typing import TYPE_CHECKING

import orjson
import pytest

from gateway.errors import DamagedDataError
from gateway.sessions.recovery import PREVIOUS, SNAPSHOT
from tests.faults.damage import folder_in_memory
from tests.support.daemon import run_to_end, running_daemon
from tests.support.state import entry, import_file, key_of, open_state, power_cut, shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Count = Callable[[str, int], None]

NAMES = {"a", "b", "c"}
DEEP = 1_000_000
KEPT = "session_store_max_age_days = 0\n"


async def _used(folder: Path) -> Path:
    """Make a state of three entries: one in `.prev`, one in the snapshot, one only logged."""
    async with open_state(folder / "state") as state:
        await state.store.create(entry("a"))
        await state.store.snapshots.write()
        await state.store.create(entry("b"))
        await state.store.snapshots.write()
        await state.store.create(entry("c"))
        return power_cut(state, folder / "used")


async def _names(path: Path) -> set[str]:
    async with open_state(path) as state:
        return {one.display_name for one in state.store.entries()}


def _inside(good: bytes, member: bytes) -> bytes:
    """Put something into the first entry of a snapshot, and take its check sum out."""
    body = good.partition(b'},"check"')[0] + b"}}"
    assert orjson.loads(body)["sessions"]
    return body.replace(b'"turns":0', member, 1)


BAD: dict[str, Callable[[bytes], bytes]] = {
    "no bytes": lambda _: b"",
    "a space": lambda _: b" ",
    "zeros": lambda good: bytes(len(good)),
    "an empty object": lambda _: b"{}",
    "an empty list": lambda _: b"[]",
    "null": lambda _: b"null",
    "a number": lambda _: b"1",
    "a text": lambda _: b'"sessions"',
    "no sessions": lambda _: b'{"version":1}',
    "sessions null": lambda _: b'{"version":1,"sessions":null}',
    "sessions a list": lambda _: b'{"version":1,"sessions":[]}',
    "version 0": lambda good: good.replace(b'"version":1', b'"version":0'),
    "version 2": lambda good: good.replace(b'"version":1', b'"version":2'),
    "version 1.0": lambda good: good.replace(b'"version":1', b'"version":1.0'),
    "version text": lambda good: good.replace(b'"version":1', b'"version":"1"'),
    "version true": lambda good: good.replace(b'"version":1', b'"version":true'),
    "sequence negative": lambda good: good.replace(b'"sequence":2', b'"sequence":-2'),
    "sequence huge": lambda good: good.replace(b'"sequence":2', b'"sequence":2' + b"0" * 400),
    "sequence NaN": lambda good: good.replace(b'"sequence":2', b'"sequence":NaN'),
    "a list too deep": lambda _: b"[" * DEEP,
    "an object too deep": lambda _: b'{"a":' * DEEP,
    "too deep inside": lambda good: _inside(good, b'"turns":' + b"[" * DEEP + b"]" * DEEP),
    "NaN inside": lambda good: _inside(good, b'"turns":NaN'),
    "Infinity inside": lambda good: _inside(good, b'"turns":-Infinity'),
    "a lone surrogate": lambda good: _inside(good, rb'"model":"\ud800"'),
    "not UTF-8": lambda good: _inside(good, b'"model":"\xff"'),
    "UTF-16": lambda good: good.decode().encode("utf-16"),
    "a byte order mark": lambda good: b"\xef\xbb\xbf" + good,
    "twice": lambda good: good + good,
    "more behind": lambda good: good + b"x",
    "other line ends": lambda good: good.replace(b"\n", b"\r\n"),
    "an entry twice": lambda good: good.replace(b"\n}", b',\n"a":{"updated_at":""}\n}'),
    "an entry gone": lambda good: b"".join(good.splitlines(keepends=True)[::2]),
    "an entry changed": lambda good: good.replace(b'"turns":0', b'"turns":1', 1),
}


@pytest.mark.parametrize("kind", BAD)
async def test_beside_its_database_the_one_before_stands_in_and_the_bad_one_is_kept(
    tmp_path: Path, kind: str
) -> None:
    used = await _used(tmp_path)
    bad = BAD[kind]((used / SNAPSHOT).read_bytes())
    assert bad != (used / SNAPSHOT).read_bytes()
    (used / SNAPSHOT).write_bytes(bad)

    assert await _names(used) == NAMES

    kept = [one.read_bytes() for one in (used / "quarantine").iterdir()]
    assert bad in kept
    assert shown(used).keys() == set(map(key_of, NAMES))
    assert await _names(used) == NAMES


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("database", ["used", "none"])
async def test_with_nothing_to_stand_in_it_is_refused_and_left_as_it_is(
    tmp_path: Path, kind: str, database: str
) -> None:
    path = await _used(tmp_path)
    bad = BAD[kind]((path / SNAPSHOT).read_bytes())
    if database == "none":
        path = import_file(tmp_path / "import", bad)
    else:
        (path / SNAPSHOT).write_bytes(bad)
        (path / PREVIOUS).unlink()

    with pytest.raises(DamagedDataError) as refused:
        await _names(path)

    assert refused.value.path == path / SNAPSHOT
    assert (path / SNAPSHOT).read_bytes() == bad
    assert not (path / PREVIOUS).exists()


@pytest.mark.parametrize("letter", range(5))
async def test_a_check_sum_whose_name_is_damaged_is_not_an_import(
    tmp_path: Path, letter: int
) -> None:
    used = await _used(tmp_path)
    bad = bytearray((used / SNAPSHOT).read_bytes())
    bad[bad.index(b'},"check":{') + 3 + letter] ^= 1
    (used / SNAPSHOT).write_bytes(bad)

    assert await _names(used) == NAMES

    kept = [one.read_bytes() for one in (used / "quarantine").iterdir()]
    assert bytes(bad) in kept


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(b"1" + b"0" * 400, id="of 401 digits"),
        pytest.param(b"18446744073709551616", id="over 64 bits"),
        pytest.param(b"1e999", id="over a double"),
        pytest.param(b"-1", id="below 0"),
        pytest.param(b"0.5", id="a fraction"),
    ],
)
async def test_a_number_that_none_of_ours_can_be_costs_its_entry_alone(
    tmp_path: Path, number: bytes
) -> None:
    used = await _used(tmp_path)
    changed = _inside((used / SNAPSHOT).read_bytes(), b'"turns":' + number)
    path = import_file(tmp_path / "import", changed)

    try:
        async with open_state(path) as state:
            assert len(state.store) == 1
            assert state.store.statistics().quarantined == 1
    except DamagedDataError:
        # No JSON to the parser: refused whole, and left as it is.
        assert number == b"1e999" or len(number) == 401
        assert (path / SNAPSHOT).read_bytes() == changed
    else:
        assert (path / PREVIOUS).read_bytes() == changed


@pytest.mark.parametrize("step", [31, pytest.param(1, marks=pytest.mark.torture, id="every byte")])
async def test_a_file_cut_at_any_byte_loses_nothing_beside_its_database_and_is_refused_alone(
    tmp_path: Path, step: int, torture_count: Count
) -> None:
    with folder_in_memory(tmp_path) as folder:
        used = await _used(folder)
        good = (used / SNAPSHOT).read_bytes()
        for size in range(0, len(good), step):
            copy = shutil.copytree(used, folder / "copy")
            (copy / SNAPSHOT).write_bytes(good[:size])
            assert await _names(copy) == NAMES, size
            shutil.rmtree(copy)

            alone = import_file(folder / "alone", good[:size])
            with pytest.raises(DamagedDataError):
                await _names(alone)
            assert (alone / SNAPSHOT).read_bytes() == good[:size]
            shutil.rmtree(alone)
        torture_count("snapshots cut short", len(good) // step)


@pytest.mark.parametrize("name", [SNAPSHOT, PREVIOUS])
async def test_what_others_may_read_or_own_is_read_and_replaced_by_what_is_ours(
    tmp_path: Path, name: str
) -> None:
    used = await _used(tmp_path)
    (used / name).chmod(0o666)
    if os.geteuid() == 0:
        os.chown(used / name, 65534, 65534)

    assert await _names(used) == NAMES

    for one in (used / SNAPSHOT, used / PREVIOUS):
        assert stat.S_IMODE(one.stat().st_mode) == 0o600
    assert (used / SNAPSHOT).stat().st_uid == os.geteuid()


async def test_the_later_one_of_two_entries_of_a_key_counts_in_a_file_made_by_hand(
    tmp_path: Path,
) -> None:
    used = await _used(tmp_path)
    sessions = orjson.loads((used / SNAPSHOT).read_bytes())["sessions"]
    one, two = sessions[key_of("a")], sessions[key_of("b")]
    text = b'{"version":1,"sessions":{"%b":%b,"%b":%b,"%b":%b}}' % (
        one["session_key"].encode(),
        orjson.dumps(one),
        two["session_key"].encode(),
        orjson.dumps(two),
        one["session_key"].encode(),
        orjson.dumps(one | {"turns": 7}),
    )

    async with open_state(import_file(tmp_path / "import", text)) as state:
        found = {e.display_name: e.turns for e in state.store.entries()}
    assert found == {"a": 7, "b": 0}


@pytest.mark.parametrize(
    "kind",
    [
        "missing",
        "fifo",
        *(
            pytest.param(kind, marks=pytest.mark.torture)
            for kind in ("directory", "link", "too deep", "cut")
        ),
    ],
)
async def test_the_daemon_ends_with_65_or_serves_what_was_there(tmp_path: Path, kind: str) -> None:
    used = await _used(tmp_path)
    snapshot = used / SNAPSHOT
    good = snapshot.read_bytes()
    snapshot.unlink()
    match kind:
        case "missing":
            pass
        case "directory":
            snapshot.mkdir()
        case "fifo":
            os.mkfifo(snapshot)
        case "link":
            (tmp_path / "elsewhere").write_bytes(good)
            snapshot.symlink_to(tmp_path / "elsewhere")
        case _:
            snapshot.write_bytes(b"[" * DEEP if kind == "too deep" else good[:99])
    if kind in {"missing", "directory"}:
        ended = await run_to_end(used)
        assert ended.code == 65
        assert str(snapshot) in ended.log[-1]["error"]
        assert not snapshot.is_file()
        return

    async with running_daemon(used, KEPT) as daemon:
        sessions = (await daemon.get("/v1/sessions"))["sessions"]
        assert {one["display_name"] for one in sessions} == NAMES
        (told,) = daemon.log.of("store.snapshot_damaged")
        assert told["level"] == "error"
    if kind == "link":
        assert (tmp_path / "elsewhere").read_bytes() == good
