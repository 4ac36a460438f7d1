"""Items in memory: their order, their sums, their versions."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from gateway.errors import BadRequestError, ConflictError
from gateway.pruning import ItemQuery, ItemType, MemoryItemStore, PrunableItem, Totals
from gateway.pruning.ordered import CHUNK, Ordered
from tests.pruning.making import item, items, left, manager


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3)), max_size=60))
def test_items_are_in_order_however_they_come_and_go(steps: list[tuple[int, int]]) -> None:
    store, model = MemoryItemStore(), dict[str, int]()
    for number, what in steps:
        name = f"i{number:02}"
        if what == 0:
            assert store.remove(name) == (model.pop(name, None) is not None)
        else:
            store.add(item(name, what))
            model[name] = what

    expected = sorted(model, key=lambda name: (-model[name], name))
    assert [one.id for one in store.all()] == [one.id for one in store.of_session("s")] == expected


def test_many_chunks_are_one_order() -> None:
    ordered = Ordered[PrunableItem](lambda one: one.position)
    made = items(CHUNK * 5)
    for one in made[::2] + made[1::2][::-1]:
        ordered.add(one)
    for one in made[10:-10]:
        ordered.remove(one)
    rest = made[:10] + made[-10:]

    assert len(ordered) == 20
    assert [one for part in ordered.after(None) for one in part] == rest
    assert [one for part in ordered.after(rest[4].position) for one in part] == rest[5:]
    assert list(ordered.newest_first()) == rest[::-1]


async def test_pages_go_on_where_the_last_one_ended_whatever_happens_between() -> None:
    store = MemoryItemStore(items(1_000))
    seen: list[str] = []
    after = None
    while True:
        page = await store.page(ItemQuery(), after=after, limit=64)
        assert len(page.items) <= 64
        seen += [one.id for one in page.items]
        if page.next is None:
            break
        after = page.next
        store.remove(page.items[0].id)
        store.add(item(f"past{len(seen)}", 5_000))

    assert seen == [f"s{place:04}" for place in range(1_000)]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["a", "b", "c"]),
        ({"session_id": "t"}, ["b"]),
        ({"session_id": "nobody"}, []),
        ({"session_id": "t", "excluded": frozenset({"t"})}, []),
        ({"excluded": frozenset({"s"})}, ["b"]),
        ({"created_before": item("c", 1).created_at}, ["a", "b"]),
        ({"size_over_bytes": 100}, ["b"]),
        ({"tokens_over": 10}, ["c"]),
        ({"types": frozenset({ItemType.FILE})}, ["a"]),
        ({"types": frozenset()}, []),
    ],
)
async def test_a_query_finds_what_meets_all_of_it(
    query: dict[str, Any], expected: list[str]
) -> None:
    store = MemoryItemStore(
        [
            item("a", 3, type=ItemType.FILE, tokens=None),
            item("b", 2, "t", size_bytes=101),
            item("c", 1, tokens=11),
        ]
    )

    page = await store.page(ItemQuery(**query), after=None, limit=10)

    assert [one.id for one in page.items] == expected
    if not {"created_before", "size_over_bytes", "tokens_over"} & query.keys():
        assert (await store.sum(ItemQuery(**query))).items == len(expected)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", ""),
        ("id", 7),
        ("session_id", ""),
        ("type", "mail"),
        ("created_at", datetime(2026, 1, 1)),  # noqa: DTZ001 - which is what is wrong
        ("created_at", "yesterday"),
        ("size_bytes", -1),
        ("size_bytes", 1.5),
        ("size_bytes", True),
        ("tokens", -1),
        ("content", b"x"),
        ("metadata", None),
        ("metadata", {"tool_calls": "x"}),
        ("metadata", {"pruning": "x"}),
        ("metadata", {"pruning": {"at": "soon"}}),
        ("pinned", 1),
        ("version", -1),
    ],
)
def test_an_item_of_no_use_is_refused_by_name(
    field: str,
    value: Any,  # noqa: ANN401 - whatever is wrong
) -> None:
    pruner = manager([])

    with pytest.raises(BadRequestError, match=rf"^('a'|''|7): {field}"):
        pruner.add_item(replace(item("a"), **{field: value}))

    assert left(pruner) == []


def test_a_type_may_be_written_out() -> None:
    store = MemoryItemStore([replace(item("a"), type="file")])  # type: ignore[arg-type]

    assert store.all()[0].type is ItemType.FILE


def test_what_is_stored_cannot_be_changed_from_outside() -> None:
    metadata = {"tool_calls": ["x"]}
    pruner = manager([], [item("a", metadata=metadata)])
    metadata["tool_calls"].append("y")

    stored = pruner.get_item("a")

    assert stored is not None
    assert stored.metadata["tool_calls"] == ["x"]
    with pytest.raises(TypeError):
        stored.metadata["role"] = "system"  # type: ignore[index]


def test_versions_only_grow_also_across_a_removal() -> None:
    pruner = manager([], [item("a", version=5)])
    assert pruner.add_item(item("a")).version == 6
    assert pruner.add_item(item("a", version=9)).version == 9
    assert pruner.remove_item("a")
    assert not pruner.remove_item("a")
    assert pruner.add_item(item("a")).version == 10
    assert pruner.add_item(item("b")).version == 10


async def test_items_are_found_by_session_and_cleared_but_for_the_archive() -> None:
    pruner = manager([], [*items(2, "a"), *items(1, "b")])
    assert [one.id for one in pruner.get_session_items("a")] == ["a0000", "a0001"]
    assert pruner.get_session_items("c") == []
    assert pruner.get_item("c") is None
    assert pruner.clear_items() == 3
    stats = pruner.get_stats()
    assert (stats.global_stats.total_items, dict(stats.sessions)) == (0, {})


async def test_a_manager_over_another_store_sends_whoever_asks_for_items_there() -> None:
    class Other:
        """Forwards to items in memory, and is none."""

        def __init__(self) -> None:
            self.inner = MemoryItemStore(items(3))

        def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever it forwards
            return getattr(self.inner, name)

    other = Other()
    pruner = manager([], other)

    with pytest.raises(ConflictError, match="in a store of their own"):
        pruner.get_all_items()

    assert pruner.get_stats().global_stats.total_items == 3
    assert (await pruner.prune()).stats.scanned_count == 3


class _Sums(RuleBasedStateMachine):
    """Sums that are kept are sums that are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryItemStore()

    @rule(
        name=st.sampled_from("abcdef"),
        session=st.sampled_from("pq"),
        size=st.integers(0, 9),
        tokens=st.none() | st.integers(0, 9),
        kind=st.sampled_from(ItemType),
    )
    def put(self, name: str, session: str, size: int, tokens: int | None, kind: ItemType) -> None:
        self.store.add(item(name, size, session, size_bytes=size, tokens=tokens, type=kind))

    @rule(name=st.sampled_from("abcdef"))
    def take(self, name: str) -> None:
        self.store.remove(name)

    @invariant()
    def sums_agree(self) -> None:
        stored, stats = self.store.all(), self.store.statistics()
        by_session = {
            name: sum((_totals(one) for one in stored if one.session_id == name), start=Totals())
            for name in {one.session_id for one in stored}
        }
        assert dict(stats.sessions) == by_session
        assert stats.totals == sum(by_session.values(), start=Totals())


def _totals(one: PrunableItem) -> Totals:
    return Totals(1, one.size_bytes, one.tokens or 0)


def test_sums_that_are_kept_are_sums_that_are_counted() -> None:
    run_state_machine_as_test(_Sums)
