"""Explanations: every rule condition by condition, every protection, and when an item is due."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from typing_extensions import override

from gateway.clock import FakeClock
from gateway.errors import NotFoundError
from gateway.pruning import (
    AgeCondition,
    ArchiveAction,
    CompactAction,
    CountCondition,
    CustomCondition,
    MemoryItemStore,
    Protection,
    Protections,
    PrunableItem,
    RuleScope,
    SizeCondition,
    TypeCondition,
)
from gateway.pruning.items import ItemType
from tests.pruning.making import answer, call, item, items, limit, manager, rule

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

AGE = rule("age", AgeCondition(100))


async def test_every_condition_says_what_it_saw_and_its_threshold() -> None:
    rules = [
        rule(
            "many",
            AgeCondition(5),
            SizeCondition(100),
            TypeCondition(include=frozenset({ItemType.MESSAGE})),
            CustomCondition("no"),
            CountCondition(3),
        )
    ]
    pruner = manager(rules, items(10), evaluators={"no": lambda *_: False})

    told = (await pruner.explain("s0002")).rules[0]

    assert [(one.observation.text, one.holds) for one in told.conditions] == [
        ("age 8s > 5s", True),
        ("size 100B > 100B", False),
        ("type message: one of message", True),
        ("custom no: no", False),
        ("count of session 10 > 3", True),
    ]
    assert not told.takes
    assert told.reason == "does not hold: size, custom"
    assert told.due_at is None


async def test_the_rule_that_takes_an_item_says_why() -> None:
    pruner = manager([limit(3), rule("age", AgeCondition(5), priority=-1)], items(10))

    told = await pruner.explain("s0000")

    assert told.taken_by == "count"
    assert [(one.rule_id, one.takes, one.reason) for one in told.rules] == [
        ("count", True, "count of session 10 > 3"),
        ("age", False, "count comes before"),
    ]


async def test_what_is_newer_than_the_surplus_says_so() -> None:
    told = (await manager([limit(3)], items(10)).explain("s0008")).rules[0]

    assert told.conditions[0].detail == "newer than the oldest surplus"
    assert told.reason == "does not hold: count"


@pytest.mark.parametrize("scope", list(RuleScope))
async def test_a_set_within_its_limit_says_so(scope: RuleScope) -> None:
    told = (await manager([limit(30, scope=scope)], items(10)).explain("s0000")).rules[0]

    assert told.conditions[0].observation.text == f"count of {scope} 10 > 30"
    assert told.conditions[0].detail == "the set is within the limit"


async def test_an_item_tells_when_it_is_due() -> None:
    clock = FakeClock()
    pruner = manager([AGE, rule("later", AgeCondition(500))], [item("a", 40)], clock=clock)

    told = await pruner.explain("a")

    assert told.due_at == clock.now() + timedelta(seconds=60)
    assert [one.due_at for one in told.rules] == [
        told.due_at,
        clock.now() + timedelta(seconds=460),
    ]
    assert told.taken_by is None
    await clock.advance(60)
    assert (await pruner.explain("a")).taken_by is None
    await clock.advance(0.001)
    assert (await pruner.explain("a")).taken_by == "age"


async def test_a_floor_puts_off_when_an_item_is_due() -> None:
    clock = FakeClock()
    pruner = manager([AGE], [item("a")], clock=clock, protections=Protections(min_age_s=300))

    assert (await pruner.explain("a")).due_at == clock.now() + timedelta(seconds=300)


async def test_what_was_restored_is_due_after_its_time() -> None:
    clock = FakeClock()
    pruner = manager(
        [rule("age", AgeCondition(10), action=ArchiveAction())],
        [item("a", 40)],
        clock=clock,
        protections=Protections(restored_s=300),
    )
    await pruner.prune()
    pruner.restore_item("a")

    told = await pruner.explain("a")

    assert told.protections == (Protection.RESTORED,)
    assert told.due_at == clock.now() + timedelta(seconds=300)
    assert told.rules[0].reason == "restored"


async def test_every_protection_is_listed_and_whether_the_rule_ignores_it() -> None:
    rules = [AGE, rule("bold", AgeCondition(10), ignore_protections={Protection.PINNED})]
    pruner = manager(rules, [item("a", 400, pinned=True, metadata={"role": "system"})])
    pruner.set_session_config("s", exempt=True)

    told = await pruner.explain("a")

    assert told.protections == (Protection.EXEMPT, Protection.PINNED, Protection.SYSTEM)
    bold = {one.protection: one for one in told.rules[1].protections}
    assert bold.keys() == set(Protection)
    assert (bold[Protection.PINNED].holds, bold[Protection.PINNED].ignored) == (True, True)
    assert told.rules[1].reason == "exempt"
    assert told.due_at is None
    assert Protection.EXEMPT not in (await pruner.explain("a", force=True)).protections


async def test_a_half_of_a_pair_says_so() -> None:
    pruner = manager([AGE], [call("c", 400, "x"), answer("r", 40, "x")])

    told = await pruner.explain("c")

    assert told.protections == (Protection.TOOL_PAIR,)
    assert told.rules[0].reason == "tool_pair"


async def test_rules_that_are_off_or_of_other_sessions_say_so() -> None:
    pruner = manager([limit(1, enabled=False), AGE], items(3))
    pruner.set_session_config("other", rules=[rule("own", AgeCondition(1))])
    pruner.set_session_config("s", rules=[rule("age", AgeCondition(7))])

    told = await pruner.explain("s0000")

    assert [(one.rule_id, one.counts, one.reason) for one in told.rules] == [
        ("age", False, "is not for this session"),
        ("age", True, "does not hold: age"),
        ("count", True, "is switched off"),
        ("own", False, "is not for this session"),
    ]


async def test_what_was_made_shorter_already_is_not_due() -> None:
    pruner = manager(
        [rule("short", SizeCondition(100), action=CompactAction(0.5))],
        [item("a", content="x" * 1_000)],
    )
    await pruner.prune()

    told = await pruner.explain("a")

    assert told.rules[0].reason == "already_applied"
    assert told.due_at is None


async def test_a_failing_function_says_so() -> None:
    def broken(*_: object) -> bool:
        raise RuntimeError

    pruner = manager(
        [rule("r", CustomCondition("broken"))], items(1), evaluators={"broken": broken}
    )

    told = (await pruner.explain("s0000")).rules[0]

    assert told.conditions[0].detail == "it failed: RuntimeError"


async def test_there_is_no_explanation_of_what_is_not_there() -> None:
    with pytest.raises(NotFoundError):
        await manager([AGE]).explain("a")


async def test_an_item_may_be_asked_for_by_another_spelling_that_its_store_knows() -> None:
    class Lenient(MemoryItemStore):
        @override
        async def find(self, item_ids: Collection[str]) -> Mapping[str, PrunableItem]:
            found = await super().find([one.zfill(4) for one in item_ids])
            return {one: found[one.zfill(4)] for one in item_ids if one.zfill(4) in found}

    told = await manager([AGE], Lenient([item("0042", 400)])).explain("42")

    assert (told.item_id, told.taken_by) == ("0042", "age")
