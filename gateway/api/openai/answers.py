"""Completions as OpenAI's clients read them, whole and as chunks of a stream. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import orjson

from gateway.model import ToolCall, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator

_PIECE_CHARS: Final = 1_024
"""In such pieces the arguments of a call are streamed."""


@dataclass(frozen=True, slots=True)
class Completed:
    """What came of a request."""

    text: str
    agent: str
    """Who answered."""
    usage: Usage | None
    """What the provider counted over all calls of the request; None where it counted nothing."""
    calls: Sequence[ToolCall] = ()
    """For the client to run."""
    cut: bool = False
    """Whether the answer has reached a limit of its length."""

    @property
    def finish_reason(self) -> str:
        """Why it ends."""
        if self.cut:
            return "length"

        return "tool_calls" if self.calls else "stop"


@dataclass(frozen=True, slots=True)
class Frame:
    """What all objects of one answer have in common."""

    turn_id: str
    model: str
    """The agent that was asked."""
    created_at: datetime
    with_usage: bool = False
    """Whether a stream ends with what was counted."""

    def whole(self, completed: Completed) -> dict[str, Any]:
        """Return an answer as one object."""
        message: dict[str, Any] = {
            "role": "assistant",
            "content": completed.text if completed.text or not completed.calls else None,
            "refusal": None,
        }
        if completed.calls:
            message["tool_calls"] = [_call(call) for call in completed.calls]
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": completed.finish_reason,
        }
        return self._object("chat.completion", completed.agent) | {
            "choices": [choice],
            "usage": usage_object(completed.usage),
        }

    def first(self) -> bytes:
        """Return the chunk that begins an answer."""
        return self._chunk({"role": "assistant", "content": ""})

    def text(self, text: str) -> bytes:
        """Return a chunk with a piece of the text."""
        return self._chunk({"content": text})

    def calls(self, calls: Sequence[ToolCall]) -> Iterator[bytes]:
        """Yield the chunks of calls: each begins with its name, its arguments follow in pieces."""
        for index, call in enumerate(calls):
            begun = _call(call)
            begun["function"]["arguments"] = ""
            yield self._chunk({"tool_calls": [{"index": index} | begun]})
            for start in range(0, len(call.arguments), _PIECE_CHARS):
                piece = {"arguments": call.arguments[start : start + _PIECE_CHARS]}
                yield self._chunk({"tool_calls": [{"index": index, "function": piece}]})

    def last(self, completed: Completed) -> Iterator[bytes]:
        """Yield the chunks that end an answer."""
        yield self._chunk({}, finish_reason=completed.finish_reason)
        if self.with_usage:
            chunk = self._object("chat.completion.chunk", completed.agent)
            yield orjson.dumps(chunk | {"choices": [], "usage": usage_object(completed.usage)})

    def _chunk(self, delta: dict[str, Any], *, finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        chunk = self._object("chat.completion.chunk", self.model) | {"choices": [choice]}
        if self.with_usage:
            chunk["usage"] = None
        return orjson.dumps(chunk)

    def _object(self, kind: str, model: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self.turn_id}",
            "object": kind,
            "created": int(self.created_at.timestamp()),
            "model": model or self.model,
        }


def usage_object(usage: Usage | None) -> dict[str, Any] | None:
    """Return what was counted; None where nothing was."""
    if usage is None:
        return None

    return {
        "prompt_tokens": usage.context_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.call_id, "type": "function", "function": function}
