"""The laws of contexts over played sessions that are summarised again and again, and stopped.

Whatever happens, a request fits, has each call with its result and the user's message whole, and
begins with what was sent before unless something is told to have changed it; a restart finds the
same; the transcript has every word. `tests/turns/test_contexts_property.py` has it without tools
that fill the window.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from gateway.agents.scripted import Reply
from gateway.clock import FakeClock
from gateway.context.estimate import estimate_context_chars, message_chars
from gateway.context.settings import ContextSettings
from gateway.errors import AgentError, AgentFailure, ConflictError
from gateway.model import Message, Role, ToolCall, Usage
from gateway.transcripts.summaries import newest
from gateway.turns.memory import load_context
from tests.support.loops import Looped, counted, is_extension, is_paired, transcript
from tests.support.toolbox import TestToolbox
from tests.support.turns import Bench, running_turns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gateway.agents.scripted import Step

TURNS: Final = 50
WINDOW_TOKENS: Final = 4_000
RESERVE_TOKENS: Final = 1_000
ROOM_CHARS: Final = 4 * (WINDOW_TOKENS - RESERVE_TOKENS)
_DOUBT: Final = 1.05
"""How much is counted of a character is taken from counts that are off by a few tokens."""


@dataclass(slots=True)
class Played:
    """A session that is played by chance, and what is checked of it."""

    chance: random.Random
    clock: FakeClock = field(default_factory=FakeClock)
    agent: Looped = field(init=False)
    bench: Bench | None = None
    text: str = ""
    """What the user has said last."""
    sent: tuple[Message, ...] = ()
    """The last request."""
    changes: tuple[int, ...] = ()
    """What had been changed by then."""
    said: list[Message] = field(default_factory=list)
    """The transcript."""
    seen: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.agent = Looped(
            self._step,
            TestToolbox({"look": self._look}),
            window_tokens=WINDOW_TOKENS,
            reserve_tokens=RESERVE_TOKENS,
            clock=self.clock,
        )

    def settings(self) -> ContextSettings:
        chance = self.chance
        pruning = {
            "mode": chance.choice(["cache-ttl", "cache-ttl", "off", "always"]),
            "soft_trim_ratio": 0.2,
            "hard_clear_ratio": 0.4,
            "keep_last_assistants": chance.randint(0, 3),
            "min_prunable_tool_chars": 0,
            "min_saving_tokens": chance.choice([0, 50]),
            "soft_trim": {"max_chars": 400, "head_chars": 100, "tail_chars": 100},
        }
        compaction = {
            "keep_turns": chance.randint(0, 4),
            "summary_chars": chance.choice([500, 2_000]),
            "fill_ratio": chance.choice([0.3, 0.5, 0.9]),
        }
        return ContextSettings.model_validate({"pruning": pruning, "compaction": compaction})

    async def turn(self, bench: Bench) -> None:
        """Let some time pass, say something, and look at what is stored."""
        self.bench, chance = bench, self.chance
        self.clock.step_wall(timedelta(seconds=chance.choice([0, 1, 299, 300])))
        summaries: list[str | AgentError] = ["s" * 300, "s" * 300, "", AgentError("it is silent")]
        self.agent.summary = chance.choice(summaries)
        if self.said and chance.random() < 0.1:
            await self._compact_by_hand(bench)
        self.text = chance.choice("uvw") * chance.choice([1, 30, 300, 1_500, 9_000])
        reply = await bench.say(self.text)
        self.seen[reply.status] += 1
        assert reply.status == "ok" or "!" in reply.text or "larger" in reply.text, reply.text
        await self._check_database(bench)

    async def _compact_by_hand(self, bench: Bench) -> None:
        await anyio.wait_all_tasks_blocked()
        try:
            done = await bench.turns.compact(bench.entry().session_key)
        except ConflictError:
            return

        self.seen["by hand"] += done.summary is not None

    async def _check_database(self, bench: Bench) -> None:
        """Check what a restart would find."""
        session_id = bench.entry().session_id
        loaded = await load_context(bench.state.database, session_id, max_chars=4 * ROOM_CHARS)
        context = loaded.counted
        if self._is_unchanged():
            assert is_extension(context.messages, self.sent)
        assert is_paired(context.messages)
        assert context.sizes == [message_chars(one) for one in context.messages]
        assert context.chars == sum(context.sizes)
        summary = await bench.state.database.read(lambda conn: newest(conn, session_id))
        assert (context.summary is not None) is (summary is not None)
        said = await transcript(bench)
        assert said[: len(self.said)] == self.said
        self.said = said
        kept = context.messages[context.begins :]
        for one, now in zip(reversed(said), reversed(kept), strict=False):
            assert replace(now, text=one.text, images=one.images) == one
            assert now.text == one.text or one.role is Role.TOOL

    def _is_unchanged(self) -> bool:
        return self._changed() == self.changes

    def _changed(self) -> tuple[int, ...]:
        assert self.bench is not None
        contexts = self.bench.turns.contexts
        return contexts.telling.rounds, contexts.telling.compactions["done"]

    def _step(self, messages: Sequence[Message]) -> Step:
        """Check a request, and answer it by chance."""
        sent, chance = tuple(messages), self.chance
        self._check_request(sent)
        self.sent, self.changes = sent, self._changed()
        asked = chance.random()
        if asked < 0.05:
            raise AgentError("out", user_text="out!", failure=AgentFailure.OUTAGE)
        if asked < 0.1 and len(sent) > 1:
            self.seen["overflows"] += 1
            raise AgentError("large", user_text="large!", failure=AgentFailure.OVERFLOW)

        calls: tuple[ToolCall, ...] = ()
        if chance.random() < 0.5:
            sizes = [
                chance.choice([5, 300, 1_000, 4_000, 40_000])
                for _ in range(chance.choice([1, 1, 3]))
            ]
            calls = tuple(ToolCall("", "look", f'{{"chars": {size}}}') for size in sizes)
        usage = chance.choice([counted(sent), None])
        return Reply(("a" * chance.choice([1, 100]),), usage and self._noisy(usage), calls)

    def _noisy(self, usage: Usage) -> Usage:
        return Usage(usage.input_tokens + self.chance.randint(0, 30), 1)

    def _check_request(self, sent: tuple[Message, ...]) -> None:
        assert is_paired(sent)
        assert estimate_context_chars(sent) <= _DOUBT * ROOM_CHARS
        texts = [one.text for one in sent if one.role is Role.USER]
        assert texts[-1] == self.text
        self.seen["requests"] += 1
        self.seen["summarised"] += _is_summary(sent[0])
        if is_extension(sent, self.sent):
            self.seen["extended"] += 1
        elif self._is_unchanged():
            self._check_difference(sent)

    def _check_difference(self, sent: tuple[Message, ...]) -> None:
        """Check that turns have left, or that tool results of this one were made shorter."""
        if _first(sent).turn_id != _first(self.sent).turn_id:
            self.seen["left out"] += 1
            return

        for one, now in zip(self.sent, sent, strict=False):
            if one != now:
                assert (now.role, now.turn_id) == (Role.TOOL, sent[-1].turn_id)
                assert message_chars(now) < message_chars(one)
                self.seen["cut"] += 1

    async def _look(self, chars: int) -> str:
        await anyio.lowlevel.checkpoint()
        return "r" * chars


def _first(sent: Sequence[Message]) -> Message:
    return next(one for one in sent if not _is_summary(one))


def _is_summary(message: Message) -> bool:
    return message.role is Role.USER and message.text.startswith("[Summary of")


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_requests_fit_and_are_as_the_ones_before(
    tmp_path: Path, seed: int
) -> None:
    played, turns = Played(random.Random(seed)), 0
    while turns < TURNS:
        async with running_turns(
            tmp_path / "state", played.agent.agent, clock=played.clock
        ) as bench:
            bench.turns.contexts.settings = played.settings()
            played.changes = (0, 0)
            for _ in range(played.chance.randint(1, 12)):
                await played.turn(bench)
                turns += 1
            played.seen["refused"] += bench.turns.contexts.telling.compactions["failed"]
            played.seen["done"] += bench.turns.contexts.telling.compactions["done"]

    seen = played.seen
    assert min(seen["done"], seen["refused"], seen["extended"], seen["ok"]) >= 3, seen
    assert min(seen["left out"], seen["cut"], seen["overflows"]) >= 1, seen
    assert seen["summarised"] > 10, seen
