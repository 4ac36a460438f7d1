"""Laws of a compaction by hand: all turns but the latest, while none runs, told as it was done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest
from typing_extensions import override

from gateway.context.settings import CompactionSettings, ContextSettings
from gateway.errors import AgentError, ConflictError, NotFoundError, StorageFullError
from gateway.model import ContextSource
from gateway.watcher import ExpiryWatcher, RetentionLimits
from tests.support.loops import (
    calls_made,
    counted,
    is_extension,
    summaries_of,
    transcript,
    users,
)
from tests.support.state import key_of
from tests.support.turns import (
    Gate,
    PlayedAgent,
    answer,
    echo,
    full_disk,
    reply_of,
    running_turns,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from gateway.agents.base import AgentEvent, Completion
    from gateway.model import ContextMeasurement, Message
    from gateway.turns.compacting import Compacted
    from tests.support.turns import Bench


class Waits(PlayedAgent):
    """Echoes, and writes a summary once it may."""

    def __init__(self, summary: str | AgentError = "They talked.", *, waits: bool = False) -> None:
        super().__init__(self._echo, summarise=self._write)
        self.summary = summary
        self.begun = anyio.Event()
        self.goes_on = anyio.Event()
        if not waits:
            self.goes_on.set()

    async def _echo(self, messages: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        for event in answer(f"re: {messages[-1].text}", counted(messages)):
            yield event

    def _write(self, _: Sequence[Message]) -> str:
        if isinstance(self.summary, AgentError):
            raise self.summary

        return self.summary

    @override
    async def complete(self, messages: Sequence[Message], *, cache_key: str = "") -> Completion:
        self.begun.set()
        await self.goes_on.wait()
        return await super().complete(messages, cache_key=cache_key)


async def talk(bench: Bench, letters: str = "abcdef") -> None:
    for letter in letters:
        await bench.say(letter * 500)


async def compact(bench: Bench) -> Compacted:
    with anyio.fail_after(30):
        return await bench.turns.compact(key_of())


async def test_all_turns_but_the_latest_are_summarised_and_the_next_request_uses_it(
    tmp_path: Path,
) -> None:
    agent = Waits()
    posted: list[tuple[str, str, ContextMeasurement]] = []
    async with running_turns(tmp_path / "state", agent) as bench:
        bench.turns.contexts.telling.post = lambda *one: posted.append(one)
        await talk(bench)
        before = bench.entry()
        assert before.cache_touched_at is not None
        done = await compact(bench)

        summary = done.summary
        assert summary is not None
        assert (summary.turns, summary.text, done.reason, len(done.calls)) == (
            3,
            "They talked.",
            "",
            1,
        )
        assert await summaries_of(bench) == [summary]
        # What stays is whole, and what leaves was asked about just as it was sent.
        (asked,) = agent.asked
        assert is_extension(agent.contexts[-1], asked[:-1])
        assert [text[0] for text in users(asked[:-1])] == list("abc")
        after = bench.entry()
        assert after.cache_touched_at is None
        assert after.updated_at == before.updated_at
        assert after.total_tokens - before.total_tokens == 10
        rows = await calls_made(bench, "purpose", "turn_id", "agent", "input_tokens")
        assert rows[-1] == ("compaction", "", "main", 7)
        ((key, session_id, told),) = posted
        assert (key, session_id) == (after.session_key, after.session_id)
        assert (told.tokens, told.source) == (summary.tokens_after, ContextSource.ESTIMATE)
        assert bench.turns.contexts.telling.compactions == {"done": 1}
        assert not bench.turns.is_busy(key_of())

        reply = await bench.say("g")
        lead, *rest = agent.contexts[-1]
        assert "They talked." in lead.text
        assert [text[0] for text in users(rest)] == list("defg")
        assert reply.context.turns_left_out == 3
        assert abs(reply.context.tokens - told.tokens) < 5
        assert len(await transcript(bench)) == 14
    async with running_turns(tmp_path / "state", agent) as bench:
        await bench.say("h")
        assert is_extension(agent.contexts[-1], agent.contexts[-2])


async def test_where_there_is_nothing_to_summarise_that_is_told_and_nothing_is_stored(
    tmp_path: Path,
) -> None:
    agent = Waits()
    async with running_turns(tmp_path / "state", agent) as bench:
        await talk(bench, "abc")
        done = await compact(bench)
        assert (done.summary, done.calls) == (None, ())
        assert done.reason == "there are no turns that may be summarised"
        await talk(bench, "d")
        assert (await compact(bench)).summary is not None
        # The summary alone is not summarised again.
        assert (await compact(bench)).summary is None

        assert len(agent.asked) == 1
        assert len(await summaries_of(bench)) == 1


async def test_a_second_one_covers_the_first(tmp_path: Path) -> None:
    agent = Waits()
    async with running_turns(tmp_path / "state", agent) as bench:
        await talk(bench)
        await compact(bench)
        await talk(bench, "gh")
        agent.summary = "They talked on."
        done = await compact(bench)

        assert done.summary is not None
        assert done.summary.turns == 5
        assert "They talked." in agent.asked[-1][0].text
        await bench.say("i")
        sent = users(agent.contexts[-1])
        assert "They talked on." in sent[0]
        assert [text[0] for text in sent[1:]] == list("fghi")


@pytest.mark.parametrize(
    ("summary", "reason", "calls"),
    [
        pytest.param(AgentError("it was silent"), "it was silent", 0, id="fails"),
        pytest.param("", "the summary is empty", 1, id="empty"),
        pytest.param("s" * 3_000, "the summary has 32", 1, id="longer-than-what-it-replaces"),
        pytest.param("s" * 8_001, "the summary has 8001 characters, accepted", 1, id="too-long"),
    ],
)
async def test_a_summary_that_is_none_is_told_and_changes_nothing_but_the_costs(
    tmp_path: Path, summary: str | AgentError, reason: str, calls: int
) -> None:
    agent = Waits(summary)
    async with running_turns(tmp_path / "state", agent) as bench:
        await talk(bench, "abcd")
        touched_at, sent = bench.entry().cache_touched_at, agent.contexts[-1]
        for letter in "ab":
            await bench.say(letter * 200)
        done = await compact(bench)

        assert done.summary is None
        assert done.reason.startswith(reason)
        assert len(done.calls) == calls
        purposes = [purpose for (purpose,) in await calls_made(bench, "purpose")]
        assert purposes.count("compaction") == calls
        assert await summaries_of(bench) == []
        assert bench.entry().cache_touched_at == touched_at
        await bench.say("c")
        assert is_extension(agent.contexts[-1], sent)


async def test_while_a_turn_runs_or_waits_it_is_refused(tmp_path: Path) -> None:
    gate = Gate()
    agent = PlayedAgent(gate.play, summarise=lambda _: "They talked.")
    async with running_turns(tmp_path / "state", agent) as bench:
        tickets = [await bench.submit(letter) for letter in "abcde"]
        await gate.reached("a")
        for letter in "abcde":
            with pytest.raises(ConflictError, match="A turn of this session runs or waits"):
                await compact(bench)
            gate.open(letter)
        for ticket in tickets:
            assert (await reply_of(ticket)).status == "ok"
        await anyio.wait_all_tasks_blocked()
        await compact(bench)
        # Those that were refused were none.
        assert bench.turns.contexts.telling.compactions.total() == 1


async def test_messages_that_come_meanwhile_wait_and_are_answered_with_the_summary(
    tmp_path: Path,
) -> None:
    agent = Waits(waits=True)
    async with running_turns(tmp_path / "state", agent) as bench:
        await talk(bench)
        done: list[Compacted] = []

        async def run() -> None:
            done.append(await compact(bench))

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            with anyio.fail_after(30):
                await agent.begun.wait()
            assert bench.turns.is_busy(key_of())
            tickets = [await bench.submit(text, message_id=text) for text in ("g", "h")]
            again = await bench.submit("g", message_id="g")
            assert (again.duplicate, again.turn_id) == (True, tickets[0].turn_id)
            with pytest.raises(ConflictError):
                await bench.turns.compact(key_of())
            # Other sessions do not wait for it.
            assert (await bench.say("hello", "bob")).status == "ok"
            assert [row.text for row in await bench.unfinished()] == ["g", "h"]
            agent.goes_on.set()

        assert [(await reply_of(one)).text for one in tickets] == ["re: g", "re: h"]
        (one,) = done
        assert one.summary is not None
        assert [text[0] for text in users(agent.contexts[-1])[1:]] == list("defgh")


async def test_a_caller_that_leaves_in_the_middle_frees_the_session(tmp_path: Path) -> None:
    agent = Waits(waits=True)
    async with running_turns(tmp_path / "state", agent) as bench:
        await talk(bench)
        async with anyio.create_task_group() as group:
            group.start_soon(compact, bench)
            with anyio.fail_after(30):
                await agent.begun.wait()
            ticket = await bench.submit("g")
            group.cancel_scope.cancel()

        assert (await reply_of(ticket)).text == "re: g"
        assert await summaries_of(bench) == []
        await anyio.wait_all_tasks_blocked()
        assert not bench.turns.is_busy(key_of())


async def test_a_reset_in_the_middle_leaves_the_new_conversation_untouched(
    tmp_path: Path,
) -> None:
    agent = Waits(waits=True)
    async with running_turns(tmp_path / "state", agent) as bench:
        await talk(bench)
        old = bench.entry().session_id
        async with anyio.create_task_group() as group:
            group.start_soon(compact, bench)
            with anyio.fail_after(30):
                await agent.begun.wait()
            await bench.state.store.reset(key_of())
            agent.goes_on.set()

        entry = bench.entry()
        assert entry.session_id != old
        assert (entry.total_tokens, entry.context_tokens) == (0, 0)
        assert len(await summaries_of(bench, old)) == 1
        await bench.say("anew")
        assert [one.text for one in agent.contexts[-1]] == ["anew"]


async def test_what_cannot_be_summarised_is_refused_and_nothing_is_held(tmp_path: Path) -> None:
    agents = {"main": Waits(), "plain": PlayedAgent(echo)}
    async with running_turns(tmp_path / "state", agents) as bench:
        await bench.say("hello", agent="plain")
        await bench.say("hello")
        plain, unknown = key_of(agent="plain"), key_of("nobody")

        with pytest.raises(ConflictError, match="The agent plain cannot summarise"):
            await bench.turns.compact(plain)
        with pytest.raises(NotFoundError):
            await bench.turns.compact(unknown)
        bench.turns.contexts.settings = ContextSettings(
            compaction=CompactionSettings(enabled=False)
        )
        with pytest.raises(ConflictError, match="enabled is false"):
            await compact(bench)
        assert not any(map(bench.turns.is_busy, (plain, unknown, key_of())))
        assert (await bench.say("again", agent="plain")).status == "ok"
    async with running_turns(tmp_path / "state", {"main": Waits()}) as bench:
        with pytest.raises(ConflictError, match="The agent plain cannot"):
            await bench.turns.compact(plain)


async def test_no_space_is_told_and_nothing_is_changed(tmp_path: Path) -> None:
    agent = Waits("s" * 90_000)
    async with running_turns(tmp_path / "state", agent) as bench:
        bench.turns.contexts.settings = ContextSettings(
            compaction=CompactionSettings(summary_chars=100_000)
        )
        for letter in "abcdef":
            await bench.say(letter * 30_000)
        async with full_disk(bench.state.database):
            with pytest.raises(StorageFullError):
                await compact(bench)
        assert await summaries_of(bench) == []
        assert bench.entry().cache_touched_at is not None

        sent = agent.contexts[-1]
        await bench.say("g")
        assert is_extension(agent.contexts[-1], sent)
        assert (await compact(bench)).summary is not None


async def test_the_entry_shows_the_smaller_size_once_the_watcher_has_written_it(
    tmp_path: Path,
) -> None:
    async with running_turns(tmp_path / "state", Waits()) as bench:
        state, limits = bench.state, RetentionLimits(90, 0)
        watcher = ExpiryWatcher(state.store, state.database, bench.clock, limits, discard)
        bench.turns.contexts.telling.post = watcher.post_context
        async with anyio.create_task_group() as group:
            await group.start(watcher.run)
            await talk(bench)
            before = bench.entry()
            done = await compact(bench)
            assert done.summary is not None
            shown = watcher.view(bench.entry())
            assert shown.context_tokens == done.summary.tokens_after
            with anyio.fail_after(30):
                while bench.entry().context_tokens != done.summary.tokens_after:
                    await state.database.ping()
            after = bench.entry()
            assert after.context_source is ContextSource.ESTIMATE
            assert after.context_step == before.context_step + 1
            assert after.updated_at == before.updated_at

            reply = await bench.say("g")
            counted_now = bench.entry()
            assert counted_now.context_tokens == reply.context.tokens
            assert counted_now.context_source is ContextSource.USAGE
            group.cancel_scope.cancel()


async def discard() -> int:
    await anyio.lowlevel.checkpoint()
    return 0
