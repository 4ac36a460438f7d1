"""The items of a database: what they are, how they come in pages, and which of them never come."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import BadRequestError
from gateway.model import Image, Message, Role, SessionId, ToolCall, clean_text
from gateway.pruning import (
    AgeCondition,
    CountCondition,
    ItemQuery,
    ItemType,
    PruningRule,
    RuleScope,
    Totals,
    TotalSizeCondition,
    TotalTokensCondition,
)
from gateway.pruning.items import content_bytes
from gateway.pruning.rules import DeleteAction, Protection
from gateway.retention.items import item_id_of
from gateway.transcripts import items
from gateway.transcripts.reading import read_transcript
from tests.retention.telling import NOW, calls, numbers, result, says, stored, user

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.durable.batch import Queries
    from tests.retention.telling import Stored

OLD = PruningRule("old", "old", 0, (AgeCondition(10),), DeleteAction())
TEXTS = st.text(max_size=40).map(clean_text)


async def _tool_turn(one: Stored, turn: str = "t", age_s: float = 100, session: str = "s") -> None:
    """Store four rows: a question, a call, its result, an answer."""
    await one.tell(user(), calls("c"), result("c"), says(), turn=turn, age_s=age_s, session=session)


async def test_a_message_is_an_item(tmp_path: Path) -> None:
    async with stored(tmp_path) as one:
        await one.tell(user("größer"), calls("c"), result("c", "seen"), says())

        question, call, seen, _ = (await one.items.find(["1", "2", "000000000003", "4"])).values()

    assert (question.id, question.session_id) == ("000000000001", "s")
    assert question.created_at == NOW - timedelta(seconds=100)
    assert (question.size_bytes, question.tokens, question.content) == (8, 2, "größer")
    assert (question.version, question.pinned) == (1, False)
    assert question.metadata == {"role": "user", "turn_id": "t"}
    assert call.metadata["tool_calls"] == ("c",)
    assert call.content == ""
    assert seen.metadata == {"role": "tool", "turn_id": "t", "tool_call_id": "c"}
    assert [question.type, call.type, seen.type] == [
        ItemType.MESSAGE,
        ItemType.MESSAGE,
        ItemType.TOOL_RESULT,
    ]


@settings(max_examples=25)
@given(
    st.lists(
        st.builds(
            Message,
            role=st.sampled_from([Role.USER, Role.ASSISTANT, Role.TOOL]),
            text=TEXTS,
            tool_calls=st.lists(st.builds(ToolCall, TEXTS, TEXTS, TEXTS), max_size=2).map(tuple),
            tool_call_id=TEXTS,
            images=st.lists(st.builds(Image, TEXTS, TEXTS), max_size=2).map(tuple),
        ),
        min_size=1,
        max_size=6,
    )
)
async def test_an_item_is_as_large_as_what_is_stored_of_it(
    tmp_path_factory: pytest.TempPathFactory, messages: list[Message]
) -> None:
    async with stored(tmp_path_factory.mktemp("sizes")) as one:
        await one.tell(*messages)
        found = await one.all()

    def parts(message: Message) -> list[str]:
        return [
            message.text,
            *(orjson.dumps(some).decode() for some in (message.tool_calls, message.images) if some),
        ]

    assert [item.size_bytes for item in found] == [
        sum(map(content_bytes, parts(message))) for message in messages
    ]


async def test_the_newest_of_all_may_go_and_its_position_never_comes_again(tmp_path: Path) -> None:
    everything = PruningRule(
        "all",
        "all",
        0,
        (),
        DeleteAction(),
        match_all=True,
        ignore_protections=frozenset(Protection),
    )
    async with stored(tmp_path) as one:
        await one.tell(user(), says(), turn="a", age_s=50)
        await one.tell(calls("c"), result("c"), turn="b", age_s=40)
        assert await one.ids() == [1, 2, 3, 4]
        assert await one.ids(session_id="s") == [1, 2, 3, 4]
        plan = await one.manager(everything).plan()
        told = await one.manager(everything).explain("000000000004")
        assert told.taken_by == "all"
        assert "000000000004" in {action.item_id for unit in plan.units for action in unit}
        assert (await one.items.totals(None)).items == 4

        result_of = await one.manager(everything).prune(confirmed=True)

        assert len(result_of.pruned_items) == 4
        assert await one.rows("SELECT position FROM messages") == []

        await one.tell(user(), turn="c", age_s=30)
        assert await one.rows("SELECT position FROM messages") == [(5,)]


@dataclass
class _Explaining:
    """Notes how SQLite goes about each query."""

    place: Any
    steps: list[str] = field(default_factory=list)

    def execute(self, sql: str, bindings: Any = ()) -> Any:  # noqa: ANN401 - as apsw has it
        plan = self.place.execute(f"EXPLAIN QUERY PLAN {sql}", bindings)
        self.steps += [str(row[3]) for row in plan]
        return self.place.execute(sql, bindings)


@dataclass
class _Compiling:
    """Notes what of the table itself each query reads, by the program SQLite makes of it."""

    place: Any
    read: list[str] = field(default_factory=list)

    def execute(self, sql: str, bindings: Any = ()) -> Any:  # noqa: ANN401 - as apsw has it
        program = [row[1:6] for row in self.place.execute(f"EXPLAIN {sql}", bindings)]
        tables = {
            cursor
            for name, cursor, _, _, form in program
            if name == "OpenRead" and not str(form).startswith("k(")
        }
        assert tables
        reading = {"Column", "Rowid", "FinishSeek", "SeekRowid", "NotExists", "Offset"}
        self.read += [name for name, cursor, *_ in program if name in reading and cursor in tables]
        return self.place.execute(sql, bindings)


async def test_no_page_over_all_sessions_reads_a_text_or_sorts(tmp_path: Path) -> None:
    choices = [
        items.Choice(None, excluded, before, size, tokens, results)
        for before in (None, "2026")
        for size in (None, 5)
        for tokens in (None, 5)
        for results in (None, True, False)
        for excluded in ((), ("p", "q"))
    ]

    def work(place: Queries) -> None:
        for choice in choices:
            explaining, compiling = _Explaining(place), _Compiling(place)
            for noting in (explaining, compiling):
                items.page_of_all(noting, choice, after=("2025", 1), limit=10)
            used = [step for step in explaining.steps if "messages" in step]
            assert used[0].endswith("messages_as_items (created_at=? AND position>?)")
            assert "messages_as_items (created_at>?" in used[1]
            assert not [step for step in explaining.steps if "ORDER BY" in step]
            assert not compiling.read

    async with stored(tmp_path) as one:
        await one.database.read(work)


async def test_what_is_asked_for_often_goes_by_indexes(tmp_path: Path) -> None:
    def work(place: Queries) -> list[str]:
        explaining = _Explaining(place)
        items.page_of_session(explaining, items.Choice("s", tokens_over=1), after=3, limit=10)
        items.turn_of(explaining, "s", "t", "2026", [1])
        items.count_of_turn(explaining, "s", "t", [1])
        items.latest_instant(explaining)
        items.tool_calls(explaining, [1, 2])
        items.with_text(explaining, [1, 2])
        items.newest_of(explaining, "s", 3)
        items.sums(explaining, items.Choice("s"))
        return explaining.steps

    async with stored(tmp_path) as one:
        steps = await one.database.read(work)

    assert not [step for step in steps if step.startswith(("SCAN messages", "USE TEMP B-TREE"))]


async def test_pages_go_on_where_the_last_one_ended_whatever_happens_between(
    tmp_path: Path,
) -> None:
    async with stored(tmp_path) as one:
        for turn in range(30):
            await _tool_turn(one, f"t{turn}", age_s=1_000 - turn)
        for query in (ItemQuery(), ItemQuery(session_id="s")):
            first = await one.items.page(query, after=None, limit=10)
            assert len(first.items) <= 10
            await one.run("DELETE FROM messages WHERE position = ?", int(first.items[-1].id))
            await one.tell(user(), age_s=5_000)
            await one.tell(user(), age_s=0)
            seen = numbers(first.items)
            after = first.next
            while after is not None:
                page = await one.items.page(query, after=after, limit=10)
                seen += numbers(page.items)
                after = page.next
            # What is new within one session is at its end.
            assert [number for number in seen if number <= 120] == sorted(set(seen) & {*range(121)})
            assert {*range(1, 121)} - {*seen} <= {8, 10}
            assert len(set(seen)) == len(seen)


async def test_many_messages_of_one_instant_are_a_matter_of_position(tmp_path: Path) -> None:
    async with stored(tmp_path) as one:
        for turn in range(20):
            await one.tell(user(), says(), turn=f"t{turn}", session="pq"[turn % 2])

        assert numbers(await one.all(7)) == [*range(1, 41)]


async def test_instants_with_and_without_a_fraction_are_in_the_order_of_time(
    tmp_path: Path,
) -> None:
    async with stored(tmp_path) as one:
        for age_s in (100, 99.9, 99.5, 99, 98.3, 98, 97.9):
            await one.tell(user(), session=f"s{age_s}", age_s=age_s)
        await one.tell(user(), age_s=0)

        assert await one.ids() == [1, 2, 3, 4, 5, 6, 7, 8]
        assert await one.ids(limit=5) == [1, 2, 3, 4, 5, 6, 7, 8]
        for age_s, older in ((99.9, 1), (99.5, 2), (99, 3), (98.3, 4), (98, 5), (97.9, 6)):
            before = NOW - timedelta(seconds=age_s)
            assert await one.ids(created_before=before) == [*range(1, older + 1)]
            assert await one.ids(created_before=before, session_id="s100") == [1]
            for limit in (2, 100):
                since = await one.items.page(ItemQuery(), after=(before, ""), limit=limit)
                assert numbers(since.items)[:1] == [older + 1]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"session_id": "p"}, [5]),
        ({"session_id": "nobody"}, []),
        ({"session_id": "p", "excluded": frozenset({"p"})}, []),
        ({"excluded": frozenset({"s", "other"})}, [5, 6]),
        ({"created_before": NOW - timedelta(seconds=90)}, [1, 2, 3, 4]),
        ({"size_over_bytes": 8}, [2, 5]),
        ({"tokens_over": 10}, [2]),
        ({"types": frozenset({ItemType.TOOL_RESULT})}, [3]),
        ({"types": frozenset({ItemType.MESSAGE, ItemType.FILE})}, [1, 2, 4, 5, 6]),
        ({"types": frozenset({ItemType.FILE})}, []),
        ({"types": frozenset()}, []),
    ],
)
async def test_a_query_finds_what_meets_all_of_it(
    tmp_path: Path, query: dict[str, Any], expected: list[int]
) -> None:
    async with stored(tmp_path) as one:
        await _tool_turn(one)
        await one.tell(user("a long question"), session="p", age_s=90)
        await one.tell(user(), session="last", age_s=0)

        assert await one.ids(**query) == expected
        if not {"created_before", "size_over_bytes", "tokens_over"} & query.keys():
            summed = await one.items.sum(ItemQuery(**query))
            assert summed.items == len(expected)


async def test_contents_come_where_they_are_asked_for(tmp_path: Path) -> None:
    async with stored(tmp_path) as one:
        await one.tell(user("hello"), says())

        assert [item.content for item in await one.all()] == [None, None]
        assert [item.content for item in await one.all(with_content=True)] == ["hello", "answer"]
        with_content = await one.all(with_content=True, session_id="s")
        assert [item.content for item in with_content] == ["hello", "answer"]


async def test_sums_tell_which_sessions_exceed_a_limit_in_slices(tmp_path: Path) -> None:
    async with stored(tmp_path) as one:
        await one.run(
            "INSERT INTO messages (session_id, turn_id, role, text, created_at) "
            "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 5009) "
            "SELECT printf('s%04d', i % 2500), 't', CASE WHEN i % 2500 < 4 THEN 'tool' "
            "ELSE 'user' END, 'text', '2025-01-01T00:00:00Z' FROM n"
        )

        async def over(query: ItemQuery, condition: Any) -> dict[str, Totals]:  # noqa: ANN401 - one of three
            found: dict[str, Totals] = {}
            async for part in one.items.sessions_over(query, condition):
                assert len(part) <= 1_000
                found.update(part)
            return found

        everybody = await over(ItemQuery(), CountCondition(1))
        assert len(everybody) == 2_500
        assert everybody["s0003"] == Totals(3, 12, 3)
        more = {f"s{number:04}" for number in range(10)}
        assert set(await over(ItemQuery(), CountCondition(2))) == more
        assert set(await over(ItemQuery(), TotalSizeCondition(8))) == more
        assert set(await over(ItemQuery(), TotalTokensCondition(2))) == more
        excluded = ItemQuery(excluded=frozenset({"s0001"}))
        assert set(await over(excluded, CountCondition(2))) == more - {"s0001"}
        results = ItemQuery(types=frozenset({ItemType.TOOL_RESULT}))
        assert len(await over(results, CountCondition(2))) == 4
        assert await over(ItemQuery(types=frozenset()), CountCondition(0)) == {}
        assert len(await over(ItemQuery(session_id="s0001"), CountCondition(2))) == 1
        assert await over(ItemQuery(session_id="s0100"), CountCondition(2)) == {}


async def test_a_session_is_over_a_limit_from_the_message_on_that_exceeds_it(
    tmp_path: Path,
) -> None:
    async with stored(tmp_path) as one:
        found = []
        for _ in range(4):
            await one.tell(user())
            parts = one.items.sessions_over(ItemQuery(), CountCondition(2))
            found.append([name async for part in parts for name in part])

    assert found == [[], [], ["s"], ["s"]]


async def test_the_newest_of_a_session_are_its_last_that_were_made_until_then(
    tmp_path: Path,
) -> None:
    async with stored(tmp_path) as one:
        for age_s in (30, 20, 10, -0.5):
            await one.tell(user(), session="p", age_s=age_s)
        await one.tell(user(), session="q", age_s=5)

        for until, expected in ((NOW, {2, 3}), (NOW + timedelta(seconds=2), {3, 4})):
            newest = await one.items.newest(["p", "q", "nobody"], 2, until=until)
            assert {int(name) for name in newest["p"]} == expected
            assert newest["q"] == {"000000000005"}
            assert not newest.get("nobody")


async def test_the_halves_of_a_call_are_those_of_its_turn(tmp_path: Path) -> None:
    async with stored(tmp_path) as one:
        await _tool_turn(one, "t1")
        await _tool_turn(one, "t2")
        await _tool_turn(one, "t1", session="other")
        await one.tell(calls("x", "y"), result("x"), result("y"), says(), turn="t3", age_s=50)
        await one.tell(user(), age_s=0)

        for asked, expected in ((2, [2, 3]), (3, [2, 3]), (6, [6, 7]), (11, [10, 11])):
            halves = await one.items.halves([await one.item(str(asked))])
            assert sorted(numbers(halves)) == expected
        both = await one.items.halves([await one.item("14"), await one.item("3")])
        assert sorted(numbers(both)) == [2, 3, 13, 14, 15]


async def test_a_result_stored_apart_from_its_call_stays(tmp_path: Path) -> None:
    async with stored(tmp_path) as one:
        await one.tell(calls("c"), age_s=100)
        await one.tell(result("c"), age_s=99)
        await one.tell(user(), age_s=0)

        plan = await one.manager(OLD).plan()

    assert plan.units == ()
    assert {skip.reason.value for skip in plan.skipped} == {"tool_pair"}


async def test_a_result_whose_call_is_no_more_is_on_its_own(tmp_path: Path) -> None:
    async with stored(tmp_path) as one:
        await one.tell(user(), result("c"), says())
        await one.tell(user(), age_s=0)

        assert len((await one.manager(OLD).plan()).actions) == 3


DAMAGE = {
    "role": ("role", "assistent"),
    "no-instant": ("created_at", "yesterday"),
    "instant-of-another-form": ("created_at", "2025-12-31T23:58:20.000Z"),
    "instant-with-an-offset": ("created_at", "2025-12-31T23:58:20+00:00"),
    "marks-no-json": ("marks", "{"),
    "marks-no-table": ("marks", "[1]"),
    "marks-of-another-kind": ("marks", '{"at":"soon"}'),
    "calls-no-json": ("tool_calls", "["),
    "calls-no-list": ("tool_calls", "{}"),
    "calls-without-an-id": ("tool_calls", '[{"name":"look"}]'),
}


@pytest.mark.parametrize(("column", "value"), DAMAGE.values(), ids=DAMAGE)
async def test_a_damaged_row_costs_itself_and_what_may_belong_to_it(
    tmp_path: Path, column: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with stored(tmp_path) as one:
        await _tool_turn(one, "before", age_s=120)
        await _tool_turn(one, "damaged", age_s=100)
        await _tool_turn(one, "after", age_s=80)
        await one.tell(user(), age_s=0)
        await one.run(f"UPDATE messages SET {column} = ? WHERE position = 6", value)  # noqa: S608 - a name of ours

        readable = {1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13}
        for limit in (1, 2, 100):
            assert set(numbers(await one.all(limit))) == readable
        assert set(numbers(await one.all(2, session_id="s"))) == readable
        assert set(await one.items.find(["5", "6"])) == {"5"}
        assert one.items.stored().unreadable == 1

        result_of = await one.manager(OLD).prune(confirmed=True)

        assert result_of.success
        assert [row[0] for row in await one.rows("SELECT position FROM messages")] == [6, 7, 13]
        assert {skip.reason.value for skip in result_of.skipped_items} == {"tool_pair"}
        told = capsys.readouterr()
        lines = [line for line in (told.out + told.err).splitlines() if "item.unreadable" in line]
        assert len(lines) == 1
        assert "reason='its " in lines[0]
        assert f"{value}'" not in lines[0]


@pytest.mark.parametrize(
    "column", ["role", "turn_id", "created_at", "marks", "tool_calls", "tool_call_id"]
)
async def test_a_row_that_is_no_text_costs_itself_and_no_run(tmp_path: Path, column: str) -> None:
    async with stored(tmp_path) as one:
        await _tool_turn(one, "before", age_s=120)
        await _tool_turn(one, "damaged", age_s=100)
        await one.tell(user(), turn="later", age_s=0)
        await one.run(f"UPDATE messages SET {column} = CAST(x'ff' AS TEXT) WHERE position = 6")  # noqa: S608 - a name of ours

        for limit in (1, 2, 100):
            assert set(numbers(await one.all(limit))) == {1, 2, 3, 4, 5, 7, 8, 9}
        assert set(numbers(await one.all(2, session_id="s"))) == {1, 2, 3, 4, 5, 7, 8, 9}
        assert set(await one.items.find(["5", "6"])) == {"5"}
        assert one.items.stored().unreadable == 1

        result_of = await one.manager(OLD).prune(confirmed=True)
        left = [row[0] for row in await one.rows("SELECT position FROM messages")]

    assert result_of.success
    assert not {1, 2, 3, 4} & set(left)
    assert {6, 9} <= set(left)


@pytest.mark.parametrize("marks", ["'[1]'", "'null'", "'{'", "CAST(x'ff' AS TEXT)"])
async def test_marks_that_cannot_be_read_hide_no_transcript(tmp_path: Path, marks: str) -> None:
    async with stored(tmp_path) as one:
        await one.tell(user("hello"), says("hi"))
        await one.run(f"UPDATE messages SET marks = {marks} WHERE position = 1")  # noqa: S608 - texts of ours

        rows = await read_transcript(one.database, SessionId("s"))

    assert [(row.message.text, row.shortened) for row in rows] == [("hello", ""), ("hi", "")]


async def test_numbers_name_items_with_and_without_zeros(tmp_path: Path) -> None:
    async with stored(tmp_path) as one:
        await one.tell(user(), says())

        found = await one.items.find(["1", "000000000001", "2", "3", "x", "", "²", "9" * 30])

        assert {name: item.id for name, item in found.items()} == {
            "1": "000000000001",
            "000000000001": "000000000001",
            "2": "000000000002",
        }
        assert await one.items.find([]) == {}
    assert item_id_of("42") == item_id_of("000000000042") == "000000000042"
    for wrong in ("", "x", "-1", "4.0", "9" * 30):
        with pytest.raises(BadRequestError, match="no id of an item"):
            item_id_of(wrong)


async def test_what_is_stored_is_told_as_last_counted(tmp_path: Path) -> None:
    async with stored(tmp_path) as one:
        assert one.items.statistics().totals == Totals()
        await _tool_turn(one)
        await one.tell(user(), session="p")
        await one.items.count()

        told = one.items.statistics()

        assert told.totals == await one.items.totals(None)
        assert (told.totals.items, told.total_sessions, told.sessions) == (5, 2, {})
        assert (await one.items.totals("p")).items == 1
        assert await one.items.totals("nobody") == Totals()


async def test_each_transaction_is_another_revision(tmp_path: Path) -> None:
    async with stored(tmp_path) as one:
        before = one.items.revision()
        await one.tell(user())

        assert one.items.revision() > before
        assert one.items.revision() == one.items.revision()


async def test_a_count_of_all_takes_the_oldest_of_all(tmp_path: Path) -> None:
    rule = PruningRule("all", "all", 0, (CountCondition(3),), DeleteAction(), scope=RuleScope.ALL)
    async with stored(tmp_path) as one:
        for number, age_s in enumerate((10, 40, 30, 20)):
            await one.tell(user(), session=f"s{number}", age_s=age_s)
        await one.tell(user(), age_s=0)

        result_of = await one.manager(rule).prune()

    assert [record.item_id for record in result_of.pruned_items] == ["000000000002", "000000000003"]
