"""Laws of what is shown of a context: it is what the next turn sends; looking changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gateway.agents.base import AgentFacts, MessageFinished
from gateway.context.estimate import estimate_context_chars, message_chars, tokens_of_chars
from gateway.context.pruning import Decision
from gateway.context.settings import ContextSettings
from gateway.errors import UnavailableError
from gateway.events import ContextPruned
from gateway.model import (
    AgentId,
    Image,
    Message,
    Projection,
    ProjectionMode,
    Role,
    Summary,
    ToolCall,
    TurnId,
    Usage,
)
from gateway.sessions.history import stamp
from gateway.transcripts import accounts, projections, summaries
from gateway.transcripts.accounts import ContextAccount
from gateway.transcripts.writing import append_messages
from gateway.turns.listing import MAX_LINES, LineState
from gateway.turns.showing import ShownContext, show_context
from tests.support.state import START, entry, open_state
from tests.support.turns import PlayedAgent, answer, running_turns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from pathlib import Path

    from gateway.agents.base import AgentEvent
    from gateway.durable.connection import Connection
    from gateway.durable.database import Database
    from gateway.sessions.entry import SessionEntry
    from tests.support.turns import Bench

WINDOW = 4_000
OVERHEAD = 60
EAGER = {"min_saving_tokens": 0, "min_prunable_tool_chars": 0, "keep_last_assistants": 1}
SMALL_TRIM = {"max_chars": 400, "head_chars": 100, "tail_chars": 100}


def settings(**pruning: object) -> ContextSettings:
    return ContextSettings.model_validate(
        {"pruning": {**EAGER, "soft_trim": SMALL_TRIM, **pruning}}
    )


def user(text: str, turn: str) -> Message:
    return Message(Role.USER, text, turn_id=TurnId(turn))


def said(text: str, turn: str) -> Message:
    return Message(Role.ASSISTANT, text, turn_id=TurnId(turn))


def tool(chars: int, turn: str, name: str = "look", images: int = 0) -> tuple[Message, Message]:
    """Return a call and its result."""
    call = ToolCall(f"c-{turn}", name, "{}")
    shown = (Image("image/png", "aGk="),) * images
    return (
        Message(Role.ASSISTANT, "", (call,), turn_id=TurnId(turn)),
        Message(
            Role.TOOL,
            "x" * chars,
            tool_call_id=call.call_id,
            tool_name=name,
            turn_id=TurnId(turn),
            images=shown,
        ),
    )


async def put(database: Database, messages: Sequence[Message], one: SessionEntry) -> None:
    await database.write(
        lambda tx: append_messages(tx, one.session_id, list(messages), at=stamp(START))
    )


async def shown_of(
    path: Path,
    messages: Sequence[Message],
    context: ContextSettings,
    **options: Any,  # noqa: ANN401 - of `show_context`
) -> ShownContext:
    """Return what is shown of a session in which these messages were said."""
    one = entry()
    agent = options.pop("agent", AgentFacts("played", WINDOW, 100, 0))
    summary, left_out = options.pop("summary", None), options.pop("left_out", "")
    async with open_state(path) as state:
        await state.store.create(one)
        await put(state.database, messages, one)
        if summary is not None:
            await state.database.write(
                lambda tx: summaries.keep(tx, one.session_id, summary, at=stamp(START))
            )
        if left_out:
            gone = Projection(left_out, ProjectionMode.OMIT)
            await state.database.write(
                lambda tx: projections.keep(tx, one.session_id, [gone], at=stamp(START))
            )
        return await show_context(state.database, one, agent, context, START, **options)


async def looks(messages: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
    """Answer `look CHARS` with a tool's result of so many characters, and else as asked.

    Its provider counts OVERHEAD tokens more than estimated.
    """
    asked, request = messages[-1].text, list(messages)
    if asked.startswith("look "):
        for one in tool(int(asked.split()[1]), messages[-1].turn_id):
            yield MessageFinished(one)
            request.append(one)
        asked = "seen"
    for event in answer(asked, Usage(tokens_of_chars(estimate_context_chars(request)) + OVERHEAD)):
        yield event


async def look_at(bench: Bench, agent: PlayedAgent, *, dry_run: bool = True) -> ShownContext:
    return await show_context(
        bench.state.database,
        bench.entry(),
        agent.facts(),
        bench.turns.contexts.settings,
        bench.clock.now(),
        dry_run=dry_run,
        text=True,
    )


def to_be_sent(shown: ShownContext) -> list[int]:
    """Return the sizes of what the next request is said to hold, the message to come apart."""
    return [
        line.sent_chars if line.next_chars is None else line.next_chars
        for line in shown.messages
        if LineState.LEFT_OUT not in {line.state, line.next_state}
    ]


@pytest.mark.parametrize(
    ("texts", "idle_s", "pruning", "decision"),
    [
        pytest.param(["look 6000", "hi"], 301, {}, Decision.PRUNE, id="trim"),
        pytest.param(["look 6000", "hi"], 300, {}, Decision.PRUNE, id="just-expired"),
        pytest.param(["look 6000", "hi"], 299, {}, Decision.WARM, id="warm"),
        pytest.param(["look 6000", "hi"], 299, {"mode": "always"}, Decision.PRUNE, id="always"),
        pytest.param(["look 6000", "hi"], 301, {"mode": "off"}, Decision.OFF, id="off"),
        pytest.param(["look 600", "hi"], 301, {}, Decision.SMALL, id="small"),
        pytest.param(["look 6000"], 301, {}, Decision.PRUNE, id="before-the-last-assistant"),
        pytest.param(
            ["look 6000"], 301, {"keep_last_assistants": 2}, Decision.NOTHING, id="nothing"
        ),
        pytest.param(
            ["look 6000", "hi"], 301, {"min_saving_tokens": 1_500}, Decision.LITTLE, id="little"
        ),
        pytest.param(["look 300"] * 24 + ["hi"], 301, {}, Decision.PRUNE, id="clear"),
        pytest.param(["look 7000", "look 8000", "hi"], 0, {}, Decision.FORCED, id="forced"),
        pytest.param(["look 6000", "x" * 5_000, "y" * 5_000, "hi"], 0, {}, None, id="no-room"),
        pytest.param(["x" * 6_000, "y" * 6_000, "hi"], 301, {}, None, id="no-room-no-tools"),
        pytest.param(["x" * 3_850, "y" * 3_850], 301, {}, None, id="no-room-beside-the-reserve"),
        pytest.param(["NO_REPLY", "NO_REPLY", "look 6000", "hi"], 301, {}, None, id="silent"),
    ],
)
async def test_a_dry_run_tells_what_the_next_turn_does(
    tmp_path: Path,
    texts: list[str],
    idle_s: float,
    pruning: dict[str, object],
    decision: Decision | None,
) -> None:
    agent = PlayedAgent(looks, context_window_tokens=WINDOW, reserve_tokens=100)
    async with running_turns(tmp_path / "state", agent) as bench:
        bench.turns.contexts.settings = settings(mode="off")
        for text in texts:
            await bench.say(text)
        bench.turns.contexts.settings = settings(**pruning)
        # The requests of `answer` all began at the start.
        await bench.clock.advance(idle_s)
        told: list[ContextPruned] = []
        bench.turns.contexts.telling.events.subscribe(ContextPruned, told.append)
        before = await look_at(bench, agent)
        planned = before.next_round

        # The shortest message that can come, for the one to come is not known when looking.
        await bench.say("a")

        assert planned is not None
        if decision is not None:
            assert planned.decision is decision
        assert to_be_sent(before) == [message_chars(one) for one in agent.contexts[-1][:-1]]
        done = bench.turns.contexts.telling
        assert done.rounds == (planned.decision in {Decision.PRUNE, Decision.FORCED})
        assert (done.pruned["trim"], done.pruned["clear"]) == (planned.trimmed, planned.cleared)
        assert done.saved_tokens == planned.saved_tokens
        for event in told:
            assert list(event.tool_names) == planned.tool_names
            # The message to come has one character.
            assert event.tokens_before - planned.tokens_before in {0, 1}
            # Turns may leave after a round, and the event comes after that.
            assert event.tokens_after - planned.tokens_after in {0, 1}
        after = await look_at(bench, agent, dry_run=False)
        assert [line.sent_chars for line in after.messages if line.sent_chars] == [
            *to_be_sent(before),
            1,
            1,
        ]
        assert after.overhead_tokens == before.overhead_tokens == OVERHEAD
        assert after.left_out_turns == before.left_out_turns + planned.left_out_turns
        assert sum(to_be_sent(before)) + 2 == after.sent_chars


async def test_looking_changes_neither_the_database_nor_the_contexts_in_use(tmp_path: Path) -> None:
    agent = PlayedAgent(looks, context_window_tokens=WINDOW, reserve_tokens=100)
    async with running_turns(tmp_path / "state", agent) as bench:
        bench.turns.contexts.settings = settings()
        for text in ("look 6000", "hi"):
            await bench.say(text)
        await bench.clock.advance(301)
        transactions = bench.state.database.statistics().transactions

        first = await look_at(bench, agent)
        second = await look_at(bench, agent)

        assert first == second
        assert first.next_round is not None
        assert first.next_round.trimmed + first.next_round.cleared > 0
        assert bench.state.database.statistics().transactions == transactions
        assert bench.turns.contexts.telling.rounds == 0
        assert await bench.count("projections") == 0


async def test_after_a_restart_the_same_is_shown(tmp_path: Path) -> None:
    agent = PlayedAgent(looks, context_window_tokens=WINDOW, reserve_tokens=100)
    async with running_turns(tmp_path / "state", agent) as bench:
        bench.turns.contexts.settings = settings()
        for text in ("x" * 5_000, "y" * 5_000, "look 6000", "hi", "ho"):
            await bench.clock.advance(301)
            await bench.say(text)
        before, clock = await look_at(bench, agent), bench.clock
    async with running_turns(tmp_path / "state", agent, clock=clock) as bench:
        bench.turns.contexts.settings = settings()
        after = await look_at(bench, agent)

    assert after == before
    assert {line.state for line in after.messages} == {
        LineState.KEPT,
        LineState.CLEARED,
        LineState.LEFT_OUT,
    }


async def test_each_message_says_why_no_round_touches_it(tmp_path: Path) -> None:
    context = settings(
        tools={"deny": ["secret*"]}, hard_clear={"placeholder": "p" * 30}, keep_last_assistants=2
    )
    messages = [
        *tool(2_000, "t0"),
        user("hi", "t1"),
        *tool(2_000, "t1"),
        *tool(2_000, "t2", "Secret_files"),
        *tool(20, "t3"),
        *tool(300, "t4"),
        said("done", "t5"),
        *tool(2_000, "t6"),
        said("bye", "t7"),
    ]

    shown = await shown_of(tmp_path / "state", messages, context)

    talk = "user and assistant text"
    late = "one of the last 2 assistant messages or after"
    assert [(line.role.value, line.protected, line.why) for line in shown.messages] == [
        ("assistant", False, "what it answers was pruned"),
        ("tool", False, "what it answers was pruned"),
        ("user", True, talk),
        ("assistant", True, talk),
        ("tool", False, ""),
        ("assistant", True, talk),
        ("tool", True, "tool denied by context.pruning.tools"),
        ("assistant", True, talk),
        ("tool", True, "short"),
        ("assistant", True, talk),
        ("tool", False, ""),
        ("assistant", True, talk),
        ("assistant", True, talk),
        ("tool", True, late),
        ("assistant", True, talk),
    ]


@pytest.mark.parametrize(
    ("pruning", "protected"),
    [
        pytest.param({}, [False, False, False], id="all-may-be-cleared"),
        pytest.param({"hard_clear": {"enabled": False}}, [False, True, False], id="trim-only"),
        pytest.param({"tools": {"allow": ["other"]}}, [True, True, True], id="not-allowed"),
        pytest.param({"keep_last_assistants": 0}, [False, False, False], id="none-kept"),
        pytest.param({"keep_last_assistants": 9}, [True, True, True], id="fewer-than-kept"),
    ],
)
async def test_what_may_be_pruned_depends_on_the_settings(
    tmp_path: Path, pruning: dict[str, object], protected: list[bool]
) -> None:
    messages = [
        user("hi", "t1"),
        *tool(2_000, "t1"),
        *tool(300, "t2"),
        *tool(10, "t3", images=1),
        said("done", "t4"),
    ]

    shown = await shown_of(tmp_path / "state", messages, settings(**pruning))

    results = [line for line in shown.messages if line.role is Role.TOOL]
    assert [line.protected for line in results] == protected


async def test_a_session_in_which_nothing_was_said_is_shown_as_empty(tmp_path: Path) -> None:
    shown = await shown_of(tmp_path / "state", [], settings(), dry_run=True)

    assert shown.messages == []
    assert (shown.sent_messages, shown.sent_chars, shown.estimated_tokens) == (0, 0, 0)
    assert shown.next_round is not None
    assert shown.next_round.decision is Decision.SMALL


async def test_without_its_agent_a_session_is_shown_and_no_round_is_planned(tmp_path: Path) -> None:
    messages = [user("hi", "t1"), *tool(50_000, "t1"), said("done", "t1")]

    shown = await shown_of(tmp_path / "state", messages, settings(), agent=None, dry_run=True)

    assert [line.state for line in shown.messages] == [LineState.KEPT] * 4
    assert shown.next_round is None


async def test_notices_are_not_shown_for_they_are_never_sent(tmp_path: Path) -> None:
    messages = [user("hi", "t1"), Message(Role.NOTICE, "a notice", turn_id=TurnId("t1"))]

    shown = await shown_of(tmp_path / "state", messages, settings())

    assert [line.role for line in shown.messages] == [Role.USER]


async def test_text_is_shown_only_where_it_is_asked_for_on_one_short_line(tmp_path: Path) -> None:
    call, result = tool(200, "t1", images=1)
    messages = [user("one\n two\tthree", "t1"), call, result, said("", "t1")]

    without = await shown_of(tmp_path / "one", messages, settings())
    texts = await shown_of(tmp_path / "two", messages, settings(), text=True)

    assert {line.text for line in without.messages} == {None}
    assert [line.text for line in texts.messages] == [
        "one two three",
        "calls look {}",
        "x" * 80 + "...",
        "",
    ]


async def test_only_the_newest_messages_are_listed_and_all_are_counted(tmp_path: Path) -> None:
    count = MAX_LINES + 6
    messages = [user("a", f"t{number}") for number in range(count)]

    shown = await shown_of(tmp_path / "state", messages, settings())

    assert len(shown.messages) == MAX_LINES
    assert (shown.messages_not_listed, shown.said_messages, shown.said_chars) == (6, count, count)
    assert shown.messages[-1].number == count


class Racing:
    """A database to which turns are committed while it is read."""

    def __init__(self, database: Database, one: SessionEntry, times: int) -> None:
        self.reads = 0
        self._database = database
        self._entry = one
        self._times = times

    async def read(self, query: Callable[[Connection], Any]) -> Any:  # noqa: ANN401 - as the database's
        self.reads += 1
        if self._times and self.reads % 2 == 0:
            self._times -= 1
            turn = f"late{self.reads}"
            await put(self._database, [user("u", turn), said("a", turn)], self._entry)
        return await self._database.read(query)


@pytest.mark.parametrize("before", [[], [user("hi", "t1"), said("ho", "t1")]])
async def test_a_turn_committed_meanwhile_is_shown_whole(
    tmp_path: Path, before: list[Message]
) -> None:
    one, agent = entry(), AgentFacts("played", WINDOW, 100, 0)
    async with open_state(tmp_path / "state") as state:
        await put(state.database, before, one)
        racing: Any = Racing(state.database, one, 1)

        shown = await show_context(racing, one, agent, settings(), START)

    assert racing.reads == 4
    assert shown.sent_messages == shown.said_messages == len(before) + 2
    assert {line.state for line in shown.messages} == {LineState.KEPT}


async def test_turns_committed_all_the_time_are_told(tmp_path: Path) -> None:
    one, agent = entry(), AgentFacts("played", WINDOW, 100, 0)
    async with open_state(tmp_path / "state") as state:
        racing: Any = Racing(state.database, one, 1_000)

        with pytest.raises(UnavailableError, match="all the time"):
            await show_context(racing, one, agent, settings(), START)


async def test_what_was_frozen_is_shown_whatever_the_settings_are_now(tmp_path: Path) -> None:
    agent = PlayedAgent(looks, context_window_tokens=WINDOW, reserve_tokens=100)
    async with running_turns(tmp_path / "state", agent) as bench:
        bench.turns.contexts.settings = settings()
        for text in ("look 6000", "hi"):
            await bench.say(text)
        await bench.clock.advance(301)
        await bench.say("round")
        bench.turns.contexts.settings = settings(mode="off", tools={"deny": ["*"]})

        shown = await look_at(bench, agent)

        stored = await bench.state.database.read(
            lambda conn: projections.read(conn, bench.entry().session_id)
        )
        (line,) = [line for line in shown.messages if line.role is Role.TOOL]
        assert len(stored) == 1
        assert line.state is LineState.TRIMMED
        assert line.sent_chars < line.said_chars == 6_000 + len(f"c-{_turn_of(agent)}")
        assert (line.protected, line.why) == (True, "tool denied by context.pruning.tools")


def _turn_of(agent: PlayedAgent) -> str:
    return next(one.turn_id for one in agent.contexts[-1] if one.role is Role.TOOL)


def summary_of(turns: int, through: str) -> Summary:
    return Summary(TurnId(through), turns, "so far", AgentId("main"), "m", 10, 5)


def talk(turns: int) -> list[Message]:
    """Return a question and an answer a turn; the turns are t0, t1 and so on."""
    return [one for n in range(turns) for one in (user(f"q{n}", f"t{n}"), said("a", f"t{n}"))]


@pytest.mark.parametrize(
    ("turns", "through", "left_out", "whys", "sums"),
    [
        pytest.param(3, "t2", "", ["summarised"] * 3, (3, 0), id="summarised-alone"),
        pytest.param(
            2, "t3", "t1", ["no room", "no room", "summarised", "summarised"], (2, 2), id="before"
        ),
        pytest.param(
            2, "t1", "t3", ["summarised", "summarised", "no room", "no room"], (2, 2), id="after"
        ),
        pytest.param(
            2, "t2", "t3", ["no room", "summarised", "summarised", "no room"], (2, 2), id="both"
        ),
        pytest.param(2, "elsewhere", "t0", ["no room"], (2, 0), id="of-turns-that-are-not-there"),
    ],
)
async def test_a_turn_is_told_as_summarised_where_the_summary_covers_it_and_no_other(
    tmp_path: Path,
    turns: int,
    through: str,
    left_out: str,
    whys: list[str],
    sums: tuple[int, int],
) -> None:
    shown = await shown_of(
        tmp_path / "state",
        talk(6),
        settings(),
        summary=summary_of(turns, through),
        left_out=left_out,
    )

    lead, *lines = shown.messages
    assert (lead.state, lead.number, lead.why) == (
        LineState.SUMMARY,
        0,
        f"stands for {turns} turns",
    )
    gone = [line for line in lines if line.state is LineState.LEFT_OUT]
    told = [line.why.removesuffix(" in the window") for line in gone]
    assert told == [why for why in whys for _ in ("question", "answer")]
    assert {line.state for line in lines[len(gone) :]} == {LineState.KEPT}
    assert (shown.summarised_turns, shown.left_out_turns) == sums


async def test_a_summary_is_listed_above_the_newest_messages_and_counted_with_none(
    tmp_path: Path,
) -> None:
    turns = MAX_LINES // 2
    few = await shown_of(tmp_path / "few", talk(3), settings(), summary=summary_of(1, "t0"))
    many = await shown_of(
        tmp_path / "many", talk(turns + 1), settings(), summary=summary_of(1, "t0")
    )

    assert [line.number for line in few.messages] == list(range(7))
    assert (few.messages_not_listed, few.messages[0].why) == (0, "stands for 1 turn")
    assert [line.number for line in many.messages] == [0, *range(3, MAX_LINES + 3)]
    assert (many.messages_not_listed, many.said_messages) == (2, MAX_LINES + 2)


@pytest.mark.parametrize("dry_run", [False, True])
async def test_a_refused_message_is_told_and_does_not_hide_the_rest(
    tmp_path: Path, *, dry_run: bool
) -> None:
    agent = PlayedAgent(looks, context_window_tokens=WINDOW, reserve_tokens=100)
    async with running_turns(tmp_path / "state", agent) as bench:
        for text in ("x" * 1_000, "y" * 40_000, "z" * 1_000, "hi"):
            await bench.say(text)

        shown = await look_at(bench, agent, dry_run=dry_run)

    refused = [line for line in shown.messages if line.why.startswith("refused: ")]
    assert [(line.number, line.state, line.sent_chars) for line in refused] == [
        (3, LineState.LEFT_OUT, 0)
    ]
    assert (shown.said_messages, shown.left_out_turns) == (7, 1)


async def test_of_a_session_that_is_counted_as_little_as_much_is_shown_as_a_turn_reads(
    tmp_path: Path,
) -> None:
    one, letters = entry(), [said(c * (2 * WINDOW), c) for c in "abcde"]
    asked = [
        both
        for c, answered in zip("abcde", letters, strict=True)
        for both in (user("q", c), answered)
    ]
    little = ContextAccount(
        "played", request_tokens=2_500, tokens_per_estimate=0.25, weighed_tokens=30_000
    )
    agent = PlayedAgent(looks, context_window_tokens=WINDOW, reserve_tokens=100)
    async with open_state(tmp_path / "state") as state:
        await state.store.create(one)
        await put(state.database, asked, one)
        await state.database.write(lambda tx: accounts.keep(tx, one.session_id, little))
    async with running_turns(tmp_path / "state", agent) as bench:
        before = await look_at(bench, agent)
        reply = await bench.say("a")

    # More than twice a window's characters at four a token, and nothing of it has left yet.
    assert before.sent_chars > 2 * 4 * WINDOW
    assert (before.left_out_turns, {line.state for line in before.messages}) == (
        0,
        {LineState.KEPT},
    )
    assert before.next_round is not None
    assert before.next_round.left_out_turns == reply.context.turns_left_out > 0
    assert to_be_sent(before) == [message_chars(one) for one in agent.contexts[-1][:-1]]
