"""Items, rules and managers, briefly."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import anyio.lowlevel

from gateway.clock import FakeClock
from gateway.pruning import (
    CountCondition,
    DeleteAction,
    ItemSummary,
    ItemType,
    PrunableItem,
    PruningConfig,
    PruningManager,
    PruningRule,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.pruning import PruningResult
    from gateway.pruning.conditions import Condition
    from gateway.pruning.rules import Action

NOW = FakeClock().now()
DAY_S = 86_400.0


def item(name: str, age_s: float = 0, session: str = "s", **fields: Any) -> PrunableItem:  # noqa: ANN401 - whatever a test gives
    """Return an item of an age, of 100 bytes and 10 tokens unless it says otherwise."""
    values: dict[str, Any] = {"type": ItemType.MESSAGE, "size_bytes": 100, "tokens": 10, **fields}
    if "content" in values and "size_bytes" not in fields:
        values["size_bytes"] = len(values["content"].encode())
    return PrunableItem(
        id=name, session_id=session, created_at=NOW - timedelta(seconds=age_s), **values
    )


def items(number: int, session: str = "s", **fields: Any) -> list[PrunableItem]:  # noqa: ANN401 - whatever a test gives
    """Return items `<session>0000`, ..., the first one the oldest."""
    return [
        item(f"{session}{place:04}", number - place, session, **fields) for place in range(number)
    ]


def call(name: str, age_s: float, *calls: str, **fields: Any) -> PrunableItem:  # noqa: ANN401 - whatever a test gives
    """Return a message that calls tools."""
    return item(name, age_s, metadata={"role": "assistant", "tool_calls": list(calls)}, **fields)


def answer(name: str, age_s: float, to: str, **fields: Any) -> PrunableItem:  # noqa: ANN401 - whatever a test gives
    """Return the result of a tool call."""
    fields = {"type": ItemType.TOOL_RESULT, **fields}
    return item(name, age_s, metadata={"role": "tool", "tool_call_id": to}, **fields)


def rule(
    name: str,
    *conditions: Condition,
    action: Action | None = None,
    priority: int = 0,
    **fields: Any,  # noqa: ANN401 - whatever a test gives
) -> PruningRule:
    """Return a rule that deletes, unless it says otherwise."""
    return PruningRule(name, name, priority, conditions, action or DeleteAction(), **fields)


def limit(number: int, **fields: Any) -> PruningRule:  # noqa: ANN401 - whatever a test gives
    """Return a rule that deletes the oldest surplus of a session."""
    return rule("count", CountCondition(number), **fields)


def manager(
    rules: Iterable[PruningRule],
    stored: Any = (),  # noqa: ANN401 - whatever a test gives
    *,
    clock: FakeClock | None = None,
    summarizer: Any = None,  # noqa: ANN401 - whatever a test gives
    evaluators: Any = None,  # noqa: ANN401 - whatever a test gives
    live_turns: Any = None,  # noqa: ANN401 - whatever a test gives
    **config: Any,  # noqa: ANN401 - whatever a test gives
) -> PruningManager:
    """Return a manager over items in memory."""
    return PruningManager(
        PruningConfig(rules=tuple(rules), **config),
        stored,
        summarizer,
        clock or FakeClock(),
        evaluators,
        live_turns,
    )


def left(one: PruningManager) -> list[str]:
    """Return the ids of the items that are there, the oldest first."""
    return [item.id for item in one.get_all_items()]


def taken(result: PruningResult) -> list[str]:
    """Return the ids of what was pruned, in the order it was."""
    return [record.item_id for record in result.pruned_items]


def reasons(result: PruningResult) -> dict[str, str]:
    """Return why items were skipped, by id."""
    return {skip.item_id: skip.reason.value for skip in result.skipped_items}


@dataclass
class Summaries:
    """A summarizer that writes what it is told to, and keeps what it was asked."""

    text: str = "short"
    tokens: int | None = 1
    failures: list[Exception] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    gate: anyio.Event | None = None
    """Set: it waits for it."""
    begun: anyio.Event = field(default_factory=anyio.Event)

    async def summarize(
        self, item: PrunableItem, *, target_tokens: int | None, reason: str
    ) -> ItemSummary:
        self.asked.append(item.id)
        self.begun.set()
        if self.gate is not None:
            await self.gate.wait()
        await anyio.lowlevel.checkpoint()
        if self.failures:
            raise self.failures.pop(0)
        return ItemSummary(self.text, self.tokens)
