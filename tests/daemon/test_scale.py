"""Laws of a large store: it is pruned at start to exactly the right set, and messages go on."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import anyio

from gateway.clock import SystemClock
from gateway.model import SessionKey
from gateway.processes.registry import ProcessRegistry
from gateway.watcher import ExpiryWatcher, RetentionLimits
from tests.support.daemon import running_daemon
from tests.support.state import import_file, key_of, open_state, shown

if TYPE_CHECKING:
    from pathlib import Path


ENTRIES: Final = 100_000
STALE: Final = range(0, ENTRIES, 2)
SUSPENDED: Final = range(0, 2_000, 2)
"""All of them stale."""
ACTIVE: Final = range(2_000, 3_000, 2)
"""Stale as well, with a live process each."""
STALL_S: Final = 0.5
"""Longest that loop and writer may be held: some tens of ms on a quiet machine; looking at all
entries at once takes over a second."""


def _chat(number: int) -> str:
    return f"chat-{number:06}"


def _key(number: int) -> SessionKey:
    """Return what `key_of` would, quickly."""
    return SessionKey(f"agent:main:http::dm:{_chat(number)}::")


def _keys(numbers: range) -> set[SessionKey]:
    return set(map(_key, numbers))


async def _discard_nothing() -> int:
    await anyio.lowlevel.checkpoint()
    return 0


def _import(path: Path, now: datetime) -> None:
    """Write a `sessions.json` as a backup or an import brings it."""
    assert _key(7) == key_of(_chat(7))
    fresh = (now - timedelta(days=89)).isoformat()
    stale = (now - timedelta(days=91)).isoformat()
    sessions = {}
    for number in range(ENTRIES):
        chat, key = _chat(number), _key(number)
        sessions[key] = {
            "session_key": key,
            "session_id": f"id-{number}",
            "created_at": stale,
            "updated_at": stale if number in STALE else fresh,
            "source": {"platform": "http", "chat_id": chat},
        }
        if number in SUSPENDED:
            sessions[key]["suspended_at"] = stale
    import_file(path, {"version": 1, "sessions": sessions})


async def test_a_hundred_thousand_sessions_are_pruned_at_start_while_messages_are_answered(
    tmp_path: Path,
) -> None:
    _import(tmp_path / "state", SystemClock().now())
    async with running_daemon(tmp_path / "state") as daemon:
        answered = 0
        while not daemon.log.of("session.pruned"):
            assert (await daemon.say("hello", "newcomer"))["reply"] == "hello"
            answered += 1
        report = daemon.log.of("session.pruned")[0]
        assert answered > 0
        assert report["pruned"] == len(STALE) - len(SUSPENDED)
        assert report["kept_by_reason"] == {"suspended": len(SUSPENDED)}

        newcomer = key_of("newcomer")
        kept = _keys(range(ENTRIES)) - (_keys(STALE) - _keys(SUSPENDED))
        assert set(shown(tmp_path / "state")) - {newcomer} == kept
        assert report["scanned"] == len(STALE)
        back = await daemon.say("back again", _chat(STALE[-1]))
        assert back["reset"]["reason"] == "pruned"
        assert back["reset"]["previous_session_id"] == f"id-{STALE[-1]}"
        assert (await daemon.say("hello", _chat(SUSPENDED[0])))["status"] == "paused"

    async with running_daemon(tmp_path / "state") as daemon:
        status = await daemon.get("/v1/status")
        assert status["store"]["entries"] == len(kept) + 2
        assert (await daemon.log.wait_for("session.pruned"))["pruned"] == 0


async def test_sessions_with_live_processes_are_kept_among_a_hundred_thousand(
    tmp_path: Path,
) -> None:
    clock = SystemClock()
    _import(tmp_path / "state", clock.now())
    processes = ProcessRegistry()
    for number in ACTIVE:
        processes.started(_key(number), f"process-{number}")
    async with open_state(tmp_path / "state", clock) as state:
        state.store.has_active_processes = processes.has_active_for_session
        watcher = ExpiryWatcher(
            state.store, state.database, clock, RetentionLimits(90, 0), _discard_nothing
        )
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                await group.start(watcher.run)
                longest_s = 0.0
                while not watcher.statistics().prunes:
                    before = clock.monotonic()
                    await state.database.ping()
                    longest_s = max(longest_s, clock.monotonic() - before)
                group.cancel_scope.cancel()
        assert longest_s < STALL_S

        report = state.store.statistics().last_prune
        assert report is not None
        assert report.kept_by_reason == {
            "active_process": len(ACTIVE),
            "suspended": len(SUSPENDED),
        }
        protected = _keys(SUSPENDED) | _keys(ACTIVE)
        assert set(shown(tmp_path / "state")) == _keys(range(ENTRIES)) - (_keys(STALE) - protected)
