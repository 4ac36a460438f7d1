"""What webhooks are told of turns, contexts and sessions: staged with it, and nothing of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from gateway.agents.base import TextDelta
from gateway.clock import FakeClock
from gateway.daemon.announcing import announced
from gateway.errors import AgentError
from gateway.webhooks.webhooks import Webhooks
from tests.support.state import open_state, power_cut
from tests.support.turns import PlayedAgent, running_turns
from tests.turns.test_pruning import TTL_S, Provider, agent_of, read_forty
from tests.webhooks.running import settings_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from gateway.agents.base import AgentEvent
    from gateway.durable.database import Database
    from gateway.model import Message
    from tests.support.turns import Bench

URL = "http://127.0.0.1:1/in"


def tell(bench: Bench, folder: Path, **settings: Any) -> None:  # noqa: ANN401 - keys of the table
    """Have a webhook told of what happens, that nobody posts."""
    table = settings_of(folder, URL, **settings)
    webhooks = Webhooks(bench.state.database, bench.clock, [table])
    assert announced(webhooks, bench.state.store, bench.turns) is webhooks


async def told(database: Database) -> list[dict[str, Any]]:
    rows = await database.read(
        lambda conn: conn.execute("SELECT body FROM webhook_events ORDER BY position").fetchall()
    )
    return [orjson.loads(str(body)) for (body,) in rows]


async def test_a_round_is_told_with_its_numbers_in_the_commit_that_stores_it(
    tmp_path: Path,
) -> None:
    clock = FakeClock()
    async with running_turns(tmp_path / "state", agent_of(Provider(clock)), clock=clock) as bench:
        tell(bench, tmp_path, events=["context.pruned"])
        await read_forty(bench)
        await clock.advance(TTL_S)
        await bench.say("cold")
        (event,) = await told(bench.state.database)
        entry = bench.entry()
        copy = power_cut(bench.state, tmp_path / "copy")
    async with open_state(copy) as state:
        after = await told(state.database)
        stored = await state.database.read(
            lambda conn: conn.execute("SELECT count(*) FROM projections").fetchall()
        )

    data = event["data"]
    assert event["type"] == "context.pruned"
    assert (data["session_key"], data["session_id"]) == (entry.session_key, entry.session_id)
    assert data["trimmed"] + data["cleared"] == 39
    assert data["tokens_before"] > 4 * data["tokens_after"]
    assert set(data) - {"session_key", "session_id"} == {
        *("reason", "trimmed", "cleared", "tokens_before", "tokens_after")
    }
    assert after == [event]
    assert stored[0][0] == 39


async def test_a_turn_is_told_with_how_it_ended_and_never_what_was_said(tmp_path: Path) -> None:
    async def fail(_: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        for text in ("canary",):
            raise AgentError(f"{text} of an error", user_text=f"a {text}")
            yield TextDelta(text)  # type: ignore[unreachable]

    async with running_turns(tmp_path / "state", PlayedAgent(fail)) as bench:
        tell(bench, tmp_path)
        reply = await bench.say("canary")
        (event,) = await told(bench.state.database)

    assert event["type"] == "turn.completed"
    assert event["data"] == {
        "session_key": reply.session_key,
        "session_id": reply.session_id,
        "turn_id": reply.turn_id,
        "agent": "main",
        "answered_by": "main",
        "platform": "http",
        "account": "",
        "status": "failed",
        "failure": "other",
        "usage": None,
        "usd": None,
        "model_calls": 0,
        "reply_chars": 8,
        "context_tokens": event["data"]["context_tokens"],
        "context_window_tokens": event["data"]["context_window_tokens"],
    }
    assert b"canary" not in orjson.dumps(event)


async def test_a_reset_is_told_in_the_commit_of_the_reset(tmp_path: Path) -> None:
    async with running_turns(tmp_path / "state") as bench:
        tell(bench, tmp_path, events=["session.reset"])
        before = (await bench.say("hello")).session_id
        fresh = await bench.state.store.reset(bench.entry().session_key)
        copy = power_cut(bench.state, tmp_path / "copy")
    async with open_state(copy) as state:
        (event,) = await told(state.database)

    assert event["data"] == {
        "session_key": fresh.session_key,
        "session_id": fresh.session_id,
        "previous_session_id": before,
        "reason": "manual",
        "turns": 1,
    }


async def test_a_session_that_leaves_the_store_is_told_with_the_rule(tmp_path: Path) -> None:
    clock = FakeClock()
    async with running_turns(tmp_path / "state", clock=clock) as bench:
        tell(bench, tmp_path, events=["session.pruned"])
        for chat in ("ann", "bob", "cid"):
            await bench.say("hello", chat)
            await clock.advance(3_600)
        await bench.turns.drain()
        store = bench.state.store
        await store.prune_old_entries(0, max_entries=2, dry_run=True)
        dry = await told(bench.state.database)
        await store.prune_old_entries(0, max_entries=2)
        await clock.advance(86_400)
        await store.prune_old_entries(0.5)
        events = await told(bench.state.database)

    assert dry == []
    assert [
        (one["data"]["session_key"].split(":")[5], one["data"]["reason"]) for one in events
    ] == [
        ("ann", "count"),
        ("bob", "age"),
        ("cid", "age"),
    ]


async def test_where_nobody_asks_nothing_is_called(tmp_path: Path) -> None:
    async with running_turns(tmp_path / "state") as bench:
        announced(Webhooks(bench.state.database, bench.clock, []), bench.state.store, bench.turns)
        hooks = (
            bench.state.store.lifecycle.on_reset,
            bench.state.store.on_pruned,
            bench.turns.contexts.keeping.on_pruned,
            bench.turns.hooks.on_commit,
        )

    assert hooks == (None, None, None, None)
