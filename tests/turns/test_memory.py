"""Laws of contexts that are read back: what stands in front, what is not read, what is bounded."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest

from gateway.context.projection import tool_item
from gateway.context.settings import CompactionSettings
from gateway.context.summary import CompactionPlan, summary_message
from gateway.context.window import overflow
from gateway.model import (
    AgentId,
    Image,
    Message,
    Projection,
    ProjectionMode,
    Role,
    SessionId,
    Summary,
    TurnId,
)
from gateway.transcripts import projections, summaries
from gateway.transcripts.reading import beginning_after
from gateway.transcripts.writing import append_messages
from gateway.turns.memory import (
    MAX_IMAGE_CHARS,
    ContextMemory,
    SessionContext,
    leave_out,
    load_context,
)
from tests.context.conversations import calls, facts, notice, says, talk, user
from tests.support.database import opened_database

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gateway.durable.database import Database

ID: Final = SessionId("s")
AT: Final = "2026-01-01T00:00:00Z"
ALL: Final = 1_000_000


def _summary(through: str, turns: int, text: str = "so far") -> Summary:
    return Summary(TurnId(through), turns, text, AgentId("main"), "m", 10, 5)


async def _said(database: Database, messages: Sequence[Message]) -> None:
    await database.write(lambda tx: append_messages(tx, ID, messages, at=AT))


async def _made(database: Database, *made: Projection) -> None:
    await database.write(lambda tx: projections.keep(tx, ID, made, at=AT))


async def _summed(database: Database, summary: Summary) -> None:
    await database.write(lambda tx: summaries.keep(tx, ID, summary, at=AT))


async def _load(
    database: Database, *, max_chars: int = ALL, max_image_chars: int = MAX_IMAGE_CHARS
) -> SessionContext:
    return await load_context(database, ID, max_chars=max_chars, max_image_chars=max_image_chars)


def _ids(context: SessionContext) -> list[str]:
    """Return the turns of a context, each once."""
    return list(dict.fromkeys(one.turn_id for one in context.counted.messages))


async def test_the_newest_summary_leads_and_the_turns_it_covers_are_not_read(
    tmp_path: Path,
) -> None:
    async with opened_database(tmp_path) as database:
        await _said(database, talk(9, 100))
        await _summed(database, _summary("t1", 2, "older"))
        await _summed(database, _summary("t4", 5, "newer"))
        counted = (await _load(database)).counted

    assert counted.messages[0] == summary_message("newer", TurnId("t4")) == counted.summary
    assert counted.messages[1:] == talk(9, 100)[5 * 4 :]
    assert (counted.left_out_turns, counted.summarised_turns) == (5, 5)


@pytest.mark.parametrize(
    ("through", "left_out", "first"),
    [
        pytest.param("t2", "t5", "t6", id="turns-left-since-the-summary"),
        pytest.param("t5", "t2", "t6", id="a-summary-since-turns-left"),
        pytest.param("t4", "t4", "t5", id="of-the-same-turns"),
    ],
)
async def test_the_turns_begin_after_what_is_further_on_and_the_summary_leads_all_the_same(
    tmp_path: Path, through: str, left_out: str, first: str
) -> None:
    async with opened_database(tmp_path) as database:
        await _said(database, talk(9, 100))
        await _made(database, Projection(left_out, ProjectionMode.OMIT))
        await _summed(database, _summary(through, 2))
        context = await _load(database)

    assert _ids(context)[:2] == [through, first]
    assert context.counted.left_out_turns == int(first[1:])
    assert context.counted.summarised_turns == 2


async def test_turns_that_are_summarised_and_gone_are_counted_beside_those_left_out_since(
    tmp_path: Path,
) -> None:
    async with opened_database(tmp_path) as database:
        await _said(database, talk(9, 100))
        await _summed(database, replace(_summary("t4", 5), through=20))
        await _made(database, Projection("t6", ProjectionMode.OMIT, through=28))
        await database.write(
            lambda tx: tx.execute("DELETE FROM messages WHERE position <= 18 OR turn_id = 't6'")
        )
        context = await _load(database)

    assert _ids(context) == ["t4", "t7", "t8"]
    # Of those left out one is gone as well; who is gone is not left out.
    assert (context.counted.left_out_turns, context.counted.summarised_turns) == (6, 5)


async def test_a_summary_of_turns_that_are_not_there_hides_none(tmp_path: Path) -> None:
    async with opened_database(tmp_path) as database:
        await _said(database, talk(2, 100))
        await _summed(database, _summary("elsewhere", 3))
        context = await _load(database)

    assert _ids(context) == ["elsewhere", "t0", "t1"]


async def test_after_a_restart_a_summarised_context_is_as_it_was(tmp_path: Path) -> None:
    """Results that were pruned, turns never sent, and silent answers among what it covers."""
    said = [*talk(2, 100), user("t2"), notice("t2"), user("t3"), says("t3", "NO_REPLY")]
    said += [user("t4"), says("t4", "NO_REPLY"), *talk(9, 100)[5 * 4 :]]
    items = [tool_item(TurnId(turn), "c0", 0) for turn in ("t1", "t7")]
    made = [Projection(item, ProjectionMode.CLEAR, placeholder="-") for item in items]
    made.append(Projection("t2", ProjectionMode.SKIP))
    async with opened_database(tmp_path) as database:
        await _said(database, said)
        await _made(database, *made)
        context = await _load(database)
        covered = sum(one.turn_id in {"t0", "t1", "t3"} for one in context.counted.messages)
        plan = CompactionPlan(covered, 3, TurnId("t3"), 9_999, CompactionSettings())
        context.counted.summarise(plan, "so far")
        dropped = context.dropped
        assert sorted(dropped) == sorted([items[0], "t2"])

        summary = _summary("t3", context.counted.summarised_turns)
        await _summed(database, summary)
        await database.write(lambda tx: projections.drop(tx, ID, dropped))
        again = await _load(database)

        assert facts(again.counted) == facts(context.counted)
        assert again.counted.left_out_turns == 4
        assert [one.item for one in await database.read(lambda c: projections.read(c, ID))] == [
            items[1]
        ]


async def test_what_was_made_of_turns_that_leave_is_told_to_who_stores_it(tmp_path: Path) -> None:
    items = [tool_item(TurnId(f"t{number}"), "c0", 0) for number in range(6)]
    async with opened_database(tmp_path) as database:
        await _said(database, talk(6, 1_000))
        await _made(
            database, *(Projection(one, ProjectionMode.CLEAR, placeholder="-") for one in items[:4])
        )
        context = await _load(database)
        chars = context.counted.chars
        assert leave_out(context.counted, overflow(context.counted, chars)) is None
        assert context.dropped == []

        left = leave_out(context.counted, overflow(context.counted, chars - 1))
    assert left is not None
    gone = int(left.item[1:]) + 1
    assert context.dropped == items[: min(gone, 4)]
    assert SessionContext().dropped == []


def _pictures(turns: int, size: int) -> list[Message]:
    """Return turns with a picture each, of so many characters."""
    said = []
    for number in range(turns):
        turn = TurnId(f"t{number}")
        shown = Image("image/png", chr(97 + number % 26) * size)
        result = Message(
            Role.TOOL, "", tool_call_id="c", tool_name="look", turn_id=turn, images=(shown,)
        )
        said += [user(turn), calls(turn, "c"), result, says(turn)]
    return said


async def test_images_that_no_request_takes_are_left_out_while_they_are_read(
    tmp_path: Path,
) -> None:
    """What is held at any time is told by what has left: never all of it, and the newest stays."""
    async with opened_database(tmp_path) as database:
        await _said(database, _pictures(40, 10_000))
        context = await _load(database, max_image_chars=100_000)
        counted = context.counted

        assert 60_000 <= counted.image_chars <= 100_000
        assert counted.messages[-1].turn_id == "t39"
        assert context.left_out is not None
        assert context.left_out.item == f"t{counted.left_out_turns - 1}"
        assert context.weight >= counted.image_chars + counted.chars

        await _made(database, context.left_out)
        again = await _load(database, max_image_chars=100_000)
        assert facts(again.counted) == facts(counted)
        assert again.left_out is None


async def test_images_that_were_pruned_weigh_nothing(tmp_path: Path) -> None:
    async with opened_database(tmp_path) as database:
        await _said(database, _pictures(40, 10_000))
        items = [tool_item(TurnId(f"t{number}"), "c", 0) for number in range(35)]
        await _made(
            database, *(Projection(one, ProjectionMode.CLEAR, placeholder="-") for one in items)
        )
        context = await _load(database, max_image_chars=100_000)

    assert (context.left_out, context.counted.image_chars) == (None, 50_000)


async def test_a_turn_that_is_too_much_by_itself_leaves_whole(tmp_path: Path) -> None:
    """Whether by its images or its text; what comes after it is read as after a restart."""
    huge = [replace(one, turn_id=TurnId("h")) for one in _pictures(30, 10_000)]
    huge += [replace(one, turn_id=TurnId("h")) for one in talk(30, 1_000)]
    huge.append(says("h", "NO_REPLY"))
    said = [*_pictures(3, 10), *huge, user("t3"), says("t3", "NO_REPLY"), *talk(2, 10)]
    async with opened_database(tmp_path) as database:
        await _said(database, said)
        through = await database.read(lambda conn: beginning_after(conn, ID, TurnId("h")).position)
        loaded = [
            await _load(database, max_image_chars=100_000),
            await _load(database, max_chars=10_000),
        ]
        for context in loaded:
            assert context.left_out == Projection("h", ProjectionMode.OMIT, through=through)
            assert context.counted.messages == [user("t3"), *talk(2, 10)]
            assert (context.counted.left_out_turns, context.counted.image_chars) == (4, 0)

        await _made(database, Projection("h", ProjectionMode.OMIT))
        assert facts((await _load(database)).counted) == facts(loaded[0].counted)


async def test_no_more_is_held_than_a_message_beyond_the_bound(tmp_path: Path) -> None:
    """Also where all of it is one turn, which is known to be too much only later."""
    size, turns = 100_000, 100
    one_turn = [replace(one, turn_id=TurnId("h")) for one in _pictures(turns, size)]
    for name, said in (("many", _pictures(turns, size)), ("one", one_turn)):
        (tmp_path / name).mkdir()
        async with opened_database(tmp_path / name) as database:
            await _said(database, said)
            del said[:]
            tracemalloc.start()
            await _load(database, max_image_chars=10 * size)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 30 * size


async def test_the_memory_of_contexts_counts_their_images(tmp_path: Path) -> None:
    async with opened_database(tmp_path) as database:
        await _said(database, _pictures(4, 10_000))
        context = await _load(database)
    memory = ContextMemory(max_chars=context.weight)

    memory.keep(ID, context)
    assert memory.take(ID) is context
    memory.keep(SessionId("small"), SessionContext())
    memory.keep(ID, context)
    memory.keep(SessionId("last"), context)
    assert memory.take(ID) is None
    assert memory.take(SessionId("last")) is context
