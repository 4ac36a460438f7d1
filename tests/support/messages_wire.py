"""The Messages API from the provider's side: reads requests, writes answers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import orjson

from tests.support.answers import Answer, Json, NotTakenError, Refusal, check_tools, pieces
from tests.support.prompt_cache import Prompt, PromptBlock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.prompt_cache import Charge

MAX_MARKS: Final = 4
_CALL_ID: Final = re.compile(r"[A-Za-z0-9_-]+")


def read_prompt(body: Json) -> Prompt:
    """Return the prompt of a request.

    Raises:
        NotTakenError: The provider would not take it.
    """
    if not isinstance(body.get("max_tokens"), int):
        raise NotTakenError("max_tokens: Field required")

    if not body["messages"]:
        raise NotTakenError("messages: at least one message is required")

    _check_tools(body)
    blocks = list(_blocks(body))
    _check_blocks([block for _, block in blocks])
    _check_calls(body)
    choice = body.get("tool_choice", {}).get("type", "auto")
    prompt = [_prompt_block(*blocks[place], begins, choice) for place, begins in _begin(blocks)]
    return Prompt(f"anthropic {body['model']}", tuple(prompt))


def whole_answer(model: str, answer: Answer, charge: Charge) -> Json:
    """Return the body of an answer that is not streamed."""
    content: list[Json] = []
    if answer.thinking:
        content.append({"type": "thinking", "thinking": answer.thinking, "signature": "s"})
    if answer.text:
        content.append({"type": "text", "text": answer.text})
    content += (
        _call(call.call_id, call.name) | {"input": orjson.loads(call.arguments)}
        for call in answer.tool_calls
    )
    whole = _message(model, _usage(charge, answer.tokens, answer.thinking_tokens))
    return whole | {"content": content, "stop_reason": _finish(answer)}


def streamed_answer(model: str, answer: Answer, charge: Charge) -> list[bytes]:
    """Return the events of a streamed answer."""
    return [message_event(event) for event in _events(model, answer, charge)]


def message_event(event: Json) -> bytes:
    """Return an event as it stands on the wire."""
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event))


def error_body(kind: str, message: str, code: str | None = None) -> Json:
    """Return the body of an error."""
    details = {"details": {"error_code": code}} if code else {}
    return {"type": "error", "error": {"type": kind, "message": message, **details}}


def overflow(tokens: int, window_tokens: int) -> Refusal:
    """Return what a provider answers to a prompt that is larger than the window."""
    message = f"prompt is too long: {tokens} tokens > {window_tokens} maximum"
    return Refusal(400, message=message, kind="invalid_request_error")


def overloaded() -> Refusal:
    """Return what a provider answers that cannot serve just now."""
    return Refusal(529, message="Overloaded", kind="overloaded_error")


def error_event() -> bytes:
    """Return the event that tells of an error inside a stream."""
    return message_event(error_body("overloaded_error", "Overloaded"))


def _blocks(body: Json) -> Iterator[tuple[str, Json]]:
    """Yield all blocks in the order in which a model reads them, each with who says it."""
    for tool in body.get("tools", ()):
        yield "tools", {"type": "tool", "text": _dump(_plain(tool)), **_mark_of(tool)}
    for block in _content(body.get("system", ())):
        yield "system", block
    for place, message in enumerate(body["messages"]):
        if message["role"] not in {"user", "assistant"}:
            raise NotTakenError(f"messages.{place}: role {message['role']} is not supported")
        for block in _content(message["content"]):
            yield message["role"], block


def _content(content: Any) -> list[Json]:  # noqa: ANN401 - text or blocks
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _begin(blocks: list[tuple[str, Json]]) -> Iterator[tuple[int, bool]]:
    """Yield the place of each block, and whether a message begins with it.

    Messages of one role that follow each other are one.
    """
    for place, (said_by, _) in enumerate(blocks):
        yield place, said_by != "tools" and (not place or blocks[place - 1][0] != said_by)


def _prompt_block(said_by: str, block: Json, begins: bool, choice: str) -> PromptBlock:  # noqa: FBT001 - of _begin
    texts, images = _counted(block)
    call_id = block.get("id") or block.get("tool_use_id")
    # Another choice of tools makes another prompt of all messages, though not of what is before.
    chosen = [choice] if said_by in {"user", "assistant"} and choice != "auto" else []
    head = _dump([said_by, block["type"], call_id, *chosen]).encode()
    mark = block.get("cache_control")
    ttl = mark.get("ttl", "5m") if mark else ""
    return PromptBlock(head, texts, images, begins_message=begins, mark=ttl)


def _counted(block: Json) -> tuple[str, tuple[str, ...]]:
    """Return the text and the images of a block."""
    match block["type"]:
        case "image":
            return "", (block["source"]["data"],)
        case "tool_use":
            return block["name"] + _dump(block["input"]), ()
        case "tool_result":
            parts = [_counted(part) for part in _content(block.get("content", ()))]
            return "".join(text for text, _ in parts), tuple(
                image for _, images in parts for image in images
            )
        case _:
            return block["text"], ()


def _check_tools(body: Json) -> None:
    tools, choice = body.get("tools"), body.get("tool_choice")
    if not tools:
        if choice is not None:
            raise NotTakenError("tool_choice: may only be specified while providing tools")
        return

    check_tools(tools, "input_schema")
    if choice is not None and choice["type"] not in {"auto", "any", "tool", "none"}:
        raise NotTakenError(f"tool_choice: {choice['type']} is not known")
    named = (choice or {}).get("name")
    if named is not None and named not in {tool["name"] for tool in tools}:
        raise NotTakenError(f"tool_choice: {named} is not among the tools")


def _check_blocks(blocks: list[Json]) -> None:
    marks = sum("cache_control" in block for block in blocks)
    if marks > MAX_MARKS:
        raise NotTakenError(
            f"A maximum of 4 blocks with cache_control may be given. Found {marks}."
        )

    ttls = [block["cache_control"].get("ttl", "5m") for block in blocks if "cache_control" in block]
    if ttls != sorted(ttls):
        raise NotTakenError("a 1h mark must not come after a 5m mark")

    inner = [part for block in blocks for part in _inner(block)]
    if not all(block["text"].strip() for block in blocks + inner if block["type"] == "text"):
        raise NotTakenError("messages: text content blocks must contain non-whitespace text")


def _inner(block: Json) -> list[Json]:
    return _content(block.get("content", ())) if block["type"] == "tool_result" else []


def _check_calls(body: Json) -> None:
    """Check that the next message begins with the results of all calls, and of no others."""
    open_calls: list[str] = []
    seen: set[str] = set()
    for place, message in enumerate(body["messages"]):
        content = _content(message["content"])
        if not content:
            raise NotTakenError(f"messages.{place}: all messages must have non-empty content")
        answered = [block.get("tool_use_id") for block in content[: len(open_calls)]]
        if sorted(filter(None, answered)) != sorted(open_calls):
            raise NotTakenError(f"messages.{place}: calls without results right after them")
        if any(block["type"] == "tool_result" for block in content[len(open_calls) :]):
            raise NotTakenError(f"messages.{place}: a result without its call")
        open_calls = [block["id"] for block in content if block["type"] == "tool_use"]
        if not all(_CALL_ID.fullmatch(call_id) for call_id in open_calls):
            raise NotTakenError(f"messages.{place}: an id of a call has a wrong form")
        if seen & set(open_calls):
            raise NotTakenError(f"messages.{place}: ids of calls must be unique")
        seen |= set(open_calls)
    if open_calls:
        raise NotTakenError("messages: calls without results")
    if seen and not body.get("tools"):
        raise NotTakenError("a request with calls and results must define tools")


def _events(model: str, answer: Answer, charge: Charge) -> Iterator[Json]:
    yield {"type": "message_start", "message": _message(model, _usage(charge, 1, 0))}
    yield {"type": "ping"}
    for index, (start, deltas) in enumerate(_streamed_blocks(answer)):
        yield {"type": "content_block_start", "index": index, "content_block": start}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    counted = {
        "output_tokens": answer.tokens,
        "output_tokens_details": {"thinking_tokens": answer.thinking_tokens},
    }
    delta = {"stop_reason": _finish(answer), "stop_sequence": None}
    yield {"type": "message_delta", "delta": delta, "usage": counted}
    yield {"type": "message_stop"}


def _streamed_blocks(answer: Answer) -> Iterator[tuple[Json, list[Json]]]:
    if answer.thinking:
        deltas = [
            {"type": "thinking_delta", "thinking": piece} for piece in pieces(answer.thinking)
        ]
        signed = {"type": "signature_delta", "signature": "s"}
        yield {"type": "thinking", "thinking": "", "signature": ""}, [*deltas, signed]
    if answer.text:
        deltas = [{"type": "text_delta", "text": piece} for piece in pieces(answer.text)]
        yield {"type": "text", "text": ""}, deltas
    for call in answer.tool_calls:
        parts = pieces(call.arguments)
        deltas = [{"type": "input_json_delta", "partial_json": part} for part in parts]
        yield _call(call.call_id, call.name) | {"input": {}}, deltas


def _message(model: str, usage: Json) -> Json:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }


def _usage(charge: Charge, output_tokens: int, thinking_tokens: int) -> Json:
    return {
        "input_tokens": charge.uncached,
        "cache_read_input_tokens": charge.read,
        "cache_creation_input_tokens": charge.written,
        "cache_creation": {
            "ephemeral_5m_input_tokens": charge.written - charge.written_1h,
            "ephemeral_1h_input_tokens": charge.written_1h,
        },
        "output_tokens": output_tokens,
        "output_tokens_details": {"thinking_tokens": thinking_tokens},
    }


def _call(call_id: str, name: str) -> Json:
    return {"type": "tool_use", "id": call_id, "name": name}


def _finish(answer: Answer) -> str:
    return answer.finish or ("tool_use" if answer.tool_calls else "end_turn")


def _plain(block: Json) -> Json:
    return {name: value for name, value in block.items() if name != "cache_control"}


def _mark_of(block: Json) -> Json:
    return {name: value for name, value in block.items() if name == "cache_control"}


def _dump(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
