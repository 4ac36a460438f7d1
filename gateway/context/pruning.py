"""A pruning round: which old tool results are trimmed or cleared in what is sent to a model.

Never touched: what comes before the first user message, the last assistant messages and what
follows them, the turn that runs, what people and agents said, the pairing of calls and results.
First long results are trimmed, then results are cleared, oldest first, until the context is small
enough. What a round does is frozen: see `gateway.context.projection`.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import translate
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING

from gateway.context.counted import CountedContext
from gateway.context.estimate import CHARS_PER_TOKEN_ESTIMATE, message_chars
from gateway.context.projection import project
from gateway.context.settings import PruningMode, PruningSettings
from gateway.model import Message, Projection, ProjectionMode

if TYPE_CHECKING:
    from gateway.context.settings import ToolSettings


class Decision(StrEnum):
    """Why a round is done, or not."""

    PRUNE = "prune"
    FORCED = "forced"
    """The cache is warm, but the window nearly full."""
    OFF = "off"
    SMALL = "small"
    """The context is below `soft_trim_ratio`."""
    WARM = "warm"
    """The provider's prompt cache still lives."""
    NOTHING = "nothing"
    """There is no tool result that may be made shorter."""
    LITTLE = "little"
    """It would save less than `min_saving_tokens`."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What a round depends on beside the messages."""

    window_tokens: int
    other_tokens: int
    """What a request carries beside the context: system prompt, tools, the new message, and what
    the provider last counted above the estimate."""
    cold: bool
    """Whether the provider's prompt cache has run out."""
    tokens_per_estimate: float = 1.0
    """How many tokens the provider counts for each that is estimated of the context."""
    full: bool = False
    """Whether turns would have to be left out, which breaks a warm cache as well."""


@dataclass(frozen=True, slots=True)
class Change:
    """One tool result made shorter."""

    place: int
    projection: Projection
    message: Message
    size: int
    """Its characters now."""


@dataclass(frozen=True, slots=True)
class Round:
    """What a round does; nothing is done before `apply`."""

    decision: Decision
    chars_before: int
    chars_after: int
    changes: tuple[Change, ...] = ()
    """In the order of the context; one for each place."""
    tokens_per_estimate: float = 1.0

    @property
    def saved_tokens(self) -> int:
        """How much smaller the context gets, estimated."""
        tokens = (self.chars_before - self.chars_after) / CHARS_PER_TOKEN_ESTIMATE
        return int(tokens * self.tokens_per_estimate)

    def count(self, mode: ProjectionMode) -> int:
        """Return how many results are trimmed, or cleared."""
        return sum(change.projection.mode is mode for change in self.changes)

    def tool_names(self) -> list[str]:
        """Return whose results are changed, each once, sorted."""
        return sorted({change.message.tool_name for change in self.changes})

    def apply(self, context: CountedContext) -> None:
        """Put the shorter results in place."""
        for change in self.changes:
            context.replace(change.place, change.projection, change.message, change.size)


def plan_round(context: CountedContext, settings: PruningSettings, situation: Situation) -> Round:
    """Return what a round would do now, and why it would not be done."""
    decision = _gate(context.chars, settings, situation)
    if decision in {Decision.PRUNE, Decision.FORCED}:
        plan = _Plan(context, settings, situation)
        plan.trim()
        plan.clear()
        done = plan.round(decision)
        if done.changes and done.saved_tokens >= settings.min_saving_tokens:
            return done

        decision = Decision.LITTLE if done.changes else Decision.NOTHING
    return Round(decision, context.chars, context.chars)


def _gate(chars: int, settings: PruningSettings, situation: Situation) -> Decision:
    if settings.mode is PruningMode.OFF:
        return Decision.OFF

    ratio = _ratio(chars, situation)
    if ratio < settings.soft_trim_ratio:
        return Decision.SMALL

    if situation.cold or settings.mode is PruningMode.ALWAYS:
        return Decision.PRUNE

    if situation.full or ratio >= settings.force_ratio:
        return Decision.FORCED

    return Decision.WARM


def _ratio(chars: int, situation: Situation) -> float:
    tokens = chars / CHARS_PER_TOKEN_ESTIMATE * situation.tokens_per_estimate
    return (tokens + situation.other_tokens) / situation.window_tokens


def protected_from(context: CountedContext, settings: PruningSettings) -> int:
    """Return the place from which on nothing is touched; 0 where nothing may be at all."""
    keep = settings.keep_last_assistants
    if keep == 0:
        return len(context.messages)

    return context.assistants[-keep] if len(context.assistants) >= keep else 0


@dataclass(slots=True)
class _Plan:
    """The changes so far, on top of the context as it is."""

    context: CountedContext
    settings: PruningSettings
    situation: Situation
    chars: int = 0
    start: int = 0
    end: int = 0
    changes: dict[int, Change] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chars = self.context.chars
        self.end = protected_from(self.context, self.settings)
        first_user = self.context.first_user
        self.start = self.end if first_user is None else first_user

    def trim(self) -> None:
        """Make all long results shorter."""
        trim = self.settings.soft_trim
        by, known = self.context.looked_at
        first = known if by is self.settings else 0
        for place in self._prunable(self.context.untrimmed, first):
            message = self.context.messages[place]
            if len(message.text) > trim.max_chars or message.images:
                self._change(
                    place,
                    message,
                    Projection(
                        self.context.item(place),
                        ProjectionMode.TRIM,
                        max_chars=trim.max_chars,
                        head_chars=trim.head_chars,
                        tail_chars=trim.tail_chars,
                    ),
                )
        self.context.looked_at = self.settings, min(self.changes, default=self.end)

    def clear(self) -> None:
        """Leave placeholders, oldest first, until the context is small enough."""
        hard = self.settings.hard_clear
        if not hard.enabled or not self._is_large():
            return

        places = self._prunable(self.context.results)
        sums, least = accumulate(map(self._size, places)), self.settings.min_prunable_tool_chars
        if not any(chars >= least for chars in sums):
            return

        for place in places:
            if not self._is_large():
                return
            projection = Projection(
                self.context.item(place), ProjectionMode.CLEAR, placeholder=hard.placeholder
            )
            self._change(place, self.context.messages[place], projection)

    def round(self, decision: Decision) -> Round:
        """Return what was planned."""
        changes = tuple(self.changes[place] for place in sorted(self.changes))
        rate = self.situation.tokens_per_estimate
        return Round(decision, self.context.chars, self.chars, changes, rate)

    def _is_large(self) -> bool:
        return _ratio(self.chars, self.situation) >= self.settings.hard_clear_ratio

    def _prunable(self, places: list[int], first: int = 0) -> list[int]:
        """Return which of the places, sorted, may be touched; from a place on."""
        messages, tools = self.context.messages, self.settings.tools
        low, high = bisect_left(places, max(self.start, first)), bisect_left(places, self.end)
        found = places[low:high]
        if not (tools.allow or tools.deny):
            return found

        return [place for place in found if is_allowed(messages[place].tool_name, tools)]

    def _size(self, place: int) -> int:
        change = self.changes.get(place)
        return self.context.sizes[place] if change is None else change.size

    def _change(self, place: int, message: Message, projection: Projection) -> None:
        """Plan a replacement, if it makes the result shorter."""
        projected = project(message, projection)
        size, before = message_chars(projected), self._size(place)
        if size < before:
            self.chars += size - before
            self.changes[place] = Change(place, projection, projected, size)


def is_allowed(tool_name: str, tools: ToolSettings) -> bool:
    """Return whether the results of a tool may be pruned."""
    if tools.deny and _matches(tool_name, tuple(tools.deny)):
        return False

    return not tools.allow or _matches(tool_name, tuple(tools.allow))


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(_pattern(one).match(name) is not None for one in patterns)


@lru_cache(maxsize=1_024)
def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern), re.IGNORECASE)
