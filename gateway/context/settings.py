"""Settings of the context: when and how old tool results leave it, and what caches cost."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from gateway.settings import Settings, broken_rule


class PruningMode(StrEnum):
    """When a pruning round may be done."""

    OFF = "off"
    CACHE_TTL = "cache-ttl"
    ALWAYS = "always"


Ratio = Annotated[float, Field(ge=0, le=1)]
Chars = Annotated[int, Field(ge=0)]
Pattern = Annotated[str, Field(min_length=1)]
Seconds = Annotated[float, Field(gt=0, le=2_592_000)]
Multiplier = Annotated[float, Field(ge=0, le=100)]


def _not_blank(text: str) -> str:
    # Providers refuse a message that shows nothing, and what was cleared stays so.
    if not text.strip():
        raise ValueError("is blank, accepted is a text with a visible character")

    return text


class SoftTrimSettings(Settings):
    """How a long tool result is trimmed."""

    max_chars: Chars = 4_000
    """A result with more characters is trimmed."""
    head_chars: Chars = 1_500
    """How much of its beginning stays."""
    tail_chars: Chars = 1_500
    """How much of its end stays."""

    @model_validator(mode="after")
    def _shorter_after_than_before(self) -> Self:
        if self.head_chars + self.tail_chars > self.max_chars:
            text = (
                f"head_chars and tail_chars are {self.head_chars + self.tail_chars} together; "
                f"accepted is at most max_chars, {self.max_chars}"
            )
            raise broken_rule("head_chars", text)

        return self


class HardClearSettings(Settings):
    """What is left of a tool result that is cleared."""

    enabled: bool = True
    """Whether results are cleared at all; else they are trimmed only."""
    placeholder: Annotated[str, Field(max_length=1_000), AfterValidator(_not_blank)] = (
        "[Old tool result content cleared]"
    )
    """What stands in its place."""


class ToolSettings(Settings):
    """Whose results may be pruned: name patterns with `*` and `?`, in any case. Deny wins."""

    allow: list[Pattern] = Field(default_factory=list)
    """Tools whose results may be pruned; empty: all."""
    deny: list[Pattern] = Field(default_factory=list)
    """Tools whose results stay as they are."""


class PruningSettings(Settings):
    """How old tool results leave the context; what was said stays in the transcript."""

    mode: Annotated[PruningMode, Field(strict=False)] = PruningMode.CACHE_TTL
    """`off`: no new rounds. `cache-ttl`: a round where the provider's prompt cache has run out, for
    the next request pays for the whole prompt anyway. `always`: a round whenever it saves."""
    ttl_s: Seconds = 300.0
    """How long a provider's prompt cache lives after the start of the last successful request, in
    seconds, where neither a `[[context.cache]]` table nor the agent's `cache_ttl` says it."""
    keep_last_assistants: Annotated[int, Field(ge=0)] = 3
    """So many of the last assistant messages, and what follows them, are never touched."""
    soft_trim_ratio: Ratio = 0.3
    """From this share of the window on, long results are trimmed."""
    hard_clear_ratio: Ratio = 0.5
    """From this share of the window on, results are cleared, oldest first, until it is less."""
    min_prunable_tool_chars: Chars = 50_000
    """Nothing is cleared where all results that may be have fewer characters together."""
    force_ratio: Annotated[float, Field(gt=0, le=1)] = 0.9
    """From this share of the window on, a round is done although the cache is warm."""
    min_saving_tokens: Annotated[int, Field(ge=0)] = 1_000
    """A round that saves fewer tokens is not done."""
    soft_trim: SoftTrimSettings = Field(default_factory=SoftTrimSettings)
    hard_clear: HardClearSettings = Field(default_factory=HardClearSettings)
    tools: ToolSettings = Field(default_factory=ToolSettings)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.soft_trim_ratio > self.hard_clear_ratio:
            text = (
                f"{self.soft_trim_ratio} is above hard_clear_ratio ({self.hard_clear_ratio}); "
                "accepted is at most that, for results are trimmed before they are cleared"
            )
            raise broken_rule("soft_trim_ratio", text)

        if self.force_ratio < self.hard_clear_ratio:
            text = (
                f"{self.force_ratio} is below hard_clear_ratio ({self.hard_clear_ratio}); "
                "accepted is at least that, else every request would break the cache"
            )
            raise broken_rule("force_ratio", text)

        return self


class CompactionSettings(Settings):
    """How the oldest turns are summarised by the agent once a context does not fit the window."""

    enabled: bool = True
    """Whether they are summarised; else they are left out. Some agents cannot summarise."""
    keep_turns: Annotated[int, Field(ge=0, le=1_000)] = 3
    """So many of the latest turns stay whole, unless they alone do not fit."""
    summary_chars: Annotated[int, Field(ge=500, le=100_000)] = 8_000
    """The longest summary, in characters; one that is longer is refused."""
    fill_ratio: Annotated[float, Field(ge=0.1, le=0.9)] = 0.5
    """What of the room in the window is taken afterwards at most, the longest summary included."""


class CacheSettings(Settings):
    """What the prompt cache of some models is like; the first table that matches counts."""

    agent: Pattern = "*"
    """Which agents: a name pattern with `*` and `?`."""
    model: Pattern = "*"
    """Which models: a name pattern with `*` and `?`."""
    ttl_s: Seconds | None = None
    """How long it lives after the start of the last request, in seconds; left out: as
    the agent's `cache_ttl` says, else `context.pruning.ttl_s`."""
    write_multiplier: Multiplier | None = None
    """What a token written to it costs, as a multiple of an input token; left out: 1.25, and
    `write_1h_multiplier` where the agent's `cache_ttl` is 1h. Without a `cache_ttl` a round is told
    to save at the plain price, for not everybody charges for writing."""
    write_1h_multiplier: Multiplier = 2.0
    """What a token costs that its provider says was written to live for an hour."""
    read_multiplier: Multiplier = 0.1
    """What a token read from it costs, as a multiple of an input token."""
    min_tokens: Annotated[int, Field(ge=0)] = 1_024
    """The shortest prompt that is cached at all, in tokens."""
    input_usd_per_mtok: Annotated[float, Field(ge=0, le=1_000_000)] | None = None
    """The price of a million input tokens, in US dollars; left out: no money is told."""
    output_usd_per_mtok: Annotated[float, Field(ge=0, le=1_000_000)] | None = None
    """The price of a million output tokens, in US dollars; left out: no money is told of calls."""

    @model_validator(mode="after")
    def _prices_of_both(self) -> Self:
        if self.output_usd_per_mtok is not None and self.input_usd_per_mtok is None:
            text = "means nothing without input_usd_per_mtok, accepted is a price for both"
            raise broken_rule("output_usd_per_mtok", text)

        return self


class ContextSettings(Settings):
    """What is sent to models, and what it costs."""

    pruning: PruningSettings = Field(default_factory=PruningSettings)
    compaction: CompactionSettings = Field(default_factory=CompactionSettings)
    cache: list[CacheSettings] = Field(default_factory=list)
    """What the prompt caches of models are like, one table each."""
