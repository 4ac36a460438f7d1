"""Laws of a large store: it is pruned at start to exactly the right set, and messages go on."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from gateway.access.pairing import Pairing
from gateway.agents.echo import EchoAgent
from gateway.agents.settings import EchoSettings
from gateway.clock import SystemClock
from gateway.model import Inbound, SessionKey
from gateway.processes.active import ActiveProcesses
from gateway.retention.discarding import discard_old
from gateway.sessions.settings import SessionSettings
from gateway.turns.pipeline import Turns
from gateway.turns.settings import TurnSettings
from gateway.watcher import ExpiryWatcher, RetentionLimits
from tests.support.daemon import running_daemon
from tests.support.disk import disk_in_memory
from tests.support.state import import_file, key_of, open_state, shown, source
from tests.support.turns import MAIN

if TYPE_CHECKING:
    from pathlib import Path


ENTRIES: Final = 100_000
STALE: Final = range(0, ENTRIES, 2)
FRESH: Final = range(1, ENTRIES, 2)
SUSPENDED: Final = range(0, 2_000, 2)
"""All of them stale."""
ACTIVE: Final = range(2_000, 3_000, 2)
"""Stale as well, with a live process each."""
STALL_S: Final = 0.5
"""Longest that a message may wait for its answer meanwhile: some tens of ms on a quiet machine;
looking at all entries at once takes over a second."""


def _chat(number: int) -> str:
    return f"chat-{number:06}"


def _key(number: int) -> SessionKey:
    """Return what `key_of` would, quickly."""
    return SessionKey(f"agent:main:http::dm:{_chat(number)}::")


def _keys(numbers: range) -> set[SessionKey]:
    return set(map(_key, numbers))


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


@pytest.mark.alone
async def test_in_one_process_exactly_the_stale_ones_go_while_messages_are_answered() -> None:
    with disk_in_memory() as path:
        await _prune_while_messages_are_answered(path / "state")


async def _prune_while_messages_are_answered(path: Path) -> None:
    clock = SystemClock()
    _import(path, clock.now())
    processes = ActiveProcesses(clock, 3_600.0)
    for number in ACTIVE:
        processes.begun(_key(number), f"process-{number}", clock.now())
    agents = {MAIN: EchoAgent(EchoSettings(), clock)}
    # Wired as the daemon wires them.
    with anyio.fail_after(30):
        async with open_state(path, clock) as state:
            database, store = state.database, state.store
            turns = Turns(
                database, store, agents, lambda _: MAIN, clock, TurnSettings(), SessionSettings()
            )
            store.is_busy = turns.is_busy
            store.on_dropped = turns.forget
            store.has_active_processes = processes.has_active_for_session
            pairing = await Pairing.load(database, clock)
            discard = partial(discard_old, database, clock, pairing)
            watcher = ExpiryWatcher(store, database, clock, RetentionLimits(90, 0), discard)
            assert len(store) == ENTRIES
            async with anyio.create_task_group() as group:
                await group.start(watcher.run)
                await group.start(turns.run)
                chats = cycle(["newcomer", _chat(FRESH[0]), _chat(FRESH[-1])])
                answered, longest_s = 0, 0.0
                while not watcher.statistics().prunes:
                    began = clock.monotonic()
                    ticket = await turns.submit(Inbound(source(next(chats)), f"{answered}"))
                    assert (await ticket.progress.reply()).text == f"{answered}"
                    longest_s = max(longest_s, clock.monotonic() - began)
                    answered += 1
                group.cancel_scope.cancel()
            report = store.statistics().last_prune

    assert answered > 3
    assert longest_s < STALL_S
    assert report is not None
    assert report.pruned == len(STALE) - len(SUSPENDED) - len(ACTIVE)
    assert report.kept_by_reason == {"active_process": len(ACTIVE), "suspended": len(SUSPENDED)}
    protected = _keys(SUSPENDED) | _keys(ACTIVE)
    assert set(shown(path)) - {key_of("newcomer")} == (
        _keys(range(ENTRIES)) - (_keys(STALE) - protected)
    )
