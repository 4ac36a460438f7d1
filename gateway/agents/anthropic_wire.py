"""A context and tools as the Messages API takes them, with the marks of its prompt cache. Pure.

The same message always becomes the same blocks: beside the marks nothing before the newest message
differs from one request of a session to the next, so that the cache finds its prefix. An exception
is a session with calls of the past whose agent has no tools: with the first of them its requests
define one, before all else.
Knows no SDK: `gateway.agents.anthropic`, above, sends it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, Final, Literal

from gateway.agents.answer import Counted
from gateway.agents.asked import NO_WISHES, Wishes
from gateway.agents.calls import fit_name, hashed_id, is_fit, schema_of, sent_arguments
from gateway.agents.direct import Takes
from gateway.model import Message, Role, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.model import Image, ToolCall, ToolSpec

Block = dict[str, Any]
CacheTtl = Literal["5m", "1h", "off"]

_IMAGE_TYPES: Final = frozenset({"image/gif", "image/jpeg", "image/png", "image/webp"})
_MAX_ID_CHARS: Final = 64
_CACHE_FIELDS: Final = frozenset({"cache_read_input_tokens", "cache_creation_input_tokens"})
_WISHES: Final = {"stop_sequences": "stop", "temperature": "temperature", "top_p": "top_p"}
"""Parameters of the wire, and the wish that each is."""
ANTHROPIC_TAKES: Final = Takes(
    tools=True,
    wishes=frozenset(_WISHES.values())
    | {"max_output_tokens", "named_tool", "parallel_calls", "tool_choice"},
    max_temperature=1.0,
)
_PAST_TOOL: Final = {
    "name": "past_tool",
    "description": "Stands for the tools of earlier turns. It cannot be called.",
    "input_schema": {"type": "object", "properties": {}},
}
"""The API refuses tool calls and results in a request that defines no tool. Which one it defines
is all the same: calls of tools that are not offered any more are taken beside any other."""


@dataclass(slots=True)
class _Blocks:
    """What a context becomes, in the order of the wire."""

    tools: list[Block] = field(default_factory=list)
    system: list[Block] = field(default_factory=list)
    said: list[tuple[str, Block]] = field(default_factory=list)
    """Each with the role that says it."""
    live_at: int = 0
    """How many come before the newest user message."""
    asked_at: int = 0
    """How many come before the newest assistant message: there the request before has ended."""
    with_calls: bool = False
    calls: Counter[str] = field(default_factory=Counter)
    """How often each id was called: the API takes none twice, some vendors begin anew each turn."""

    results: Counter[str] = field(default_factory=Counter)
    """How often each id was answered."""

    def next_call(self, call_id: str) -> str:
        """Return the id under which a call is sent."""
        self.calls[call_id] += 1
        return _call_id(_numbered(call_id, self.calls[call_id]))

    def next_result(self, call_id: str) -> str:
        """Return the id of the oldest call of this id that has no result yet."""
        self.results[call_id] += 1
        return _call_id(_numbered(call_id, self.results[call_id]))


def request_parts(
    system_prompt: str,
    messages: Sequence[Message],
    cache_ttl: CacheTtl,
    tools: Sequence[ToolSpec] = (),
    *,
    may_call: bool = True,
    wishes: Wishes = NO_WISHES,
) -> dict[str, Any]:
    """Return `messages` of a request and, where there is something in them, `system` and `tools`.

    The marks stand on the last block of the system prompt, or without one on the last tool, before
    the newest assistant message, before the newest user message, and on the last block of all. The
    API finds a prefix that ends at most 20 blocks before a mark: the second one is where the
    request before has ended, so that neither a turn of many steps nor a step of many calls loses
    the cache; the third one stays where it is for a whole turn.

    Args:
        system_prompt: The agent's; blank: none.
        messages: The context, oldest first.
        cache_ttl: How long the provider keeps the prompt; `off` sets no marks.
        tools: What the model is offered.
        may_call: Whether it may use them in its answer.
        wishes: Of those in `ANTHROPIC_TAKES`, the length aside.
    """
    blocks = _blocks(system_prompt, messages)
    blocks.tools += wire_tools(tools)
    if cache_ttl != "off":
        _mark(blocks, cache_ttl)
    parts: dict[str, Any] = {
        # The API takes a conversation that an assistant begins, so nothing is put before it.
        "messages": [
            {"role": role, "content": [block for _, block in group]}
            for role, group in groupby(blocks.said, key=itemgetter(0))
        ]
    }
    if blocks.system:
        parts["system"] = blocks.system
    for name, wish in _WISHES.items():
        if (wanted := getattr(wishes, wish)) is not None:
            parts[name] = wanted
    if blocks.tools:
        choice = _choice(wishes) if may_call else {"type": "none"}
        parts |= {"tools": blocks.tools, "tool_choice": choice}
    elif blocks.with_calls:
        parts |= {"tools": [_PAST_TOOL], "tool_choice": {"type": "none"}}
    return parts


def wire_tools(tools: Sequence[ToolSpec]) -> list[Block]:
    """Return the definitions of tools, by name."""
    return [
        {"name": tool.name, "description": tool.description, "input_schema": schema_of(tool)}
        | ({} if tool.strict is None else {"strict": tool.strict})
        for tool in sorted(tools, key=attrgetter("name"))
    ]


def read_usage(counted: Sequence[Any], *, cache_on: bool) -> Counted:
    """Return what an endpoint counted in the events of one answer; None counted nothing.

    Its numbers are cumulative, so the largest of each is the last, even where one event has 0 for
    what another one told.

    Args:
        counted: What its events told.
        cache_on: Whether it was asked to keep the prompt in its cache.

    Raises:
        AttributeError, TypeError, ValueError: It cannot be read.
    """
    seen = [usage.to_dict(exclude_none=True, warnings=False) for usage in counted if usage]

    def largest(name: str, *default: int, of: Sequence[dict[str, Any]] = seen) -> int:
        found: int = max([*(numbers[name] for numbers in of if name in numbers), *default])
        return found

    written = largest("cache_creation_input_tokens", 0)
    by_ttl = [numbers.get("cache_creation", {}) for numbers in seen]
    details = [numbers.get("output_tokens_details", {}) for numbers in seen]
    usage = Usage(
        input_tokens=largest("input_tokens"),
        output_tokens=largest("output_tokens"),
        cache_read_tokens=largest("cache_read_input_tokens", 0),
        cache_write_tokens=written,
        cache_write_1h_tokens=min(written, largest("ephemeral_1h_input_tokens", 0, of=by_ttl)),
        reasoning_tokens=largest("thinking_tokens", 0, of=details),
    )
    told = any(_CACHE_FIELDS & numbers.keys() for numbers in seen)
    return Counted(usage, cache_counted=cache_on and told)


def _choice(wishes: Wishes) -> dict[str, Any]:
    """Return which tools an answer may or must call."""
    if wishes.named_tool is not None:
        choice: dict[str, Any] = {"type": "tool", "name": wishes.named_tool}
    else:
        choice = {"type": "any" if wishes.tool_choice == "required" else "auto"}
    if wishes.parallel_calls is not None:
        choice["disable_parallel_tool_use"] = not wishes.parallel_calls
    return choice


def _blocks(system_prompt: str, messages: Sequence[Message]) -> _Blocks:
    blocks = _Blocks(system=_texts(system_prompt))
    for message in messages:
        match message.role:
            case Role.SYSTEM:
                # Not every model takes one in the middle of a conversation.
                blocks.system += _texts(message.text)
            case Role.USER:
                blocks.live_at = len(blocks.said)
                content = [*_texts(message.text), *map(_image, message.images)]
                blocks.said += (("user", block) for block in content)
            case Role.ASSISTANT:
                blocks.asked_at = len(blocks.said)
                content = _texts(message.text)
                for call in message.tool_calls:
                    content.append(_call(call, blocks.next_call(call.call_id)))
                blocks.said += (("assistant", block) for block in content)
                blocks.with_calls |= bool(message.tool_calls)
            case Role.TOOL:
                blocks.said.append(
                    ("user", _result(message, blocks.next_result(message.tool_call_id)))
                )
                blocks.with_calls = True
            case Role.NOTICE:
                pass
    return blocks


def _mark(blocks: _Blocks, cache_ttl: CacheTtl) -> None:
    mark = {"type": "ephemeral"} if cache_ttl == "5m" else {"type": "ephemeral", "ttl": cache_ttl}
    marked = blocks.system[-1:] or blocks.tools[-1:]
    ends = {blocks.asked_at, blocks.live_at, len(blocks.said)}
    marked += [blocks.said[end - 1][1] for end in sorted(ends) if end]
    for block in marked:
        block["cache_control"] = mark


def _texts(text: str) -> list[Block]:
    """Return a block of the text, or none: the API refuses one without a visible character."""
    return [{"type": "text", "text": text}] if text.strip() else []


def _image(image: Image) -> Block:
    if image.media_type not in _IMAGE_TYPES:
        return {"type": "text", "text": f"[image: {image.media_type}]"}

    source = {"type": "base64", "media_type": image.media_type, "data": image.data}
    return {"type": "image", "source": source}


def _call(call: ToolCall, call_id: str) -> Block:
    return {
        "type": "tool_use",
        "id": call_id,
        "name": fit_name(call.name),
        "input": sent_arguments(call.arguments),
    }


def _result(message: Message, call_id: str) -> Block:
    result: Block = {"type": "tool_result", "tool_use_id": call_id}
    if content := [*_texts(message.text), *map(_image, message.images)]:
        result["content"] = content
    return result


def _numbered(call_id: str, count: int) -> str:
    return call_id if count == 1 else f"{call_id}#{count}"


def _call_id(call_id: str) -> str:
    """Return an id that the API takes, another one for each: other vendors' may have any form."""
    return call_id if is_fit(call_id) and len(call_id) <= _MAX_ID_CHARS else hashed_id(call_id)
