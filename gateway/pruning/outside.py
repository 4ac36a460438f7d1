"""Functions of others that pruning calls: evaluators and the summarizer, each for a limited time.

Pure but for what it is handed. What an asynchronous function returns is awaited; an answer that is
no truth value is a failure, never a yes.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from gateway.pruning.items import PrunableItem
from gateway.pruning.shrinking import ItemSummary

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from gateway.pruning.conditions import CustomCondition

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EvaluationContext:
    """What an evaluator is told beside the item."""

    now: datetime
    """The instant that the whole plan goes by."""
    params: Mapping[str, Any]
    """As the condition has them."""


Evaluator: TypeAlias = Callable[[PrunableItem, EvaluationContext], bool | Awaitable[bool]]
"""Says whether a custom condition holds. What it raises costs the item this run, nothing more."""


class Summarizer(Protocol):
    """Writes summaries."""

    async def summarize(
        self, item: PrunableItem, *, target_tokens: int | None, reason: str
    ) -> ItemSummary:
        """Return a summary of an item's content.

        Args:
            target_tokens: How long it should be; None leaves it to the summarizer.
            reason: Why the rule takes the item.
        """
        ...


class Times(Protocol):
    """Tells the time and waits, as `gateway.clock.Clock` does."""

    def now(self) -> datetime:
        """Return the wall-clock instant."""
        ...

    def monotonic(self) -> float:
        """Return seconds that only grow."""
        ...

    async def sleep(self, duration_s: float) -> None:
        """Wait; zero yields once."""
        ...

    def move_on_after(self, duration_s: float) -> AbstractContextManager[object]:
        """End the body of a `with` after so many seconds."""
        ...


async def within(clock: Times, limit_s: float, awaitable: Awaitable[T]) -> T:
    """Return what is awaited.

    Raises:
        TimeoutError: it took longer.
    """
    with clock.move_on_after(limit_s):
        return await awaitable

    raise TimeoutError(f"it took longer than {limit_s:g} s")


async def ask(
    evaluator: Evaluator,
    item: PrunableItem,
    condition: CustomCondition,
    now: datetime,
    bounded: Callable[[Awaitable[bool]], Awaitable[bool]],
) -> bool:
    """Return what an evaluator says of an item.

    Raises:
        TypeError: it answers something that is no truth value.
        Exception: whatever it raises.
    """
    answer: object = evaluator(item, EvaluationContext(now, condition.params))
    if inspect.isawaitable(answer):
        answer = await bounded(answer)
    if not isinstance(answer, bool):
        raise TypeError(f"{condition.function} answers no truth value")

    return answer


def checked_summary(summary: object) -> ItemSummary:
    """Return a summary that is one.

    Raises:
        TypeError: it is none.
        ValueError: it is empty.
    """
    if not isinstance(summary, ItemSummary) or not isinstance(summary.content, str):
        raise TypeError("the summarizer returned no summary")
    if not summary.content.strip():
        raise ValueError("the summary is empty")
    if summary.tokens is not None and summary.tokens < 0:
        raise ValueError("the summary has a negative number of tokens")

    return summary
