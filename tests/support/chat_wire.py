"""The chat-completions wire from the provider's side: reads requests, writes answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from tests.support.answers import (
    TOOL_NAME,
    Answer,
    Json,
    NotTakenError,
    Refusal,
    check_tools,
    pieces,
)
from tests.support.prompt_cache import Prompt, PromptBlock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.prompt_cache import Charge


MAX_CALL_ID_CHARS: Final = 40


def read_prompt(body: Json) -> Prompt:
    """Return the prompt of a request.

    Raises:
        NotTakenError: The provider would not take it.
    """
    if not body["messages"]:
        raise NotTakenError("messages: at least one message is required")

    _check_tools(body)
    _check_calls(body["messages"])
    blocks = [block for message in body["messages"] for block in _blocks(message)]
    tools = [PromptBlock(b"tool", _dump(tool)) for tool in body.get("tools", ())]
    place = f"openai {body['model']} {body.get('prompt_cache_key', '')}"
    return Prompt(place, (*tools, *blocks))


def whole_answer(model: str, answer: Answer, charge: Charge) -> Json:
    """Return the body of an answer that is not streamed."""
    message: Json = {"role": "assistant", "content": answer.text or None}
    if answer.tool_calls:
        message |= {"tool_calls": _calls(answer)}
    choice = {"index": 0, "message": message, "finish_reason": _finish(answer)}
    frame = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model}
    return frame | {"choices": [choice], "usage": _usage(answer, charge)}


def streamed_answer(model: str, answer: Answer, charge: Charge) -> list[bytes]:
    """Return the events of a streamed answer."""
    deltas: list[Json] = [{"role": "assistant", "content": ""}]
    deltas += ({"reasoning_content": piece} for piece in pieces(answer.thinking))
    deltas += ({"content": piece} for piece in pieces(answer.text))
    for index, call in enumerate(_calls(answer)):
        first = call | {"index": index, "function": call["function"] | {"arguments": ""}}
        deltas.append({"tool_calls": [first]})
        deltas += (
            {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
            for piece in pieces(call["function"]["arguments"])
        )
    chunks = [chunk_event(delta=delta, model=model) for delta in deltas]
    chunks.append(chunk_event(finish_reason=_finish(answer), model=model))
    chunks.append(chunk_event(usage=_usage(answer, charge), model=model))
    return [*(b"data: %b\n\n" % orjson.dumps(chunk) for chunk in chunks), DONE]


def error_body(kind: str, message: str, code: str | None = None) -> Json:
    """Return the body of an error."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def overflow(tokens: int, window_tokens: int) -> Refusal:
    """Return what a provider answers to a prompt that is larger than the window."""
    message = (
        f"This model's maximum context length is {window_tokens} tokens. However, your messages "
        f"resulted in {tokens} tokens. Please reduce the length of the messages."
    )
    kind = "invalid_request_error"
    return Refusal(400, message=message, kind=kind, code="context_length_exceeded")


def overloaded() -> Refusal:
    """Return what a provider answers that cannot serve just now."""
    return Refusal(503, message="The engine is currently overloaded.", kind="server_error")


def error_event() -> bytes:
    """Return the event that tells of an error inside a stream."""
    return b"data: %b\n\n" % orjson.dumps(error_body("overloaded_error", "Overloaded", "529"))


DONE = b"data: [DONE]\n\n"


def chunk_event(
    *,
    delta: object = None,
    finish_reason: str | None = None,
    usage: object = None,
    model: str = "m",
) -> Json:
    """Return one chunk as a provider sends it; the one with the usage has no choices."""
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish_reason}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": model,
        "choices": [choice] if usage is None else [],
        "usage": usage,
    }


def _check_tools(body: Json) -> None:
    tools, choice = body.get("tools"), body.get("tool_choice")
    if tools == []:
        raise NotTakenError("tools: [] is too short")
    if not tools:
        if choice is not None:
            raise NotTakenError("tool_choice is only allowed when tools are specified")
        return

    if any(tool["type"] != "function" for tool in tools):
        raise NotTakenError("tools: only functions are taken")
    functions = [tool["function"] for tool in tools]
    check_tools(functions, "parameters")
    named = choice["function"]["name"] if isinstance(choice, dict) else None
    if named is None and choice not in {None, "none", "auto", "required"}:
        raise NotTakenError(f"tool_choice: {choice} is not known")
    if named is not None and named not in {function["name"] for function in functions}:
        raise NotTakenError(f"tool_choice: {named} is not among the tools")


def _check_calls(messages: list[Json]) -> None:
    """Check that each call is answered at once, and nothing is answered that was not called."""
    open_calls: set[str] = set()
    for place, message in enumerate(messages):
        if message["role"] == "tool":
            if message["tool_call_id"] not in open_calls:
                raise NotTakenError(f"messages.{place}: a result without its call")
            open_calls.remove(message["tool_call_id"])
            continue
        if open_calls:
            raise NotTakenError(f"messages.{place}: a call without its result")
        calls = message.get("tool_calls", ())
        open_calls = {call["id"] for call in calls}
        if len(open_calls) != len(calls):
            raise NotTakenError(f"messages.{place}: ids of calls must be unique")
        for call in calls:
            _check_call(place, call)
    if open_calls:
        raise NotTakenError("messages: a call without its result")


def _check_call(place: int, call: Json) -> None:
    if not 0 < len(call["id"]) <= MAX_CALL_ID_CHARS:
        raise NotTakenError(f"messages.{place}: an id of a call is empty or too long")
    if not TOOL_NAME.fullmatch(call["function"]["name"]):
        raise NotTakenError(f"messages.{place}: a name of a call should match pattern")
    # Not every provider reads them; those that do refuse anything else.
    if not isinstance(orjson.loads(call["function"]["arguments"]), dict):
        raise NotTakenError(f"messages.{place}: arguments are not an object")


def _blocks(message: Json) -> Iterator[PromptBlock]:
    head = _dump({"role": message["role"], "call": message.get("tool_call_id")}).encode()
    content: Any = message.get("content") or ""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    for place, part in enumerate(parts):
        images = (part["image_url"]["url"],) if part["type"] == "image_url" else ()
        yield PromptBlock(head, part.get("text", ""), images, begins_message=not place)
    for call in message.get("tool_calls", ()):
        called = call["function"]["name"] + call["function"]["arguments"]
        yield PromptBlock(head + call["id"].encode(), called)


def _calls(answer: Answer) -> list[Json]:
    return [
        {
            "id": call.call_id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in answer.tool_calls
    ]


def _finish(answer: Answer) -> str:
    return answer.finish or ("tool_calls" if answer.tool_calls else "stop")


def _usage(answer: Answer, charge: Charge) -> Json:
    return {
        "prompt_tokens": charge.tokens,
        "completion_tokens": answer.tokens,
        "total_tokens": charge.tokens + answer.tokens,
        "prompt_tokens_details": {
            "cached_tokens": charge.read,
            "cache_write_tokens": charge.written,
        },
        "completion_tokens_details": {"reasoning_tokens": answer.thinking_tokens},
    }


def _dump(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
