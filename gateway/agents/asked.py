"""What a caller can ask of an answer beside a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from gateway.model import ToolSpec

Choice = Literal["auto", "none", "required"]


@dataclass(frozen=True, slots=True)
class Wishes:
    """How a caller wants to be answered; None leaves it to the agent."""

    tool_choice: Choice | None = None
    named_tool: str | None = None
    """The one tool that the answer has to call."""
    parallel_calls: bool | None = None
    """Whether an answer may call several tools."""
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] | None = None
    """Texts before which the answer ends."""
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    reasoning_effort: str | None = None
    response_format: Mapping[str, Any] | None = None
    """As the chat-completions wire has it."""

    def named(self) -> frozenset[str]:
        """Return the names of those that there are."""
        return frozenset(one.name for one in fields(self) if getattr(self, one.name) is not None)


NO_WISHES: Final = Wishes()


@dataclass(frozen=True, slots=True)
class Asked:
    """What a caller asks of one answer in a session beside the message."""

    instructions: tuple[str, ...] = ()
    """What the model is told behind the agent's own prompt, before the conversation."""
    tools: tuple[ToolSpec, ...] = ()
    """The caller's own."""
    wishes: Wishes = NO_WISHES

    @property
    def tool_names(self) -> frozenset[str]:
        """The names of the caller's tools."""
        return frozenset(tool.name for tool in self.tools)


NOTHING_ASKED: Final = Asked()
