"""Sessions that live side by side, for tests of what is left of one of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import zstandard

from gateway.model import AgentId, ModelCall, Summary, TurnId, Usage
from gateway.transcripts import inbox, summaries, usage
from gateway.turns.budgets import user_of
from tests.support.messages import commit_turn, inbox_row
from tests.support.state import START, key_of, resolve, source

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from gateway.model import SessionId
    from tests.support.state import State

CANARY: Final = "Canary7f3a"
"""The chat of a session that is erased; what is said there holds it."""


async def hold_turn(state: State, number: int, chat_id: str = "alice", text: str = "hello") -> None:
    """Store a turn of a chat."""
    row = inbox_row(number, chat_id, text=text)
    one = state.store.get(row.session_key)
    await state.database.write(lambda tx: inbox.accept(tx, row))
    await state.database.write(
        lambda tx: commit_turn(tx, row, f"re {text}", session_id=one.session_id if one else None)
    )


async def use(state: State, session_id: SessionId, user: str) -> None:
    """Count a call of a user, and keep a summary of the session."""
    calls = [(ModelCall("m", START, Usage(input_tokens=10)), 0.5)]
    summary = Summary(TurnId("t1"), 1, CANARY, AgentId("main"), "m", 10, 5)
    await state.database.write(lambda tx: usage.count(tx, session_id, "main", user, calls))
    await state.database.write(lambda tx: summaries.keep(tx, session_id, summary, at="x"))


def holding(path: Path, *texts: str) -> list[str]:
    """Return the files of a state directory that hold one of some texts, archives read as well."""
    found = []
    for one in path.rglob("*"):
        content = one.read_bytes() if one.is_file() else b""
        if one.suffix == ".zst":
            content = zstandard.ZstdDecompressor().decompressobj().decompress(content)
        if any(text.encode() in content for text in texts):
            found.append(one.name)
    return found


def holding_canary(path: Path) -> list[str]:
    """Return the files of a state directory that hold anything said in the erased session."""
    return holding(path, CANARY)


async def live(state: State, names: list[str], chance: random.Random) -> None:
    """Let sessions live side by side: turns, changes, resets, snapshots, trimmed logs."""
    for name in names:
        await resolve(state.store, name)
    for number in range(120):
        name = chance.choice(names)
        text = f"{name if name == CANARY else 'x'} " * chance.choice([1, 20, 900])
        await hold_turn(state, number, name, text)
        await state.store.update(
            key_of(name),
            lambda one, name=name: replace(one, turns=one.turns + 1, model=name),  # type: ignore[misc]
        )
        session_id = (await resolve(state.store, name)).entry.session_id
        if name == CANARY:
            await use(state, session_id, user_of(source(name)))
        if number % 20 == 7:
            await state.store.reset(key_of(name))
        if number % 15 == 3:
            await state.store.snapshots.write()
