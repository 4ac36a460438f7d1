"""Laws of sessions that rules take messages from: what is sent and what is told stays right."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import anyio
from typing_extensions import override

from gateway.agents.scripted import Reply
from gateway.clock import FakeClock
from gateway.context.estimate import estimate_context_chars, tokens_of_chars
from gateway.context.mending import GONE, Mend
from gateway.context.projection import tool_item
from gateway.context.settings import CompactionSettings, ContextSettings, PruningSettings
from gateway.model import (
    ContextMeasurement,
    ContextSource,
    Message,
    Projection,
    ProjectionMode,
    Role,
    SessionId,
    TurnId,
    Usage,
)
from gateway.pruning import (
    CountCondition,
    DeleteAction,
    Event,
    ItemType,
    Protection,
    PruningConfig,
    PruningManager,
    PruningRule,
    TypeCondition,
)
from gateway.retention.items import SqliteItemStore
from gateway.sessions.mailbox import apply_measurement
from gateway.transcripts import items, projections, pruned
from gateway.turns.changed import MOST_WAITING
from gateway.turns.listing import LineState
from gateway.turns.memory import load_context
from gateway.turns.showing import show_context
from tests.retention.telling import removal
from tests.support.loops import (
    Looped,
    counted,
    is_extension,
    is_paired,
    says,
    summaries_of,
    users,
    wants,
)
from tests.support.state import key_of
from tests.support.toolbox import TestToolbox
from tests.support.turns import Bench, Gate, PlayedAgent, echo, reply_of, running_turns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gateway.agents.base import Completion
    from gateway.agents.scripted import Step
    from gateway.durable.batch import Queries
    from gateway.pruning import PruningResult

NO_COMPACTION: Final = ContextSettings(
    pruning=PruningSettings.model_validate({"mode": "off"}),
    compaction=CompactionSettings(enabled=False),
)


@dataclass
class Rules:
    """Rules over the messages of running turns, wired as the gateway does it."""

    bench: Bench
    posted: list[ContextMeasurement] = field(default_factory=list)
    items: SqliteItemStore = field(init=False)

    def __post_init__(self) -> None:
        bench = self.bench
        self.items = SqliteItemStore(bench.state.database, bench.clock, lambda: 86_400.0)
        self.items.on_changed = bench.turns.items_changed
        bench.turns.contexts.telling.post = lambda _key, _id, one: self.posted.append(one)

    async def take(self, *positions: int) -> None:
        """Delete messages, as a rule does."""
        found = await self.items.find([str(one) for one in positions])
        assert len(found) == len(positions)
        at = self.bench.clock.now()
        changes = []
        for change in map(removal, found.values()):
            assert change.record is not None
            changes.append(replace(change, at=at, record=replace(change.record, at=at)))
        assert not (await self.items.commit(changes)).stale

    async def take_texts(self, *texts: str) -> None:
        """Delete the messages with these texts."""
        places = await self.places()
        await self.take(*(position for position, text in places if text in texts))

    async def places(self) -> list[tuple[int, str]]:
        """Return the position and the text of each message."""

        def query(connection: Queries) -> list[tuple[int, str]]:
            rows = connection.execute("SELECT position, text FROM messages ORDER BY position")
            return [(int(row[0]), str(row[1])) for row in rows]

        return await self.bench.state.database.read(query)

    async def prune(self, *conditions: CountCondition | TypeCondition) -> PruningResult:
        """Run a rule that ignores all that protects."""
        rule = PruningRule(
            "r", "r", 0, conditions, DeleteAction(), ignore_protections=frozenset(Protection)
        )
        manager = PruningManager(
            PruningConfig(rules=(rule,)),
            items=self.items,
            clock=self.bench.clock,
            live_turns=self.bench.turns.live_session_ids,
        )
        manager.on(Event.START, self.items.begin_run)
        return await manager.prune()


class Slow(PlayedAgent):
    """Echoes, and writes a summary once it may."""

    def __init__(self) -> None:
        super().__init__(
            echo,
            context_window_tokens=26_000,
            reserve_tokens=1_000,
            summarise=lambda _: "They talked.",
        )
        self.is_asked = anyio.Event()
        self.may = anyio.Event()

    @override
    async def complete(self, messages: Sequence[Message], *, cache_key: str = "") -> Completion:
        self.is_asked.set()
        await self.may.wait()
        return await super().complete(messages, cache_key=cache_key)


def texts(messages: Sequence[Message]) -> list[str]:
    return [message.text for message in messages]


async def test_a_session_is_live_from_its_first_message_that_waits_to_the_last_reply(
    tmp_path: Path,
) -> None:
    gate = Gate()
    async with running_turns(tmp_path / "state", PlayedAgent(gate.play)) as bench:
        gate.open("hello")
        await bench.say("hello", chat="bob")
        assert bench.turns.live_session_ids() == {}

        first = await bench.submit("one")
        await gate.reached("one")
        second = await bench.submit("two")
        session_id = bench.entry().session_id
        assert bench.turns.live_session_ids() == {session_id: ""}

        gate.open("one")
        await reply_of(first)
        await gate.reached("two")
        assert bench.turns.live_session_ids() == {session_id: ""}
        gate.open("two")
        await reply_of(second)
        await anyio.wait_all_tasks_blocked()
        assert bench.turns.live_session_ids() == {}


async def test_a_turn_that_runs_in_a_conversation_that_was_left_keeps_that_one_live(
    tmp_path: Path,
) -> None:
    gate = Gate()
    async with running_turns(tmp_path / "state", PlayedAgent(gate.play)) as bench:
        ticket = await bench.submit("one")
        await gate.reached("one")
        left = bench.entry().session_id
        await bench.state.store.reset(key_of())

        assert bench.entry().session_id != left
        assert bench.turns.live_session_ids() == {left: ""}
        gate.open("one")
        await reply_of(ticket)


async def test_a_session_that_is_summarised_by_hand_is_live(tmp_path: Path) -> None:
    slow = Slow()
    async with running_turns(tmp_path / "state", slow) as bench, anyio.create_task_group() as tasks:
        for letter in "abcd":
            await bench.say(letter * 900)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(bench.turns.compact, key_of())
        await slow.is_asked.wait()

        assert bench.turns.live_session_ids() == {bench.entry().session_id: ""}
        slow.may.set()


async def test_what_a_rule_takes_is_not_in_the_next_request(tmp_path: Path) -> None:
    agent = PlayedAgent(echo)
    async with running_turns(tmp_path / "state", agent) as bench:
        rules = Rules(bench)
        await bench.say("secret")
        await bench.say("hello")
        await rules.take_texts("secret", "re: secret")
        await bench.say("now")

    assert texts(agent.sent) == ["hello", "re: hello", "now"]


async def test_other_sessions_are_not_read_anew(tmp_path: Path) -> None:
    """What is told of nobody else is shown by a row that goes without a word."""
    agent = PlayedAgent(echo)
    async with running_turns(tmp_path / "state", agent) as bench:
        rules = Rules(bench)
        await bench.say("one")
        await bench.say("hello", chat="bob")
        rules.items.on_changed = lambda _: None
        await rules.take_texts("one", "re: one")
        bench.turns.items_changed([bench.entry("bob").session_id])
        await bench.say("now")

    assert texts(agent.sent) == ["one", "re: one", "now"]


async def test_a_context_that_a_turn_has_in_hand_while_messages_go_is_not_remembered(
    tmp_path: Path,
) -> None:
    """The turn began between the look at who is live and the deletion."""
    slow = Slow()
    async with running_turns(tmp_path / "state", slow) as bench:
        rules = Rules(bench)
        for letter in "abcdefghi":
            await bench.say(letter * 4_900)
        await bench.say("secret")
        await bench.say("hello", chat="bob")
        ticket = await bench.submit("x" * 20_000)
        with anyio.fail_after(30):
            await slow.is_asked.wait()
        await rules.take_texts("secret", "re: secret", "b" * 4_900)
        slow.may.set()
        await reply_of(ticket)
        stale = slow.sent
        await bench.say("now")
        fresh = slow.sent
    async with running_turns(tmp_path / "state", slow) as bench:
        await bench.say("later")

    assert "secret" in texts(stale)
    assert len(slow.asked) == 1
    assert fresh == (*[one for one in stale if "secret" not in one.text], *fresh[-2:])
    assert is_extension(slow.sent, fresh)


async def test_a_summary_stands_for_its_turns_also_when_rules_take_them(tmp_path: Path) -> None:
    agent = Looped(lambda messages: says("ok", messages))
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        rules = Rules(bench)
        for letter in "abcdefgh":
            await bench.say(letter * 900)
        await anyio.wait_all_tasks_blocked()
        await bench.turns.compact(key_of())
        (summary,) = await summaries_of(bench)
        places = [position for position, _ in await rules.places()]
        assert summary.through in places
        await bench.say("and?")
        before = agent.sent[-1]
        # All of the newest turn that is covered, and one message of an older one.
        at = places.index(summary.through)
        await rules.take(places[at - 1], places[at], places[2])
        await bench.say("now")
        entry = bench.entry()
        shown = await show_context(
            bench.state.database, entry, agent.agent.facts(), ContextSettings(), bench.clock.now()
        )

    assert is_extension(agent.sent[-1], before)
    assert users(agent.sent[-1])[0].count("They talked.") == 1
    assert (shown.summarised_turns, shown.left_out_turns) == (summary.turns, 0)
    assert shown.pruned_messages == 3
    left_out = [line.why for line in shown.messages if line.state is LineState.LEFT_OUT]
    assert left_out == ["summarised"] * (at + 1 - 3)


async def test_what_comes_back_of_a_summarised_turn_is_not_sent_beside_the_summary(
    tmp_path: Path,
) -> None:
    agent = Looped(lambda messages: says("ok", messages))
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        rules = Rules(bench)
        for letter in "abcdefgh":
            await bench.say(letter * 900)
        await anyio.wait_all_tasks_blocked()
        await bench.turns.compact(key_of())
        (summary,) = await summaries_of(bench)
        assert summary.through is not None
        await rules.take(summary.through)
        await bench.say("and?")
        database = bench.state.database
        (entry,) = await database.read(lambda conn: pruned.page(conn, limit=9))
        row = await database.read(lambda conn: pruned.original(conn, entry.position))
        assert row is not None
        await database.write(lambda tx: items.put_back(tx, row))
        bench.turns.items_changed([bench.entry().session_id])
        await bench.say("now")

    assert is_extension(agent.sent[-1], agent.sent[-2])


async def test_a_summary_of_an_older_gateway_is_looked_up_as_long_as_its_turn_is_there(
    tmp_path: Path,
) -> None:
    agent = Looped(lambda messages: says("ok", messages))
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        for letter in "abcdefgh":
            await bench.say(letter * 900)
        await anyio.wait_all_tasks_blocked()
        await bench.turns.compact(key_of())
        await bench.say("and?")
        await bench.state.database.write(
            lambda tx: tx.execute("UPDATE summaries SET through = NULL")
        )
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        await bench.say("now")

    assert is_extension(agent.sent[-1], agent.sent[-2])


async def test_turns_left_out_stay_so_when_rules_take_the_newest_of_them(tmp_path: Path) -> None:
    agent = Looped(lambda messages: says("ok", messages), window_tokens=3_000)
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        rules = Rules(bench)
        bench.turns.contexts.settings = NO_COMPACTION
        for letter in "abcdefgh":
            await bench.say(letter * 1_500)
        left_out = await bench.state.database.read(
            lambda conn: conn.execute("SELECT item, through FROM projections").fetchall()
        )
        await bench.say("and?")
        before = agent.sent[-1]
        ((turn_id, through),) = left_out
        places = await rules.places()
        at = [position for position, _ in places].index(int(str(through)))
        assert at >= 3
        await rules.take(places[at][0], places[at - 1][0])
        await bench.say("now")

    assert turn_id not in {one.turn_id for one in before}
    assert is_extension(agent.sent[-1], before)


def _looks(messages: Sequence[Message]) -> Step:
    """Call a tool twice in each turn, then answer."""
    turn = [one for one in messages if one.turn_id == messages[-1].turn_id]
    if sum(bool(one.tool_calls) for one in turn) < 1:
        return wants("look", "look", messages=messages)
    return Reply(("seen",), counted(messages))


async def look(**_: object) -> str:
    await anyio.lowlevel.checkpoint()
    return "f" * 2_000


async def test_a_rule_may_part_calls_and_results_and_the_next_request_is_whole_all_the_same(
    tmp_path: Path,
) -> None:
    agent = Looped(_looks, TestToolbox({"look": look}))
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        rules = Rules(bench)
        for text in ("one", "two"):
            await bench.say(text)
        await rules.take(*[p for p, text in await rules.places() if text.startswith("f")][:1])
        await bench.say("three")
        some = agent.sent[-2]
        result = await rules.prune(TypeCondition(include=frozenset({ItemType.TOOL_RESULT})))
        assert len(result.pruned_items) == 5
        await bench.say("four")
        none = agent.sent[-2]
        shown = await show_context(
            bench.state.database,
            bench.entry(),
            agent.agent.facts(),
            ContextSettings(),
            bench.clock.now(),
        )

    for sent, gone in ((some, 1), (none, 6)):
        assert is_paired(sent)
        assert texts(sent).count(GONE) == gone
    assert texts(some)[2:4] == ["f" * 2_000, GONE]
    stand_ins = [line for line in shown.messages if line.state is LineState.PRUNED]
    assert [(one.number, one.said_chars, one.why) for one in stand_ins] == [
        (0, 0, Mend.ADDED.value)
    ] * 4 + [(0, 0, stand_ins[-1].why)] * 2
    assert shown.pruned_messages == 6


async def test_a_count_rule_may_cut_between_a_question_and_its_answer(tmp_path: Path) -> None:
    agent = PlayedAgent(echo)
    async with running_turns(tmp_path / "state", agent) as bench:
        rules = Rules(bench)
        for text in "abc":
            await bench.say(text)
        result = await rules.prune(CountCondition(3))
        assert len(result.pruned_items) == 3
        await bench.say("now")
        shown = await show_context(
            bench.state.database,
            bench.entry(),
            agent.facts(),
            ContextSettings(),
            bench.clock.now(),
        )

    assert texts(agent.sent) == ["c", "re: c", "now"]
    first = shown.messages[0]
    assert (first.state, first.why) == (LineState.LEFT_OUT, Mend.NO_QUESTION.value)
    assert shown.left_out_turns == 1


async def test_where_only_answers_are_left_of_a_session_it_goes_on(tmp_path: Path) -> None:
    agent = PlayedAgent(echo)
    async with running_turns(tmp_path / "state", agent) as bench:
        rules = Rules(bench)
        for text in "ab":
            await bench.say(text)
        await rules.take_texts("a", "b")
        entry, facts, now = bench.entry(), agent.facts(), bench.clock.now()
        shown = await show_context(bench.state.database, entry, facts, ContextSettings(), now)
        await bench.say("now")

    assert [line.state for line in shown.messages] == [LineState.LEFT_OUT] * 2
    assert texts(agent.sent) == ["now"]


async def test_projections_of_messages_that_are_gone_are_dropped_but_not_those_of_the_live_turn(
    tmp_path: Path,
) -> None:
    agent = Looped(_looks, TestToolbox({"look": look}))
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        await bench.say("one")
        session_id = bench.entry().session_id
        (there, *_) = [one.turn_id for one in agent.sent[-1] if one.role is Role.USER]
        names = [tool_item(TurnId(turn), call, 0) for turn, call in
                 ((there, "c0"), ("gone", "c0"), ("live", "c0"))]  # fmt: skip
        made = [Projection(one, ProjectionMode.CLEAR, placeholder="-") for one in names]
        database = bench.state.database
        await database.write(lambda tx: projections.keep(tx, session_id, made, at="x"))
        context = await load_context(
            database, session_id, max_chars=10**6, live_turn=TurnId("live")
        )

    assert context.dropped == [names[1]]


def _framed(messages: Sequence[Message]) -> Usage:
    """Count as a provider does that takes 12 tokens for each message, beside a constant."""
    tokens = tokens_of_chars(estimate_context_chars(messages)) + 12 * len(messages) + 500
    return Usage(input_tokens=tokens, output_tokens=1)


async def test_a_new_size_is_told_of_an_idle_session_and_nothing_else_of_it_moves(
    tmp_path: Path,
) -> None:
    clock = FakeClock()
    agent = PlayedAgent(echo, count=_framed)
    async with running_turns(tmp_path / "state", agent, clock=clock) as bench:
        rules = Rules(bench)
        for number in range(40):
            await clock.advance(1)
            await bench.say(f"{number}" * 300)
        before = bench.entry()
        assert (before.context_source, before.context_tokens > 11_000) == (
            ContextSource.USAGE,
            True,
        )
        rules.posted.clear()
        await clock.advance(60)
        places = await rules.places()
        await rules.take(*(position for position, _ in places[:60]))
        assert await bench.turns.changed.measure() == 0
        (told,) = rules.posted
        after = apply_measurement(before, before.session_id, told)
        assert await bench.turns.changed.measure() == 0
        assert len(rules.posted) == 1
        await bench.say("now")

    assert after.context_source is ContextSource.ESTIMATE
    assert after.context_tokens == told.tokens < before.context_tokens / 2
    assert after.updated_at == before.updated_at
    assert after.context_measured_at == told.measured_at != before.context_measured_at
    # It is what the next request was counted as, but for the message in it.
    real = _framed(agent.sent[:-1]).context_tokens
    assert abs(told.tokens - real) < 0.1 * real


async def test_what_messages_took_beside_their_text_leaves_with_them(tmp_path: Path) -> None:
    """Else a session of very many short messages would be told at their framing still."""
    clock = FakeClock()
    agent = PlayedAgent(echo, count=_framed)
    async with running_turns(tmp_path / "state", agent, clock=clock) as bench:
        rules = Rules(bench)
        for _ in range(30):
            await bench.say("y")
        session_id, entry = bench.entry().session_id, bench.entry()
        await clock.advance(60)
        places = await rules.places()
        await rules.take(*(position for position, _ in places[:-2]))
        assert entry.cache_touched_at is not None
        loaded = [
            await load_context(
                bench.state.database, session_id, max_chars=10**6, counted_at=counted_at
            )
            for counted_at in ("", pruned.instant(entry.cache_touched_at))
        ]

    as_stored, adjusted = (context.account.overhead_tokens for context in loaded)
    assert as_stored - adjusted == 4 * 58


async def test_of_a_busy_session_the_size_is_told_once_it_is_idle(tmp_path: Path) -> None:
    gate = Gate()
    agent = PlayedAgent(gate.play, count=counted)
    async with running_turns(tmp_path / "state", agent) as bench:
        rules = Rules(bench)
        gate.open("one", "two")
        await bench.say("one")
        await bench.say("two")
        ticket = await bench.submit("now")
        await gate.reached("now")
        rules.posted.clear()
        await bench.clock.advance(60)
        await rules.take_texts("one", "re: one")
        assert await bench.turns.changed.measure() == 1
        assert rules.posted == []
        gate.open("now")
        await reply_of(ticket)
        await anyio.wait_all_tasks_blocked()
        assert await bench.turns.changed.measure() == 0

    (told,) = rules.posted
    assert told.source is ContextSource.ESTIMATE


async def test_no_size_is_told_where_nothing_that_is_sent_has_changed_or_nobody_measured_it(
    tmp_path: Path,
) -> None:
    agent = Looped(lambda messages: says("ok", messages))
    async with running_turns(
        tmp_path / "state", {"main": agent.agent, "other": PlayedAgent(echo)}
    ) as bench:
        rules = Rules(bench)
        for letter in "abcdefgh":
            await bench.say(letter * 900)
        await anyio.wait_all_tasks_blocked()
        await bench.turns.compact(key_of())
        await bench.say("and?")
        rules.posted.clear()
        await bench.clock.advance(60)
        first, *_ = await rules.places()
        await rules.take(first[0])
        bench.turns.items_changed(["nobody's"])
        assert await bench.turns.changed.measure() == 0
        assert rules.posted == []

        *_, last = await rules.places()
        await bench.say("then?")
        await bench.clock.advance(60)
        await rules.take(last[0])
        assert await bench.turns.changed.measure() == 0
        assert len(rules.posted) == 1


async def test_the_size_of_a_left_conversation_is_nobodys(tmp_path: Path) -> None:
    agent = PlayedAgent(echo, count=counted)
    async with running_turns(tmp_path / "state", agent) as bench:
        rules = Rules(bench)
        await bench.say("one")
        await anyio.wait_all_tasks_blocked()
        await bench.state.store.reset(key_of())
        await bench.say("two")
        rules.posted.clear()
        await rules.take_texts("one", "re: one")
        assert await bench.turns.changed.measure() == 0
        assert rules.posted == []


async def test_a_size_that_was_told_and_is_not_stored_yet_is_not_the_last_one(
    tmp_path: Path,
) -> None:
    agent = PlayedAgent(echo, count=counted)
    async with running_turns(tmp_path / "state", agent) as bench:
        rules = Rules(bench)
        telling = bench.turns.contexts.telling

        def view(entry):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - as the watcher's
            for one in rules.posted:
                entry = apply_measurement(entry, entry.session_id, one)
            return entry

        telling.view = view
        for text in ("one", "two", "three"):
            await bench.say(text)
        rules.posted.clear()
        await bench.clock.advance(60)
        for text in ("one", "two"):
            await rules.take_texts(text, f"re: {text}")
            assert await bench.turns.changed.measure() == 0
        step = bench.entry().context_step

    assert [one.step for one in rules.posted] == [step + 1, step + 2]


async def test_a_size_is_not_told_over_one_that_came_while_what_is_left_was_read(
    tmp_path: Path,
) -> None:
    agent = PlayedAgent(echo, count=counted)
    async with running_turns(tmp_path / "state", agent) as bench:
        rules = Rules(bench)
        for text in ("one", "two"):
            await bench.say(text)
        rules.posted.clear()
        await bench.clock.advance(60)
        await rules.take_texts("one", "re: one")
        looks = iter((0, 1, 1, 1))
        bench.turns.contexts.telling.view = lambda entry: entry.changed(
            context_step=entry.context_step + next(looks)
        )
        assert await bench.turns.changed.measure() == 1
        assert rules.posted == []
        assert await bench.turns.changed.measure() == 0
        assert len(rules.posted) == 1


async def test_sessions_that_wait_to_be_measured_are_bounded_and_so_is_one_look(
    tmp_path: Path,
) -> None:
    async with running_turns(tmp_path / "state") as bench:
        bench.turns.items_changed([SessionId(f"s{number}") for number in range(MOST_WAITING + 9)])
        assert await bench.turns.changed.measure(0) == MOST_WAITING
        assert await bench.turns.changed.measure(3) == MOST_WAITING - 3
