"""A context and tools as the chat-completions wire takes them, and what that wire counts. Pure.

The same message always becomes the same bytes, so that a provider finds its prompt cache.
Knows no SDK: `gateway.agents.openai`, above, sends it.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import orjson

from gateway.agents.answer import Counted
from gateway.agents.calls import fit_name, hashed_id, parse_arguments, schema_of, sent_arguments
from gateway.agents.direct import Takes
from gateway.model import Message, Role, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.agents.asked import Wishes
    from gateway.model import Image, ToolCall, ToolSpec

WireMessage = dict[str, Any]

MAX_CALL_ID_CHARS: Final = 40
"""The longest id of a call that the official endpoint takes."""
MAX_DESCRIPTION_CHARS: Final = 1_024
"""The longest description of a tool that the official endpoint takes."""

_AS_NAMED: Final = frozenset(
    {
        "frequency_penalty",
        "presence_penalty",
        "reasoning_effort",
        "response_format",
        "seed",
        "stop",
        "temperature",
        "top_p",
    }
)
"""Wishes that the wire has under the same name."""
OPENAI_TAKES: Final = Takes(
    tools=True,
    wishes=_AS_NAMED | {"max_output_tokens", "named_tool", "parallel_calls", "tool_choice"},
)


def wire_messages(system_prompt: str, messages: Sequence[Message]) -> list[WireMessage]:
    """Return the messages of a request; notices are left out."""
    wire: list[WireMessage] = []
    if system_prompt:
        wire.append({"role": "system", "content": system_prompt})
    wire.extend(_wire_message(message) for message in messages if message.role is not Role.NOTICE)
    return wire


def wire_tools(tools: Sequence[ToolSpec], *, official: bool = False) -> list[dict[str, Any]]:
    """Return the definitions of tools, by name.

    Args:
        tools: What the model is offered.
        official: Whether descriptions are cut to what OpenAI's own endpoint takes.
    """
    return [
        {"type": "function", "function": _function(tool, official=official)}
        for tool in sorted(tools, key=attrgetter("name"))
    ]


def wire_wishes(wishes: Wishes) -> dict[str, Any]:
    """Return the parameters that wishes become, those about tools and length aside."""
    return {name: getattr(wishes, name) for name in sorted(wishes.named() & _AS_NAMED)}


def wire_choice(wishes: Wishes) -> str | dict[str, Any]:
    """Return which tools an answer may or must call, where there are tools."""
    if wishes.named_tool is not None:
        return {"type": "function", "function": {"name": wishes.named_tool}}

    return wishes.tool_choice or "auto"


def image_marker(image: Image) -> str:
    """Return what stands for an image where the wire takes text alone."""
    return f"[image: {image.media_type}]"


def read_usage(told: Sequence[Any]) -> Counted:
    """Return what an endpoint counted, told last, in whichever of the known fields.

    `prompt_tokens` counts all input. What was read from the cache and what was written to it are
    parts of that; an endpoint that contradicts itself is held to the sum.

    Raises:
        AttributeError, TypeError, ValueError: It cannot be read.
    """
    counted = told[-1]
    prompt_tokens = counted.prompt_tokens
    cached = _cached_tokens(counted, prompt_tokens)
    read = min(cached or 0, prompt_tokens)
    details = counted.prompt_tokens_details
    written = min((details.cache_write_tokens or 0) if details else 0, prompt_tokens - read)
    completion = counted.completion_tokens_details
    usage = Usage(
        input_tokens=prompt_tokens - read - written,
        output_tokens=counted.completion_tokens,
        cache_read_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=(completion.reasoning_tokens or 0) if completion else 0,
    )
    return Counted(usage, cache_counted=cached is not None)


def _cached_tokens(counted: Any, prompt_tokens: int) -> int | None:  # noqa: ANN401 - built unchecked from what came
    """Return what was read from the cache; None where nothing is told of it."""
    details = counted.prompt_tokens_details
    cached: int | None = details.cached_tokens if details else None
    # DeepSeek's fields, which the SDK's types do not know.
    if cached is None:
        cached = getattr(counted, "prompt_cache_hit_tokens", None)
    missed: int | None = getattr(counted, "prompt_cache_miss_tokens", None)
    if cached is None and missed is not None:
        cached = prompt_tokens - missed
    return cached


def _wire_message(message: Message) -> WireMessage:
    unnamed = _unnamed(message)
    return unnamed | {"name": message.name} if message.name else unnamed


def _unnamed(message: Message) -> WireMessage:
    match message.role:
        case Role.TOOL:
            return {
                "role": "tool",
                "tool_call_id": _call_id(message.tool_call_id),
                "content": "\n".join(
                    [*([message.text] if message.text else []), *map(image_marker, message.images)]
                ),
            }
        case Role.ASSISTANT if message.tool_calls:
            return {
                "role": "assistant",
                "content": message.text or None,
                "tool_calls": [_call(call) for call in message.tool_calls],
            }
        case Role.USER if message.images:
            return {"role": "user", "content": [*_text_part(message.text), *_images(message)]}
        case role:
            return {"role": role.value, "content": message.text}


def _call(call: ToolCall) -> dict[str, Any]:
    arguments = call.arguments
    # Some endpoints read them, and refuse each request whose history has others.
    if not arguments.strip() or parse_arguments(arguments) is None:
        arguments = orjson.dumps(sent_arguments(arguments)).decode()
    return {
        "id": _call_id(call.call_id),
        "type": "function",
        "function": {"name": fit_name(call.name), "arguments": arguments},
    }


def _call_id(call_id: str) -> str:
    return call_id if 0 < len(call_id) <= MAX_CALL_ID_CHARS else hashed_id(call_id)


def _function(tool: ToolSpec, *, official: bool) -> dict[str, Any]:
    cut = official and not tool.verbatim
    function: dict[str, Any] = {
        "name": tool.name,
        "description": _cut(tool.description) if cut else tool.description,
        "parameters": schema_of(tool),
    }
    return function if tool.strict is None else function | {"strict": tool.strict}


def _cut(text: str) -> str:
    return text if len(text) <= MAX_DESCRIPTION_CHARS else f"{text[: MAX_DESCRIPTION_CHARS - 1]}…"


def _text_part(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}] if text else []


def _images(message: Message) -> list[dict[str, Any]]:
    parts = []
    for image in message.images:
        shown = {"url": f"data:{image.media_type};base64,{image.data}"}
        if image.detail:
            shown["detail"] = image.detail
        parts.append({"type": "image_url", "image_url": shown})
    return parts
