"""Laws of the archive: what is in a file, what is told of it, and how it is read and goes."""

from __future__ import annotations

import errno
import hashlib
import stat
import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
from anyio import from_thread
from typing_extensions import override

from gateway.durable.disk import SystemDisk
from gateway.errors import DamagedDataError
from gateway.retention.archive_file import PIECE_BYTES
from gateway.retention.archiving import STEP_ITEMS, Archives, forget_sessions
from gateway.retention.keeping import Keeping
from gateway.transcripts import archives
from tests.support.kept import DAY_S, KEEP, Store, disagreements, lines_of, store

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

NO_AUDIT_END = replace(KEEP, audit_s=None)


async def _archived(
    one: Store, count: int = 5, session: str = "s", *, chars: int = 100
) -> list[int]:
    """Say something, archive it, and let its grace end; the last message stays."""
    said = await one.say(session, count + 1, chars=chars)
    await one.take(*said[:-1], action="archive")
    one.later(7)
    kept = await one.sweep()
    assert kept.archived_items == count, kept
    return said[:-1]


async def test_what_is_archived_is_in_one_file_that_needs_no_gateway_to_be_read(
    tmp_path: Path,
) -> None:
    async with store(tmp_path / "state") as one:
        before = await one.rows("SELECT position, text FROM messages")
        assert before == []
        said = await _archived(one, 3)

        (file,) = one.files()
        lines = lines_of(file)
        rows = await one.rows("SELECT * FROM archives")
        entries = await one.rows(
            "SELECT position, item, state, archive, due_at, original FROM pruned_items "
            "LEFT JOIN pruned_originals ON entry = position"
        )
        stated = one.clock.now()

    assert file.name == f"{stated:%Y-%m-%dT%H%M%SZ}-1.jsonl.zst"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [line["row"]["text"] for line in lines] == [one.texts[item] for item in said]
    assert [line["row"]["position"] for line in lines] == said
    assert {(line["session_id"], line["session_key"], line["run_id"]) for line in lines} == {
        ("s", "agent:main:http::dm:s::", "run")
    }
    assert lines[0]["record"]["reason"] == "age 2d > 1d"
    data = file.read_bytes()
    ((_, name, made_at, purge_at, items, _, file_bytes, sha256),) = rows
    assert (name, items, file_bytes) == (file.name, 3, len(data))
    assert sha256 == hashlib.sha256(data).hexdigest()
    assert (made_at[:10], purge_at[:10]) == ("2026-01-08", "2027-01-08")
    assert entries == [
        (place, item, "archived", file.name, None, None) for place, item in enumerate(said, 1)
    ]
    assert disagreements(one.path, one.texts, swept=True) == []


async def test_the_frame_has_a_check_sum_of_its_own(tmp_path: Path) -> None:
    async with store(tmp_path / "state") as one:
        await _archived(one, 3)
        (file,) = one.files()
    # Bit 2 of the frame's descriptor, after the magic number.
    assert file.read_bytes()[4] & 4


async def test_a_file_that_is_full_is_followed_by_another(tmp_path: Path) -> None:
    async with store(tmp_path / "state", max_content_bytes=PIECE_BYTES) as one:
        said = await one.say("s", 201, chars=5_000)
        await one.take(*said[:-1], action="archive")
        one.later(7)

        first = await one.keeping.work()
        assert (first.more, len(one.files())) == (True, 1)
        rest = await one.sweep()

        assert first.archived_items + rest.archived_items == 200
        sizes = [row[0] for row in await one.rows("SELECT content_bytes FROM archives")]
        assert len(sizes) == len(one.files()) > 2
        # A piece more than the limit at most.
        assert max(sizes) <= 2 * PIECE_BYTES
        items = [line["item"] for file in one.files() for line in lines_of(file)]
        assert sorted(items) == said[:-1]
    assert disagreements(one.path, one.texts, swept=True) == []


async def test_items_in_their_grace_and_deleted_ones_are_never_archived(tmp_path: Path) -> None:
    async with store(tmp_path / "state") as one:
        said = await one.say("s", 7)
        await one.take(*said[:2], action="archive")
        await one.take(*said[2:4], action="delete")
        one.later(6.99)
        assert (await one.sweep()).is_idle
        await one.take(said[4], action="archive")
        one.later(0.01)

        kept = await one.sweep()

        assert (kept.archived_items, kept.purged_items) == (2, 2)
        assert list((await one.states()).values()) == [
            *("archived", "archived"),
            *("purged", "purged"),
            "held",
        ]
    assert disagreements(one.path, one.texts, swept=True) == []


@pytest.mark.parametrize("place", [0, 5, -5, -1], ids=["magic", "header", "content", "end"])
async def test_one_altered_byte_is_told_with_the_name_of_the_file(
    tmp_path: Path, place: int
) -> None:
    async with store(tmp_path / "state") as one:
        said = await _archived(one)
        (file,) = one.files()
        data = bytearray(file.read_bytes())
        data[place] ^= 1
        file.write_bytes(data)

        restored = await one.give_back(*said)

        assert restored.items == ()
        assert {str(file) in refused.reason for refused in restored.refused} == {True}
        assert len(restored.refused) == 5
        assert set((await one.states()).values()) == {"archived"}


@pytest.mark.parametrize("size", [0, 1, 40])
async def test_a_cut_file_is_no_empty_one(tmp_path: Path, size: int) -> None:
    async with store(tmp_path / "state") as one:
        said = await _archived(one)
        (file,) = one.files()
        file.write_bytes(file.read_bytes()[:size])

        restored = await one.give_back(*said)

    assert (restored.items, len(restored.refused)) == ((), 5)
    assert "SHA-256" in restored.refused[0].reason


async def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    async with store(tmp_path / "state") as one:
        said = await _archived(one)
        (file,) = one.files()
        file.unlink()

        restored = await one.give_back(*said)

    assert restored.items == ()
    assert "is not there" in restored.refused[0].reason


async def test_an_original_that_cannot_be_read_stays_held_and_is_told_each_time(
    tmp_path: Path,
) -> None:
    async with store(tmp_path / "state") as one:
        said = await one.say("s", 5)
        await one.take(*said[:4], action="archive")
        of_item = "entry = (SELECT position FROM pruned_items WHERE item = ?)"
        await one.run(f"UPDATE pruned_originals SET original = x'7b' WHERE {of_item}", said[1])  # noqa: S608 - a text of ours
        await one.run(f"DELETE FROM pruned_originals WHERE {of_item}", said[2])  # noqa: S608 - a text of ours
        one.later(7)

        for archived in (2, 0):
            kept = await one.sweep()
            assert kept.archived_items == archived
            assert [problem.partition(": ")[2] for problem in kept.problems] == [
                "pruned_items 2: its original cannot be read",
                "pruned_items 3: its original cannot be read",
            ]
        assert list((await one.states()).values()) == ["archived", "held", "held", "archived"]
        assert len(one.files()) == 1


async def test_only_files_of_the_archive_that_no_row_names_are_taken_away(tmp_path: Path) -> None:
    async with store(tmp_path / "state") as one:
        await _archived(one)
        folder = one.files()[0].parent
        kept = {one.files()[0].name, "notes.txt"}
        for name in ("notes.txt", "2026-01-01T000000Z-9.jsonl.zst", "x.jsonl.zst.tmp"):
            (folder / name).write_bytes(b"{}")
        # Of its row nothing is left, but items still name it.
        (folder / "of-items.jsonl.zst").write_bytes(b"")
        await one.run("UPDATE pruned_items SET archive = 'of-items.jsonl.zst' WHERE position = 1")
        await one.run("UPDATE archives SET items = items - 1")

        swept = await one.sweep()

        assert swept.removed_archives == 2
        assert {file.name for file in one.files()} == kept | {"of-items.jsonl.zst"}


async def test_an_archive_goes_when_its_time_is_over_its_items_first(tmp_path: Path) -> None:
    async with store(tmp_path / "state", keep=NO_AUDIT_END) as one:
        said = await _archived(one, STEP_ITEMS + 20)
        one.later(364.9)
        assert (await one.sweep()).is_idle
        one.later(0.1)

        kept = await one.sweep()

        assert (kept.purged_items, kept.removed_archives) == (len(said), 1)
        assert one.files() == []
        assert await one.rows("SELECT * FROM archives") == []
        assert set((await one.states()).values()) == {"purged"}
        restored = await one.give_back(said[0])
        assert [(no.item_id, no.reason) for no in restored.refused] == [
            ("000000000001", "it is gone: the time in which it could be given back is over")
        ]
    assert disagreements(one.path, one.texts, swept=True) == []


async def test_what_was_given_back_does_not_go_with_its_archive(tmp_path: Path) -> None:
    async with store(tmp_path / "state", keep=NO_AUDIT_END) as one:
        said = await _archived(one, 4)
        await one.give_back(*said[:2])
        one.later(365)

        kept = await one.sweep()

        assert kept.purged_items == 2
        assert list((await one.states()).values()) == ["restored"] * 2 + ["purged"] * 2
        assert (await one.present())[:2] == said[:2]
    assert disagreements(one.path, one.texts, swept=True) == []


async def test_an_archive_is_kept_as_long_as_the_settings_say_now(tmp_path: Path) -> None:
    async with store(tmp_path / "state") as one:
        await _archived(one)
        one.keeping.settings = replace(NO_AUDIT_END, archive_s=None)
        one.later(5_000)
        assert (await one.sweep()).is_idle
        assert await one.rows("SELECT purge_at FROM archives") == [(None,)]

        one.keeping.settings = replace(KEEP, archive_s=5_000 * DAY_S)
        assert (await one.sweep()).removed_archives == 1


async def test_a_forgotten_session_leaves_no_trace_in_any_file_and_others_stay(
    tmp_path: Path,
) -> None:
    async with store(tmp_path / "state") as one:
        mine, theirs = await one.say("gone", 4), await one.say("stays", 5)
        await one.take(mine[0], mine[1], theirs[0], theirs[1], action="archive")
        one.later(7)
        await one.sweep()
        await one.take(mine[2], theirs[2], action="archive")
        await one.take(mine[3], theirs[3], action="delete")
        await one.give_back(mine[0])
        (before,) = one.files()

        await forget_sessions(one.archives, ["gone"])
        await one.run("DELETE FROM messages WHERE session_id = 'gone'")

        (after,) = one.files()
        assert after.name != before.name
        assert [line["item"] for line in lines_of(after)] == theirs[:2]
        assert b"gone" not in b"".join(repr(line).encode() for line in lines_of(after))
        entries = await one.rows("SELECT DISTINCT session_id FROM pruned_items")
        assert entries == [("stays",)]
        restored = await one.give_back(session="stays")
        assert [int(item.item_id) for item in restored.items] == theirs[:4]
        texts = {item: one.texts[item] for item in theirs}
    assert disagreements(one.path, texts, swept=True) == []


async def test_a_file_of_forgotten_sessions_alone_goes(tmp_path: Path) -> None:
    async with store(tmp_path / "state") as one:
        await _archived(one, 3, "gone")

        await forget_sessions(one.archives, ["gone"])

        assert one.files() == []
        assert await one.rows("SELECT * FROM archives") == []
        assert await one.rows("SELECT * FROM pruned_items") == []


async def test_a_damaged_file_keeps_what_a_session_has_in_it_and_is_told(tmp_path: Path) -> None:
    async with store(tmp_path / "state") as one:
        await _archived(one, 3, "gone")
        await one.say("stays", 2)
        (file,) = one.files()
        await one.run("UPDATE archives SET sha256 = ''")
        await one.run("UPDATE pruned_items SET session_id = 'stays' WHERE position = 1")

        with pytest.raises(DamagedDataError) as told:
            await forget_sessions(one.archives, ["gone"])

        assert told.value.path == file
        assert file.exists()
        assert set((await one.states()).values()) == {"archived", "purged"}
        # And each sweep tells it again, and goes on with the rest.
        kept = await one.sweep()
        assert kept.problems == (f"{file}: not as it was written: its SHA-256 is another",)


async def test_a_file_whose_going_was_cut_off_goes_before_an_erasure_is_done(
    tmp_path: Path,
) -> None:
    async with store(tmp_path / "state") as one:
        said = await _archived(one, 3, "gone")
        # A crash came when some of its items no longer named it.
        (name,) = (file.name for file in one.files())
        await one.database.write(lambda tx: archives.let_go(tx, name))
        await one.database.write(lambda tx: archives.purge(tx, name, said[:2]))

        await forget_sessions(one.archives, ["gone"])

        assert one.files() == []
        assert await one.rows("SELECT * FROM pruned_items") == []


class Interrupting(SystemDisk):
    """A disk that lets something else happen right after an archive file is in place."""

    def __init__(self) -> None:
        self.then: Callable[[], Coroutine[Any, Any, None]] | None = None

    @override
    def rename(self, path: Path, name: Path) -> None:
        super().rename(path, name)
        then, self.then = self.then, None
        if then is not None:
            from_thread.run(then)


async def test_what_is_erased_while_it_is_archived_is_in_no_file_after_that(
    tmp_path: Path,
) -> None:
    disk = Interrupting()
    async with store(tmp_path / "state", disk=disk) as one, anyio.create_task_group() as tasks:
        gone, stays = await one.say("gone", 3), await one.say("stays", 4)
        await one.take(*gone, *stays[:3], action="archive")
        one.later(7)
        forgotten = anyio.Event()

        async def forget() -> None:
            await forget_sessions(one.archives, ["gone"])
            forgotten.set()

        async def erase() -> None:
            tasks.start_soon(forget)
            # Its transaction is done, and it waits for the file.
            while await one.rows("SELECT 1 FROM pruned_items WHERE session_id = 'gone'"):
                await anyio.lowlevel.checkpoint()
            assert len(one.files()) == 1
            assert not forgotten.is_set()

        disk.then = erase
        assert (await one.archives.store_due(one.clock.now(), None)).items == 6
        assert [line["item"] for file in one.files() for line in lines_of(file)] == stays[:3]
        await forgotten.wait()
        await one.run("DELETE FROM messages WHERE session_id = 'gone'")
        texts = {item: text for item, text in one.texts.items() if item not in gone}
    assert disagreements(one.path, texts, swept=True) == []


class Full(SystemDisk):
    """A disk with no room for files, though there is some for the database."""

    def __init__(self) -> None:
        self.left = 0

    @override
    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        if self.left <= 0:
            raise OSError(errno.ENOSPC, "no space left")
        self.left -= 1
        return super().write(descriptor, data)


@pytest.mark.parametrize("left", [0, 1])
async def test_what_there_is_no_room_for_stays_held_and_the_sweep_goes_on(
    tmp_path: Path, left: int
) -> None:
    async with store(tmp_path / "state") as one:
        said = await one.say("s", 1_002, chars=3_000)
        await one.take(*said[:1_000], action="archive")
        await one.take(said[1_000], action="delete")
        one.later(7)
        full = Full()
        full.left = left
        archives_of = Archives(one.database, one.archives.path, full)
        keeping = Keeping(archives_of, one.clock, KEEP)

        kept = await keeping.work()

        assert (kept.archived_items, kept.purged_items) == (0, 1)
        (problem,) = kept.problems
        assert problem.endswith("no space left on the disk")
        assert [file.name for file in one.files()] == []
        assert set((await one.states()).values()) == {"held", "purged"}
        full.left = 1_000
        assert (await keeping.work()).archived_items == 1_000
    assert disagreements(one.path, one.texts, swept=True) == []


class Altering(SystemDisk):
    """A disk on which the next byte that is written comes to be another."""

    def __init__(self, *, alters: bool) -> None:
        self.alters = alters

    @override
    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        if not self.alters:
            return super().write(descriptor, data)

        self.alters = False
        return super().write(descriptor, bytes([data[0] ^ 1]) + bytes(data[1:]))


async def test_what_cannot_be_read_back_is_not_let_go_of(tmp_path: Path) -> None:
    async with store(tmp_path / "state", disk=Altering(alters=False)) as one:
        said = await one.say("s", 5)
        await one.take(*said[:4], action="archive")
        one.later(7)
        assert isinstance(one.archives.disk, Altering)
        one.archives.disk.alters = True

        kept = await one.keeping.work()

        (file,) = one.files()
        assert kept.problems == (f"{file}: not as it was written: its SHA-256 is another",)
        assert set((await one.states()).values()) == {"held"}
        again = await one.keeping.work()
        assert again.archived_items == 4
        # Nothing is in the one that was damaged.
        assert (await one.sweep()).problems == ()
        assert len(one.files()) == 1
    assert disagreements(one.path, one.texts, swept=True) == []


async def test_a_large_file_is_written_and_read_in_little_memory(tmp_path: Path) -> None:
    async with store(tmp_path / "state") as one:
        said = await one.say("s", 401, chars=100_000)
        await one.take(*said[:-1], action="archive")
        one.later(7)
        tracemalloc.start()
        try:
            assert (await one.sweep()).archived_items == 400
            assert len((await one.give_back(said[0], said[399])).items) == 2
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    # 40 MB went through it.
    assert peak < 8_000_000
