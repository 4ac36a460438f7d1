"""Laws of a salvage where `sessions.json` does not fit the session log beside it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pytest

from gateway.clock import FakeClock
from gateway.durable.database import Database
from gateway.durable.directory import hold
from gateway.errors import DamagedDataError
from gateway.sessions.adopting import adopt
from gateway.sessions.recovery import PREVIOUS, SNAPSHOT
from gateway.upkeep.backup import back_up
from gateway.upkeep.checking import check_store
from gateway.upkeep.findings import Level
from tests.support.state import START, create_all, entry, key_of, open_state, power_cut
from tests.support.turns import running_turns
from tests.support.upkeep import change, found, overwrite, shown_entries, used_state
from tests.upkeep.salvaging import salvaged

if TYPE_CHECKING:
    from gateway.upkeep.salvage import Salvaged


@dataclass(frozen=True, slots=True)
class History:
    """A state that lived on for a while, with what stood beside it at the beginning."""

    path: Path
    """As a process that died left it."""
    old: bytes
    """An early snapshot, older than the log reaches."""
    newest: dict[str, tuple[str, int]]
    """What a start comes to: session id and turns of each key."""


async def lived(folder: Path) -> History:
    """Let ann talk on, bob go, cid begin anew and dan come, after the early snapshot."""
    clock = FakeClock()
    async with running_turns(folder / "state", clock=clock) as bench:
        store = bench.state.store
        for chat in ("ann", "bob", "cid", "eve"):
            await bench.say("first", chat)
        await store.snapshots.write()
        old = (bench.state.path / SNAPSHOT).read_bytes()
        await clock.advance(60)
        await bench.say("second", "ann")
        await store.remove(key_of("bob"))
        await store.reset(key_of("cid"))
        await bench.say("anew", "cid")
        for chat in ("eve", "dan"):
            await clock.advance(60)
            await bench.say("hello", chat)
            await store.snapshots.write()
        await bench.say("third", "ann")
        path = power_cut(bench.state, folder / "killed")
    return History(path, old, await shown_entries(shutil.copytree(path, folder / "started")))


def numbers(made: Salvaged, name: str) -> list[str]:
    """Return what is told of a file, as a loss and as a note."""
    losses = [f"{loss.place}: {loss.what}" for loss in made.given_up]
    return [text for text in (*losses, *made.notes) if text.startswith(f"{name}:")]


async def test_where_an_older_one_was_put_in_its_place_the_one_before_makes_up_for_it(
    tmp_path: Path,
) -> None:
    history = await lived(tmp_path)
    (history.path / SNAPSHOT).write_bytes(history.old)

    made = await salvaged(history.path, tmp_path / "new")

    assert made.complete
    assert await shown_entries(tmp_path / "new") == history.newest
    (told,) = numbers(made, SNAPSHOT)
    assert "older (sequence 8) than what the session log beside it covers (13 to 16)" in told
    assert told.endswith(f"{PREVIOUS} and the session log made up for all of it")


@pytest.mark.parametrize("before", ["gone", "as old"])
async def test_beyond_the_logs_reach_transcripts_tell_what_became_of_an_older_ones_entries(
    tmp_path: Path, before: str
) -> None:
    """Nobody who left comes back, nobody falls back to an ended session, nobody is forgotten."""
    history = await lived(tmp_path)
    for name in (SNAPSHOT, PREVIOUS):
        (history.path / name).write_bytes(history.old)
    if before == "gone":
        (history.path / PREVIOUS).unlink()

    made = await salvaged(history.path, tmp_path / "new")

    assert await shown_entries(tmp_path / "new") == history.newest
    told = [loss for loss in made.given_up if loss.place in {SNAPSHOT, PREVIOUS}]
    assert len(told) == (1 if before == "gone" else 2)
    for loss in told:
        assert "older (sequence 8)" in loss.what
        assert "(13 to 16)" in loss.what


async def test_where_the_log_has_holes_the_later_used_entry_of_two_files_stays(
    tmp_path: Path,
) -> None:
    history = await lived(tmp_path)
    (history.path / SNAPSHOT).write_bytes(history.old)
    change(
        history.path,
        "UPDATE session_log SET member = x'00' "
        "WHERE sequence = (SELECT max(sequence) FROM session_log)",
    )

    made = await salvaged(history.path, tmp_path / "new")

    entries = orjson.loads((tmp_path / "new" / SNAPSHOT).read_bytes())["sessions"]
    # What was measured stands in the files alone: no transcript tells of it.
    assert entries[key_of("eve")]["context_step"] == 2
    assert await shown_entries(tmp_path / "new") == history.newest
    assert {loss.place for loss in made.given_up} == {SNAPSHOT, "gateway.db: session_log"}


async def test_where_the_database_is_the_older_one_newer_entries_stay_and_both_numbers_are_told(
    tmp_path: Path,
) -> None:
    """As after putting back a database alone from a backup: what it lacks, only entries tell."""
    history = await lived(tmp_path)
    early = await used_state(tmp_path / "early")
    async with running_turns(early) as bench:
        first = bench.entry("ann").session_id
    shutil.copy(early / "gateway.db", history.path / "gateway.db")
    for name in ("gateway.db-wal", "gateway.db-shm"):
        (history.path / name).unlink()

    made = await salvaged(history.path, tmp_path / "new")

    entries = await shown_entries(tmp_path / "new")
    # Ann's entry in the files was used later than the one in the log.
    assert entries[key_of("ann")] == (history.newest[key_of("ann")][0], 2)
    assert entries[key_of("ann")][0] != first
    assert set(entries) >= set(history.newest)
    for name in (SNAPSHOT, PREVIOUS):
        (told,) = numbers(made, name)
        assert "newer (sequence 1" in told
        assert "than the session log beside it, which covers" in told


async def test_where_the_wal_is_gone_the_one_before_that_still_fits_is_the_base(
    tmp_path: Path,
) -> None:
    async with running_turns(tmp_path / "state") as bench:
        store, database = bench.state.store, bench.state.database
        await bench.say("first", "ann")
        await store.snapshots.write()
        await bench.say("second", "ann")
        await database.compact(2**30)  # which brings all of it into the database's own file
        await bench.say("third", "ann")
        await store.snapshots.write()
        path = power_cut(bench.state, tmp_path / "left")
    (path / "gateway.db-wal").unlink()
    (path / "gateway.db-shm").unlink()

    made = await salvaged(path, tmp_path / "new")

    assert [turns for _, turns in (await shown_entries(tmp_path / "new")).values()] == [2]
    (told,) = numbers(made, SNAPSHOT)
    assert "changes after 3: it is newer (sequence 4)" in told
    assert made.sequence == 4


async def test_a_database_that_has_lost_its_store_with_its_wal_is_told(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state", killed=True)
    for name in ("gateway.db-wal", "gateway.db-shm"):
        (path / name).unlink()

    made = await salvaged(path, tmp_path / "new")

    (loss,) = made.given_up
    assert loss.place == "gateway.db"
    assert "its WAL (gateway.db-wal) is gone" in loss.what
    assert made.entries == 3


async def test_who_left_before_a_right_snapshot_does_not_come_back_from_an_older_database(
    tmp_path: Path,
) -> None:
    """The end of the WAL, where the removal stood, is lost; the snapshot knows of it."""
    async with running_turns(tmp_path / "state") as bench:
        for chat in ("ann", "bob"):
            await bench.say("first", chat)
        end = (bench.state.path / "gateway.db-wal").stat().st_size
        await bench.state.store.remove(key_of("bob"))
        await bench.say("second", "ann")
        await bench.state.store.snapshots.write()
        path = power_cut(bench.state, tmp_path / "left")
    overwrite(path / "gateway.db-wal", end + 100, b"\xff" * 64)

    made = await salvaged(path, tmp_path / "new")

    assert [loss.place for loss in made.given_up] == ["gateway.db-wal"]
    assert [key.split(":")[5] for key in await shown_entries(tmp_path / "new")] == ["ann"]


async def test_what_cannot_be_read_at_all_is_not_called_altered(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state")
    for name in (SNAPSHOT, PREVIOUS):
        (path / name).write_bytes(b"")

    made = await salvaged(path, tmp_path / "new")

    for name in (SNAPSHOT, PREVIOUS):
        assert any("0 entries were found in it" in text for text in numbers(made, name))
        assert any("no entry can be found in it" in text for text in numbers(made, name))
    assert not [loss for loss in made.given_up if "altered" in loss.what]


async def test_a_salvage_does_not_advise_a_salvage(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state", killed=True)
    wal = path / "gateway.db-wal"
    overwrite(wal, wal.stat().st_size // 2, b"\xff" * 64)
    (path / SNAPSHOT).write_bytes(b"")

    made = await salvaged(path, tmp_path / "new")

    told = orjson.dumps([made.notes, [loss.examples for loss in made.given_up]]).decode()
    assert "cannot be read any more" in told
    assert "gateway store salvage" not in told


async def test_a_right_snapshot_beside_a_log_without_its_end_is_no_misfit(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state", killed=True)
    wal = path / "gateway.db-wal"
    overwrite(wal, wal.stat().st_size // 2, b"\xff" * 64)
    wanted = orjson.loads((path / SNAPSHOT).read_bytes())["sessions"]

    made = await salvaged(path, tmp_path / "new")

    assert not numbers(made, SNAPSHOT)
    assert [loss.place for loss in made.given_up if "-wal" in loss.place] == ["gateway.db-wal"]
    entries = await shown_entries(tmp_path / "new")
    assert {key: raw["session_id"] for key, raw in wanted.items()}.items() <= {
        key: session_id for key, (session_id, _) in entries.items()
    }.items()


async def other_store(folder: Path) -> Path:
    """Make a store of others, whose snapshot reaches to change 10."""
    async with open_state(folder / "other") as state:
        await create_all(state.store, [entry(f"stranger{n}") for n in range(9)])
        await state.store.create(entry("ann", display_name="another ann"))
    return state.path


@pytest.mark.parametrize("sequence", [b"10", b"99"], ids=["within reach", "beyond it"])
async def test_one_before_that_is_another_stores_overrules_nothing(
    tmp_path: Path, sequence: bytes
) -> None:
    path = await used_state(tmp_path / "state")
    wanted = await shown_entries(path)
    other = (await other_store(tmp_path) / SNAPSHOT).read_bytes()
    head, _, _ = other.partition(b'},"check"')
    foreign = head.replace(b'"sequence":10', b'"sequence":' + sequence) + b"}}\n"
    (path / PREVIOUS).write_bytes(foreign)
    overwrite(path / SNAPSHOT, (path / SNAPSHOT).read_bytes().index(b'"turns":'), b"#")

    made = await salvaged(path, tmp_path / "new")

    entries = await shown_entries(tmp_path / "new")
    assert wanted.items() <= entries.items()
    assert not made.complete
    (told,) = [text for text in numbers(made, PREVIOUS) if "certainty" in text]
    reason = "10 of its 10 entries are of sessions" if sequence == b"10" else "newer (sequence 99)"
    assert reason in told


async def test_another_stores_file_gives_way_to_the_one_before(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state", killed=True)
    wanted = await shown_entries(shutil.copytree(path, tmp_path / "started"))
    shutil.copy(await other_store(tmp_path) / SNAPSHOT, path / SNAPSHOT)

    made = await salvaged(path, tmp_path / "new")

    assert made.complete
    assert await shown_entries(tmp_path / "new") == wanted
    (told,) = numbers(made, SNAPSHOT)
    assert "another store" in told


FILES = ("own", "old", "foreign", "empty", "flipped", "none")


@pytest.mark.parametrize("before", FILES)
@pytest.mark.parametrize("newest", FILES)
async def test_whatever_files_stand_beside_a_whole_database_nobody_is_lost_or_falls_back(
    tmp_path: Path, newest: str, before: str
) -> None:
    history = await lived(tmp_path)
    foreign = (await other_store(tmp_path) / SNAPSHOT).read_bytes()
    for name, kind in ((SNAPSHOT, newest), (PREVIOUS, before)):
        own = (history.path / name).read_bytes()
        content = {"own": own, "old": history.old, "foreign": foreign, "empty": b""}
        content["flipped"] = own.replace(b'"turns":', b'"turms":', 1)
        if kind == "none":
            (history.path / name).unlink()
        else:
            (history.path / name).write_bytes(content[kind])

    made = await salvaged(history.path, tmp_path / "new")

    entries = await shown_entries(tmp_path / "new")
    assert history.newest.items() <= entries.items()
    assert not [key for key in entries.keys() - history.newest.keys() if "stranger" not in key]
    fits = newest == "own" or before == "own"
    assert made.complete is fits, made
    assert entries == history.newest or not fits


async def test_after_an_adoption_a_file_of_any_number_is_the_truth(tmp_path: Path) -> None:
    history = await lived(tmp_path)
    (history.path / SNAPSHOT).write_bytes(history.old)
    with hold(history.path, started_at=START) as directory:
        async with Database.open(history.path / "gateway.db", FakeClock()) as database:
            await adopt(directory, database, START)

    made = await salvaged(history.path, tmp_path / "new")

    assert not numbers(made, SNAPSHOT)
    shown = await shown_entries(tmp_path / "new")
    adopted = orjson.loads(history.old)["sessions"]
    assert {key: one["turns"] for key, one in adopted.items()}.items() <= {
        key: turns for key, (_, turns) in shown.items()
    }.items()


@pytest.mark.parametrize("letter", range(5))
async def test_a_check_sum_whose_name_is_damaged_is_damage_and_no_import(
    tmp_path: Path, letter: int
) -> None:
    path = await used_state(tmp_path / "state", killed=True)
    wanted = await shown_entries(shutil.copytree(path, tmp_path / "started"))
    good = (path / SNAPSHOT).read_bytes()
    place = good.index(b'},"check":{') + 3 + letter
    for bit in (1, 2, 4, 32):
        flipped = bytes([good[place] ^ bit])
        (path / SNAPSHOT).write_bytes(good[:place] + flipped + good[place + 1 :])

        wrong = found(check_store(path), Level.WRONG)
        with pytest.raises(DamagedDataError, match="the check sum with its name damaged"):
            back_up(path, tmp_path / "copy", FakeClock())
        made = await salvaged(path, tmp_path / "new")

        assert any("the check sum with its name damaged" in text for text in wrong), wrong
        assert made.complete
        assert await shown_entries(tmp_path / "new") == wanted
        assert any(f"{PREVIOUS} and the session log made up" in note for note in made.notes)
        shutil.rmtree(tmp_path / "new")


async def test_an_edit_by_hand_is_taken_as_it_is_and_told(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state")
    body, _, _ = (path / SNAPSHOT).read_bytes().partition(b'},"check"')
    (path / SNAPSHOT).write_bytes(body.replace(b'"model":"played"', b'"model":"mine"') + b"}}\n")

    made = await salvaged(path, tmp_path / "new")

    assert made.complete
    kept = orjson.loads((tmp_path / "new" / SNAPSHOT).read_bytes())["sessions"].values()
    assert "mine" in {one["model"] for one in kept}
    assert any("after an edit by hand" in note for note in made.notes)


async def test_numbers_that_damage_made_do_not_come_into_a_rebuilt_entry(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state")
    for name in (SNAPSHOT, PREVIOUS):
        (path / name).unlink()
    change(
        path,
        "DELETE FROM session_log",
        "UPDATE model_calls SET input_tokens = 9223372036854775807, output_tokens = -5",
        "UPDATE messages SET created_at = 'zzz' WHERE text LIKE '%hello 0'",
        "UPDATE messages SET created_at = '2026-01-01T00:00:00' WHERE text LIKE '%hello 1'",
    )

    made = await salvaged(path, tmp_path / "new")

    assert made.entries_rebuilt == 3
