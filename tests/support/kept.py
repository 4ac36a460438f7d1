"""What pruning took, in a database and its archive; and whether the two agree on where it is."""

from __future__ import annotations

import hashlib
import io
import stat
from collections import defaultdict
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import orjson
import zstandard

from gateway.clock import Clock, FakeClock
from gateway.durable.database import Database
from gateway.durable.disk import SYSTEM_DISK, Disk
from gateway.durable.inspecting import reading
from gateway.model import Message, Role, SessionId, TurnId
from gateway.pruning import PrunedItem, Totals
from gateway.pruning.rules import ArchiveAction, CompactAction, DeleteAction, SummarizeAction
from gateway.pruning.store import Change
from gateway.retention.archiving import FOLDER, Archives
from gateway.retention.items import SqliteItemStore
from gateway.retention.keeping import Keeping, Kept
from gateway.retention.restoring import Restorable, Restored, restore
from gateway.retention.settings import KeepSettings
from gateway.sessions.history import stamp
from gateway.transcripts.items import item_id
from gateway.transcripts.writing import append_messages

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from gateway.durable.batch import Transaction
    from gateway.durable.connection import Connection
    from gateway.pruning.rules import Action

DAY_S: Final = 86_400.0
KEEP: Final = KeepSettings(
    grace_s=7 * DAY_S,
    archive_s=365 * DAY_S,
    audit_s=365 * DAY_S,
    removed_sessions_s=365 * DAY_S,
)
ACTIONS: Final[dict[str, Action]] = {
    "delete": DeleteAction(),
    "archive": ArchiveAction(),
    "compact": CompactAction(0.5),
    "summarize": SummarizeAction(10),
}
_REMOVED: Final = "action IN ('delete', 'archive')"
_WITH_ORIGINALS: Final = "pruned_items LEFT JOIN pruned_originals ON entry = position"


@dataclass(frozen=True, slots=True)
class Store:
    """A database with its archive, and everything that works on what was pruned."""

    path: Path
    database: Database
    clock: Clock
    items: SqliteItemStore
    archives: Archives
    keeping: Keeping
    texts: dict[int, str] = field(default_factory=dict)
    """What every message said, by its position, also of those that are gone."""

    async def say(self, session: str, count: int = 1, *, chars: int = 100) -> list[int]:
        """Store messages of a session, each a turn; return their positions."""
        at = stamp(self.clock.now())

        def work(transaction: Transaction) -> dict[int, str]:
            transaction.execute(
                "INSERT OR IGNORE INTO sessions (session_id, session_key, started_at) "
                "VALUES (?, ?, ?)",
                (session, f"agent:main:http::dm:{session}::", at),
            )
            said = {}
            for number in range(count):
                # When it is said stands in it as well.
                when = int(self.clock.now().timestamp())
                text = f"{session} {len(self.texts) + number} {when} ä ".ljust(chars, "x")
                one = Message(Role.USER, text, turn_id=TurnId(f"{session}-{number}"))
                append_messages(transaction, SessionId(session), [one], at=at)
                (row,) = transaction.execute("SELECT max(position) FROM messages").fetchall()
                said[int(str(row[0]))] = text
            return said

        said = await self.database.write(work)
        self.texts.update(said)
        return list(said)

    async def end(self, *sessions: str) -> None:
        """Let sessions end now."""
        at = stamp(self.clock.now())
        for one in sessions:
            await self.run("UPDATE sessions SET ended_at = ? WHERE session_id = ?", at, one)

    async def take(self, *positions: int, action: str = "delete", run: str = "run") -> None:
        """Prune items, as a run of a rule does."""
        found = await self.items.find([item_id(one) for one in positions])
        changes = [self._change(found[item_id(one)], action, run) for one in positions]
        assert not (await self.items.commit(changes)).stale

    def _change(self, item: Any, action: str, run: str) -> Change:  # noqa: ANN401 - an item
        content = None if action in {"delete", "archive"} else f"{action} {item.content[:20]}"
        after = (
            None if content is None else replace(item, content=content, metadata={"pruning": {}})
        )
        record = PrunedItem(
            run_id=run,
            item_id=item.id,
            session_id=item.session_id,
            type=item.type,
            rule_id="rule",
            rule_name="Rule",
            action=ACTIONS[action],
            reason="age 2d > 1d",
            observed=(),
            before=Totals(1, item.size_bytes, item.token_count),
            after=Totals(),
            at=self.clock.now(),
        )
        return Change(item.id, item.version, ACTIONS[action], after, record, record.at, run)

    async def give_back(
        self, *positions: int, run: str | None = None, session: str = ""
    ) -> Restored:
        """Restore items, a run or a session."""
        which = Restorable([str(one) for one in positions], run, (session,) if session else ())
        return await restore(self.archives, self.clock, which)

    async def sweep(self) -> Kept:
        """Sweep until there is no more to do; return what was done."""
        kept = await self.keeping.work()
        while kept.more:
            kept = Kept(**{**_fields(kept), "more": False}).plus(await self.keeping.work())
        return kept

    async def run(self, sql: str, *bindings: object) -> None:
        """Change the database behind the gateway's back."""
        await self.database.write(lambda tx: tx.execute(sql, bindings).fetchall())

    async def rows(self, sql: str, *bindings: object) -> list[Any]:
        """Read the database as it is."""
        return await self.database.read(lambda place: place.execute(sql, bindings).fetchall())

    async def states(self) -> dict[int, str]:
        """Return what became of each item that was taken, by its position; the last of each."""
        rows = await self.rows("SELECT item, state FROM pruned_items ORDER BY position")
        return {int(item): str(state) for item, state in rows}

    async def present(self) -> list[int]:
        """Return the positions of the messages that are there."""
        return [row[0] for row in await self.rows("SELECT position FROM messages ORDER BY 1")]

    def files(self) -> list[Path]:
        """Return the files of the archive."""
        folder = self.path / FOLDER
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def later(self, days: float) -> None:
        """Let time pass."""
        assert isinstance(self.clock, FakeClock)
        self.clock.step_wall(timedelta(days=days))


def _fields(kept: Kept) -> dict[str, Any]:
    return {name: getattr(kept, name) for name in Kept.__slots__}


@asynccontextmanager
async def store(
    path: Path,
    *,
    keep: KeepSettings = KEEP,
    clock: Clock | None = None,
    disk: Disk = SYSTEM_DISK,
    max_content_bytes: int = 1 << 26,
) -> AsyncGenerator[Store]:
    """Open a state directory's database and archive; made if need be."""
    path.mkdir(mode=0o700, exist_ok=True)
    clock = clock or FakeClock()
    with anyio.fail_after(120):
        async with Database.open(path / "gateway.db", clock, disk) as database:
            items = SqliteItemStore(database, clock, lambda: keep.grace_s)
            archives = Archives(database, path / FOLDER, disk, max_content_bytes=max_content_bytes)
            yield Store(path, database, clock, items, archives, Keeping(archives, clock, keep))


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Return the lines of an archive file, read without the gateway."""
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as content:
        return [orjson.loads(line) for line in io.BufferedReader(content)]


def disagreements(
    path: Path, texts: Mapping[int, str], *, swept: bool = False, live: bool = False
) -> list[str]:
    """Return where items, audit and archive of a state directory disagree.

    Every message ever stored is in exactly one place, where all of it can be read: in its
    transcript, held, in an archive file that is as it was written, or purged.

    Args:
        path: The state directory.
        texts: What each message said when it was stored, by its position.
        swept: Whether nothing may be left over: it was swept since the last crash.
        live: Whether somebody has it open.
    """
    with reading(path / "gateway.db", live=live) as connection:
        archived, faults = _archived(path / FOLDER, connection, swept=swept)
        faults += _entry_faults(connection, swept=swept)
        faults += _place_faults(connection, archived, texts)
        faults += _sum_faults(connection)
    return faults


def _archived(
    folder: Path, connection: Connection, *, swept: bool
) -> tuple[dict[tuple[str, int], Mapping[str, Any]], list[str]]:
    """Return the rows that files hold, by file and entry, and what is wrong with files."""
    found: dict[tuple[str, int], Mapping[str, Any]] = {}
    faults: list[str] = []
    named = set()
    for name, items, content_bytes, file_bytes, sha256 in connection.execute(
        "SELECT name, items, content_bytes, file_bytes, sha256 FROM archives"
    ):
        file = folder / str(name)
        named.add(str(name))
        if not file.exists():
            faults.append(f"{name}: is not there")
            continue
        data = file.read_bytes()
        if (hashlib.sha256(data).hexdigest(), len(data)) != (sha256, file_bytes):
            faults.append(f"{name}: not as it was written")
            continue
        if stat.S_IMODE(file.stat().st_mode) != 0o600:
            faults.append(f"{name}: mode {file.stat().st_mode:o}")
        lines = lines_of(file)
        size = sum(len(orjson.dumps(line)) + 1 for line in lines)
        if size != content_bytes:
            faults.append(f"{name}: {size} bytes, {content_bytes} are told")
        if swept:
            (told,) = connection.execute(
                "SELECT count(*) FROM pruned_items WHERE archive = ?", (name,)
            ).fetchall()[0]
            if told != items:
                faults.append(f"{name}: {items} items, {told} name it")
        found.update({(str(name), line["position"]): line["row"] for line in lines})
    there = {one.name for one in folder.iterdir()} if folder.is_dir() else set()
    if swept and there - named:
        faults.append(f"left over: {sorted(there - named)}")
    return found, faults


def _entry_faults(connection: Connection, *, swept: bool) -> list[str]:
    """Return entries whose columns do not say one and the same."""
    # Of an erased session an entry tells that a file still has something of it.
    erased = " OR archive IS NOT NULL" if swept else ""
    wrong = {
        "held": "original IS NULL OR due_at IS NULL OR archive IS NOT NULL",
        "archived": "original IS NOT NULL OR due_at IS NOT NULL OR archive IS NULL "
        "OR action <> 'archive' OR archive NOT IN (SELECT name FROM archives)",
        "purged": f"original IS NOT NULL OR due_at IS NOT NULL{erased}",
        "restored": "original IS NOT NULL OR due_at IS NOT NULL",
    }
    faults = [
        f"entry {position} of item {item} is not {state}"
        for state, condition in wrong.items()
        for position, item in connection.execute(
            f"SELECT position, item FROM {_WITH_ORIGINALS} WHERE state = ? AND ({condition})",  # noqa: S608 - texts of ours
            (state,),
        )
    ]
    states = connection.execute("SELECT DISTINCT state FROM pruned_items")
    faults += [f"a state {one}" for (one,) in states if one not in wrong]
    left = connection.execute(
        "SELECT entry FROM pruned_originals WHERE entry NOT IN (SELECT position FROM pruned_items)"
    )
    return faults + [f"the original of entry {entry}, which is not there" for (entry,) in left]


def _place_faults(
    connection: Connection,
    archived: Mapping[tuple[str, int], Mapping[str, Any]],
    texts: Mapping[int, str],
) -> list[str]:
    places: dict[int, list[str]] = defaultdict(list)
    faults = []
    shortened = {
        item
        for (item,) in connection.execute(
            f"SELECT item FROM pruned_items WHERE NOT {_REMOVED} AND state <> 'restored'"  # noqa: S608 - a text of ours
        )
    }
    for position, text in connection.execute("SELECT position, text FROM messages"):
        places[int(str(position))].append("there")
        if position not in shortened and texts.get(int(str(position))) != text:
            faults.append(f"item {position} says something else")
    for entry, number, state, archive, original in connection.execute(
        f"SELECT position, item, state, archive, original FROM {_WITH_ORIGINALS} "  # noqa: S608 - texts of ours
        f"WHERE {_REMOVED} AND state <> 'restored'"
    ):
        item = int(str(number))
        places[item].append(str(state))
        if state == "purged":
            continue
        held = state == "held"
        row = orjson.loads(original) if held else archived.get((str(archive), int(str(entry))))
        if row is None or row["position"] != item:
            faults.append(f"item {item} is not where it is said to be: {state}")
        elif item not in shortened and row["text"] != texts.get(item):
            faults.append(f"item {item} says something else: {state}")
    faults += [
        f"item {item} is in {len(places[item])} places: {places[item]}"
        for item in sorted({*texts, *places})
        if len(places[item]) != 1
    ]
    return faults


def _sum_faults(connection: Connection) -> list[str]:
    kept = connection.execute("SELECT * FROM item_totals ORDER BY 1, 2").fetchall()
    counted = connection.execute(
        "SELECT session_id, CASE role WHEN 'tool' THEN 'tool_result' ELSE 'message' END, count(*), "
        "sum(size_bytes), sum(tokens) FROM messages GROUP BY 1, 2 ORDER BY 1, 2"
    ).fetchall()
    return [] if kept == counted else ["the sums over items are not those of the messages"]
