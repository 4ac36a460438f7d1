"""What a rule asks of an item, or of the set that the item is part of.

Pure. Conditions of an item look at it alone. Conditions of a set (`count`, `total_tokens`,
`total_size`) hold for the oldest surplus only: for what has to go so that the rest is within the
limit. `type` also says what a set is made of: `type` and `count` together count those types only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

from gateway.pruning.items import ItemType, PrunableItem
from gateway.pruning.units import compared_durations, compared_sizes

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class Observation:
    """What a condition saw, and what it compared that with."""

    condition: str
    """The condition's kind."""
    observed: float | str
    threshold: float | str
    """What `observed` has to exceed, or to be among."""
    of: str = ""
    """For a set: whose sum it is, `session` or `all`."""

    @property
    def text(self) -> str:
        """One clause, as in `age 31.2d > 30d`."""
        if isinstance(self.observed, str) or isinstance(self.threshold, str):
            return f"{self.condition} {self.observed}: {self.threshold}"

        whose = f" of {self.of}" if self.of else ""
        if self.condition == AgeCondition.kind:
            observed, threshold = compared_durations(self.observed, self.threshold)
        elif self.condition in {SizeCondition.kind, TotalSizeCondition.kind}:
            observed, threshold = compared_sizes(int(self.observed), int(self.threshold))
        else:
            observed, threshold = f"{self.observed:,}", f"{self.threshold:,}"
        return f"{self.condition}{whose} {observed} > {threshold}"


@dataclass(frozen=True, slots=True)
class AgeCondition:
    """The item is strictly older; one dated in the future never is."""

    kind: ClassVar[str] = "age"
    max_age_s: float

    @property
    def threshold(self) -> float:
        """What the age has to exceed, in seconds."""
        return self.max_age_s

    def seen(self, item: PrunableItem, now: datetime) -> float:
        """Return the item's age in seconds."""
        return (now - item.created_at).total_seconds()


@dataclass(frozen=True, slots=True)
class SizeCondition:
    """The item is larger."""

    kind: ClassVar[str] = "size"
    max_size_bytes: int

    @property
    def threshold(self) -> int:
        """What the size has to exceed."""
        return self.max_size_bytes

    def seen(self, item: PrunableItem, _now: datetime) -> int:
        """Return the item's size in bytes."""
        return item.size_bytes


@dataclass(frozen=True, slots=True)
class TokensCondition:
    """The item has more tokens; one that nobody counted has none."""

    kind: ClassVar[str] = "tokens"
    max_tokens: int

    @property
    def threshold(self) -> int:
        """What the tokens have to exceed."""
        return self.max_tokens

    def seen(self, item: PrunableItem, _now: datetime) -> int:
        """Return the item's tokens."""
        return item.tokens or 0


@dataclass(frozen=True, slots=True)
class TypeCondition:
    """The item's type is among the included ones, or not among the excluded."""

    kind: ClassVar[str] = "type"
    include: frozenset[ItemType] = frozenset()
    exclude: frozenset[ItemType] = frozenset()

    @property
    def types(self) -> frozenset[ItemType]:
        """The types for which it holds."""
        return (self.include or frozenset(ItemType)) - self.exclude

    @property
    def threshold(self) -> str:
        """What the type has to be among, or not to be among."""
        named = self.include or self.exclude
        return ("one of " if self.include else "none of ") + ", ".join(sorted(named))

    def seen(self, item: PrunableItem, _now: datetime) -> str:
        """Return the item's type."""
        return item.type.value


@dataclass(frozen=True, slots=True)
class CustomCondition:
    """A registered function says yes."""

    kind: ClassVar[str] = "custom"
    function: str
    """The name it is registered under."""
    params: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Handed to the function."""

    threshold: ClassVar[str] = "yes"

    def seen(self, _item: PrunableItem, _now: datetime) -> str:
        """Return which function is asked; it says yes of every item that a rule takes."""
        return self.function


@dataclass(frozen=True, slots=True)
class Totals:
    """What a set of items comes to."""

    items: int = 0
    size_bytes: int = 0
    tokens: int = 0

    def __add__(self, other: Totals) -> Totals:
        """Add field by field."""
        return Totals(
            self.items + other.items,
            self.size_bytes + other.size_bytes,
            self.tokens + other.tokens,
        )

    def __sub__(self, other: Totals) -> Totals:
        """Subtract field by field."""
        return Totals(
            self.items - other.items,
            self.size_bytes - other.size_bytes,
            self.tokens - other.tokens,
        )


NO_TOTALS: Final = Totals()


@dataclass(frozen=True, slots=True)
class CountCondition:
    """The set has more items."""

    kind: ClassVar[str] = "count"
    max_count: int
    low_water_ratio: float = 1.0
    """Once the limit is exceeded, what of it may stay in that run; 1: all of it. See `surplus`."""

    @property
    def maximum(self) -> int:
        """The limit."""
        return self.max_count

    def total(self, totals: Totals) -> int:
        """Return what of the totals is limited."""
        return totals.items

    def amount(self, _item: PrunableItem) -> int:
        """Return what an item adds to it."""
        return 1


@dataclass(frozen=True, slots=True)
class TotalTokensCondition:
    """The set has more tokens."""

    kind: ClassVar[str] = "total_tokens"
    max_total_tokens: int
    low_water_ratio: float = 1.0
    """Once the limit is exceeded, what of it may stay in that run; 1: all of it. See `surplus`."""

    @property
    def maximum(self) -> int:
        """The limit."""
        return self.max_total_tokens

    def total(self, totals: Totals) -> int:
        """Return what of the totals is limited."""
        return totals.tokens

    def amount(self, item: PrunableItem) -> int:
        """Return what an item adds to it."""
        return item.token_count


@dataclass(frozen=True, slots=True)
class TotalSizeCondition:
    """The set has more bytes."""

    kind: ClassVar[str] = "total_size"
    max_total_bytes: int
    low_water_ratio: float = 1.0
    """Once the limit is exceeded, what of it may stay in that run; 1: all of it. See `surplus`."""

    @property
    def maximum(self) -> int:
        """The limit."""
        return self.max_total_bytes

    def total(self, totals: Totals) -> int:
        """Return what of the totals is limited."""
        return totals.size_bytes

    def amount(self, item: PrunableItem) -> int:
        """Return what an item adds to it."""
        return item.size_bytes


ItemCondition: TypeAlias = (
    AgeCondition | SizeCondition | TokensCondition | TypeCondition | CustomCondition
)
SetCondition: TypeAlias = CountCondition | TotalTokensCondition | TotalSizeCondition
Condition: TypeAlias = ItemCondition | SetCondition
SET_CONDITIONS: Final = (CountCondition, TotalTokensCondition, TotalSizeCondition)


def surplus(condition: SetCondition, total: int) -> int:
    """Return what is too much of a total: 0 up to the limit, else all above the low water.

    It is that of one run, which takes it as far as its budgets let it. Where they end it between
    the limit and the low water, nothing is too much any more until the limit is exceeded again.
    """
    if total <= condition.maximum:
        return 0

    return total - int(condition.maximum * condition.low_water_ratio)


def observe(condition: ItemCondition, item: PrunableItem, now: datetime) -> Observation:
    """Return what a condition sees in an item, and what it compares that with."""
    return Observation(condition.kind, condition.seen(item, now), condition.threshold)


def holds(condition: ItemCondition, item: PrunableItem, now: datetime) -> bool:
    """Return whether a condition of an item holds; of a custom one only its function knows."""
    if isinstance(condition, TypeCondition):
        return item.type in condition.types

    if isinstance(condition, CustomCondition):
        raise TypeError("a custom condition is asked, not compared")

    return condition.seen(item, now) > condition.threshold
