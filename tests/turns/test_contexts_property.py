"""The law that prompt caches rest on, over real turns and a real database.

What was sent stays as it was sent, rounds and turns left out aside; a restart changes no byte; the
transcript is never touched. `tests/context/test_frozen.py` has the same over the pure functions.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import pytest

from gateway.agents.base import MessageFinished, ModelCallFinished, TextDelta
from gateway.clock import FakeClock
from gateway.context.estimate import estimate_context_chars, message_chars, tokens_of_chars
from gateway.context.projection import tool_item
from gateway.context.settings import ContextSettings, PruningSettings
from gateway.events import ContextPruned
from gateway.model import (
    Image,
    Message,
    ModelCall,
    Projection,
    ProjectionMode,
    Role,
    SessionId,
    ToolCall,
    TurnId,
    Usage,
)
from gateway.transcripts import projections
from gateway.transcripts.reading import messages_after
from gateway.transcripts.writing import append_messages
from gateway.turns.memory import load_context
from tests.context.conversations import sent_of, talk, user
from tests.support.database import opened_database
from tests.support.turns import PlayedAgent, running_turns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from gateway.agents.base import AgentEvent
    from gateway.turns.memory import SessionContext
    from tests.support.turns import Bench

TURNS: Final = 60
ANSWERS: Final = ("done", "NO_REPLY", "NO_REPLY", "x" * 80)


@dataclass(slots=True)
class Played:
    """A session that is played by chance, and what is checked of it."""

    chance: random.Random
    clock: FakeClock
    window: int
    agent: PlayedAgent = field(init=False)
    sent: tuple[Message, ...] = ()
    left_out: int = 0
    rounds: list[ContextPruned] = field(default_factory=list)
    rows: list[tuple[object, ...]] = field(default_factory=list)
    """Of the transcript, as the database has them."""
    seen: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.agent = PlayedAgent(
            self._play,
            context_window_tokens=self.window,
            reserve_tokens=self.window // 10,
            count=self._count,
        )

    def settings(self) -> ContextSettings:
        chance, sizes = self.chance, self.chance.choice([(60, 10, 10), (200, 0, 77), (150, 40, 0)])
        trim = dict(zip(("max_chars", "head_chars", "tail_chars"), sizes, strict=True))
        values = {
            "mode": chance.choice(["cache-ttl", "cache-ttl", "cache-ttl", "off"]),
            "soft_trim_ratio": chance.choice([0.0, 0.2]),
            "hard_clear_ratio": chance.choice([0.3, 0.5]),
            "keep_last_assistants": chance.randint(0, 4),
            "min_prunable_tool_chars": chance.choice([0, 300]),
            "min_saving_tokens": chance.choice([0, 20]),
            "soft_trim": trim,
            "hard_clear": {"enabled": chance.random() < 0.8, "placeholder": chance.choice("-+")},
        }
        return ContextSettings(pruning=PruningSettings.model_validate(values))

    async def turn(self, bench: Bench) -> None:
        """Let some time pass, say something, and hold the request against the one before."""
        self.clock.step_wall(timedelta(seconds=self.chance.choice([0, 1, 299, 300, 9_000])))
        rounds = len(self.rounds)
        reply = await bench.say("x" * self.chance.choice([1, 30, 200]))
        assert reply.status == "ok"
        sent, left_out = self.agent.contexts[-1], reply.context.turns_left_out
        if len(self.rounds) == rounds and left_out == self.left_out:
            assert sent[: len(self.sent)] == self.sent
            self.seen["extended"] += 1
        self.seen["rounds"] += len(self.rounds) - rounds
        self.seen["left out"] += left_out - self.left_out
        self.sent, self.left_out = self.agent.sent, left_out
        await self._check_database(bench)

    async def _check_database(self, bench: Bench) -> None:
        """Check what a restart would find, the turn included that has just been committed."""
        session_id = bench.entry().session_id
        loaded = await self._loaded(bench, session_id)
        context = loaded.counted
        assert tuple(context.messages[: len(self.sent)]) == self.sent
        assert context.left_out_turns == self.left_out
        assert context.sizes == [message_chars(one) for one in context.messages]
        assert context.chars == sum(context.sizes)

        said = await bench.state.database.read(
            lambda conn: list(messages_after(conn, session_id, 0))
        )
        plain = sent_of(said)[-len(context.messages) :]
        for one, now in zip(plain, context.messages, strict=True):
            if one.role is Role.TOOL:
                assert replace(now, text=one.text, images=one.images) == one
            else:
                assert now == one
        rows = await bench.state.database.read(
            lambda conn: conn.execute("SELECT * FROM messages ORDER BY position").fetchall()
        )
        assert rows[: len(self.rows)] == self.rows
        self.rows = rows

    async def _loaded(self, bench: Bench, session_id: SessionId) -> SessionContext:
        return await load_context(bench.state.database, session_id, max_chars=4 * self.window)

    def _count(self, sent: Sequence[Message]) -> Usage | None:
        tokens = tokens_of_chars(estimate_context_chars(sent)) + self.chance.randint(-20, 20)
        return self.chance.choice([Usage(input_tokens=max(0, tokens)), None])

    async def _play(self, messages: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        """Call tools by chance, and answer."""
        chance = self.chance
        for number in range(chance.choice([0, 1, 1, 2, 4])):
            # Some providers name every call alike.
            call_id = chance.choice(["call", f"call-{number}"])
            size = chance.choice([0, 5, 100, 300, 700])
            call = Message(Role.ASSISTANT, "", tool_calls=(ToolCall(call_id, "look", "{}"),))
            images = (Image("image/png", "aGk="),) * (chance.random() < 0.05)
            result = Message(
                Role.TOOL, chance.choice("ae\u0301🇩🇪") * size, (), call_id, "look", images=images
            )
            for one in (call, result):
                yield MessageFinished(one)
        text = chance.choice(ANSWERS)
        yield TextDelta(text)
        yield ModelCallFinished(ModelCall("played", self.clock.now(), None))
        yield MessageFinished(Message(Role.ASSISTANT, text))


@pytest.mark.parametrize("window", [1_000, 4_000])
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_what_was_sent_stays_as_it_was_over_rounds_and_restarts(
    tmp_path: Path, seed: int, window: int
) -> None:
    played = Played(random.Random(seed), FakeClock(), window)
    sessions = set()
    turns = 0
    while turns < TURNS:
        async with running_turns(tmp_path / "state", played.agent, clock=played.clock) as bench:
            played.seen["restarts"] += 1
            bench.turns.contexts.settings = played.settings()
            bench.turns.contexts.telling.events.subscribe(ContextPruned, played.rounds.append)
            for _ in range(played.chance.randint(1, 8)):
                await played.turn(bench)
                turns += 1
            sessions.add(bench.entry().session_id)

    seen, rounds = played.seen, played.rounds
    assert len(sessions) == 1
    assert min(seen["restarts"], seen["rounds"], seen["extended"]) >= 3, seen
    assert sum(one.trimmed for one in rounds) >= 3
    assert sum(one.cleared for one in rounds) >= 3
    assert (seen["left out"] > 0) or window > 1_000


async def test_of_a_session_too_large_to_be_read_the_rest_keeps_its_projections(
    tmp_path: Path,
) -> None:
    session_id, newest = SessionId("s"), tool_item(TurnId("t99"), "c0", 0)
    made = [Projection(newest, ProjectionMode.CLEAR, placeholder="[gone]")]
    async with opened_database(tmp_path) as database:
        await database.write(
            lambda tx: append_messages(tx, session_id, talk(100, 1_000), at="2026-01-01T00:00:00Z")
        )
        await database.write(
            lambda tx: projections.keep(tx, session_id, made, at="2026-01-01T00:00:00Z")
        )
        loaded = await load_context(database, session_id, max_chars=10_000)

    messages = loaded.counted.messages
    assert loaded.left_out is not None
    assert loaded.left_out.item == f"t{loaded.counted.left_out_turns - 1}"
    assert messages[0] == user(f"t{loaded.counted.left_out_turns}")
    assert loaded.counted.chars < 21_000
    assert [one.text for one in messages if one.role is Role.TOOL][-2:] == ["0" * 1_000, "[gone]"]
