"""State directories to back up, check and salvage, and what is done to them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import apsw
import orjson

from gateway.durable.pages import open_checked
from tests.support.state import open_state, power_cut
from tests.support.turns import running_turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.upkeep.findings import Level, Report

Look = dict[str, tuple[int, int, int, int]]


_MADE: Final[dict[str, dict[str, bytes]]] = {}
"""The files of the states that `used_state` gives, made once."""


async def used_state(path: Path, *, killed: bool = False) -> Path:
    """Give a state of three chats: one talked in, one reset and undone, one reset.

    `killed` leaves it as a process that died would, its newest changes in no snapshot.
    """
    if not _MADE:
        with TemporaryDirectory() as folder:
            await _make(Path(folder) / "state")
            for left in Path(folder).iterdir():
                _MADE[left.name] = {one.name: one.read_bytes() for one in left.iterdir()}
    path.mkdir(mode=0o700)
    for name, data in _MADE["state-killed" if killed else "state"].items():
        (path / name).write_bytes(data)
        (path / name).chmod(0o600)
    return path


async def _make(path: Path) -> None:
    async with running_turns(path) as bench:
        for number, chat in enumerate(("ann", "bob", "cid", "ann")):
            await bench.say(f"hello {number}", chat, message_id=f"m{number}")
        store = bench.state.store
        await store.reset(bench.entry("bob").session_key)
        await store.undo(bench.entry("bob").session_key)
        await store.snapshots.write()
        await bench.say("more", "bob")
        await store.snapshots.write()
        await store.reset(bench.entry("cid").session_key)
        await bench.say("last", "ann", message_id="last")
        power_cut(bench.state, path.with_name("state-killed"))


async def shown_entries(path: Path) -> dict[str, tuple[str, int]]:
    """Return session id and turns of each entry, as a start has them."""
    async with open_state(path) as state:
        return {
            one.session_key: (one.session_id, one.turns) for one in state.store.entries(limit=1000)
        }


def change(path: Path, *statements: str) -> None:
    """Change a database as nothing of ours would."""
    with closing(open_checked(path / "gateway.db", apsw.SQLITE_OPEN_READWRITE)) as connection:
        for statement in statements:
            connection.execute(statement)


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Write into the middle of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def edit(path: Path, change_it: Callable[[dict[str, object]], None]) -> None:
    """Change `sessions.json` as a person would: without its check sum."""
    file = path / "sessions.json"
    document = orjson.loads(file.read_bytes())
    del document["check"]
    change_it(document)
    file.write_bytes(orjson.dumps(document))


def look(path: Path) -> Look:
    """Return inode, size, mode and time of the last change of everything in a directory."""
    return {
        str(one.relative_to(path)): (
            one.stat().st_ino,
            one.stat().st_size,
            one.stat().st_mode,
            one.stat().st_mtime_ns,
        )
        for one in (path, *sorted(path.rglob("*")))
    }


def found(report: Report, level: Level) -> list[str]:
    """Return the findings of a level, as `check: text`."""
    return [f"{one.check}: {one.text}" for one in report.findings if one.level is level]
