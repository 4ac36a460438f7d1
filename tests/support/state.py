"""A store on a real state directory, and the entries that tests put into it."""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from gateway.clock import Clock, FakeClock
from gateway.durable.database import Database
from gateway.durable.directory import StateDirectory, hold
from gateway.durable.disk import SYSTEM_DISK, Disk
from gateway.durable.files import Replacement
from gateway.model import AgentId, ChatType, SessionId, SessionKey, SessionSource
from gateway.sessions.entry import SessionEntry, display_name
from gateway.sessions.key import session_key
from gateway.sessions.policy import ResetPolicy
from gateway.sessions.settings import SessionSettings, StoreSettings
from gateway.sessions.snapshot import write_snapshot
from gateway.sessions.snapshots import discard_leftovers
from gateway.sessions.store import SessionStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from gateway.sessions.resolution import Resolution
    from gateway.sessions.table import EntryTable

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""Where a `FakeClock` starts."""
NEVER_RESET: Final = ResetPolicy()


@dataclass(frozen=True, slots=True)
class State:
    """An open state directory."""

    path: Path
    directory: StateDirectory
    database: Database
    store: SessionStore


@asynccontextmanager
async def open_state(
    path: Path,
    clock: Clock | None = None,
    settings: StoreSettings | None = None,
    *,
    disk: Disk = SYSTEM_DISK,
    kind: type[SessionStore] = SessionStore,
) -> AsyncGenerator[State]:
    """Hold a state directory with its database and store."""
    clock = clock or FakeClock()
    with hold(path, started_at=clock.now(), disk=disk) as directory:
        discard_leftovers(directory)
        async with (
            Database.open(path / "gateway.db", clock, disk) as database,
            kind.open(directory, database, clock, settings or StoreSettings()) as store,
        ):
            yield State(path, directory, database, store)


def power_cut(state: State, target: Path) -> Path:
    """Copy the directory as a process that died now would leave it."""
    return shutil.copytree(state.path, target)


def source(chat_id: str = "alice", chat_type: ChatType = ChatType.DM) -> SessionSource:
    return SessionSource(platform="http", chat_id=chat_id, chat_type=chat_type)


def key_of(chat_id: str = "alice", agent: str = "main") -> SessionKey:
    return session_key(source(chat_id), AgentId(agent), SessionSettings())


def entry(
    chat_id: str = "alice", *, agent: str = "main", updated_at: datetime = START, **changes: object
) -> SessionEntry:
    """Return an entry; its session id is `<agent>-<chat id>`."""
    origin = source(chat_id)
    made = SessionEntry(
        session_key=key_of(chat_id, agent),
        session_id=SessionId(f"{agent}-{chat_id}"),
        agent=AgentId(agent),
        created_at=min(START, updated_at),
        updated_at=updated_at,
        source=origin,
        display_name=display_name(origin),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


async def resolve(store: SessionStore, chat_id: str = "alice") -> Resolution:
    """Resolve a message of a chat, nothing being reset by time."""
    return await store.resolve(key_of(chat_id), source(chat_id), NEVER_RESET, lambda _: False)


async def create_all(store: SessionStore, entries: Iterable[SessionEntry]) -> None:
    for one in entries:
        await store.create(one)


def shown(path: Path) -> dict[str, dict[str, object]]:
    """Return the sessions that `sessions.json` shows, read as a dashboard would."""
    name = path / "sessions.json" if path.is_dir() else path
    sessions: dict[str, dict[str, object]] = orjson.loads(name.read_bytes())["sessions"]
    return sessions


def import_file(path: Path, content: object) -> Path:
    """Make a state directory that holds only a `sessions.json`; bytes are written as they are."""
    path.mkdir(mode=0o700, exist_ok=True)
    data = content if isinstance(content, bytes) else orjson.dumps(content)
    (path / "sessions.json").write_bytes(data)
    return path


async def write_table(path: Path, table: EntryTable, *, sequence: int = 0) -> None:
    """Write a snapshot with a right check sum, whatever its entries are."""
    replacement = Replacement(path)
    await write_snapshot(replacement, table, sequence=sequence, at=START)
    replacement.commit()
