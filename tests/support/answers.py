"""What a pretended model says and a pretended provider refuses, whichever wire carries it.

Knows no wire: `tests.support.chat_wire` and `tests.support.messages_wire` are above.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from gateway.model import ToolCall
from tests.support.prompt_cache import CHARS_PER_TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = dict[str, Any]

TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What both wires take as the name of a tool."""


class NotTakenError(Exception):
    """A provider answers 400 to such a request."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the pretended model says."""

    text: str = "pong"
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish: str = ""
    """Why it ends, in the wire's own word; empty: because all is said or a tool is called."""
    then: Literal["ends", "fails", "is cut", "hangs"] = "ends"
    """What a stream does after the first half of its events: goes on to its end, tells an error,
    breaks off with its connection, or is silent until the client leaves."""

    @property
    def thinking_tokens(self) -> int:
        """What was thought."""
        return _tokens(len(self.thinking))

    @property
    def tokens(self) -> int:
        """All output: what was thought, said and called."""
        called = sum(len(call.name) + len(call.arguments) for call in self.tool_calls)
        return self.thinking_tokens + _tokens(len(self.text) + called)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error that the pretended provider answers instead."""

    status: int
    retry_after_s: float | None = None
    message: str = "no"
    kind: str = "api_error"
    code: str | None = None


def check_tools(definitions: list[Json], schema_key: str) -> None:
    """Check the tools that a request defines, however its wire wraps them.

    Raises:
        NotTakenError: The provider would not take them.
    """
    names = [definition["name"] for definition in definitions]
    for place, definition in enumerate(definitions):
        schema = definition[schema_key]
        if not TOOL_NAME.fullmatch(definition["name"]):
            raise NotTakenError(f"tools.{place}.name: String should match pattern")
        if not isinstance(definition.get("description", ""), str):
            raise NotTakenError(f"tools.{place}.description: Input should be a valid string")
        if not isinstance(schema, dict) or schema.get("type") != "object":
            raise NotTakenError(f"tools.{place}.{schema_key}.type: Input should be 'object'")
        if not isinstance(schema.get("properties", {}), dict):
            raise NotTakenError(f"tools.{place}.{schema_key}: JSON schema is invalid")
    if len(names) != len(set(names)):
        raise NotTakenError("tools: Tool names must be unique.")


def pieces(text: str, count: int = 4) -> Iterator[str]:
    """Cut a text into at most `count` pieces of about one size."""
    size = max(1, -(-len(text) // count))
    return (text[start : start + size] for start in range(0, len(text), size))


def _tokens(chars: int) -> int:
    return -(-chars // CHARS_PER_TOKEN)
