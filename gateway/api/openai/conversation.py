"""A client's conversation as the gateway's messages, results behind their calls. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.api.openai.errors import refused
from gateway.api.openai.wire import (
    AssistantMessage,
    RefusalPart,
    SystemMessage,
    TextPart,
    ToolMessage,
    UserMessage,
)
from gateway.model import Image, Message, Role, ToolCall, TurnId, clean_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.api.openai.wire import AnyMessage, ImagePart

_DATA_URL: Final = re.compile(r"data:(image/(?:gif|jpeg|png|webp));base64,([A-Za-z0-9+/]*={0,2})")
_BASE64_CHARS: Final = 4
"""Base64 comes in groups of so many."""


def conversation(messages: Sequence[AnyMessage], turn_id: TurnId) -> list[Message]:
    """Return all messages of a stateless call.

    Raises:
        ProblemError: no model would take them in this order, or one holds what is not taken.
    """
    made: list[Message] = []
    waiting: dict[str, str] = {}
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        if waiting and not isinstance(message, ToolMessage):
            raise _unanswered(waiting, where)

        match message:
            case SystemMessage():
                text, name = _text(message.content), _name(message)
                made.append(Message(Role.SYSTEM, text, turn_id=turn_id, name=name))
            case UserMessage():
                text, images = _text(message.content), _images(message, where)
                name = _name(message)
                made.append(Message(Role.USER, text, turn_id=turn_id, images=images, name=name))
            case AssistantMessage():
                answer = _answer(message, where, turn_id)
                waiting = {call.call_id: call.name for call in answer.tool_calls}
                made.append(answer)
            case ToolMessage():
                made.append(_result(message, where, waiting, turn_id))
    if waiting:
        raise _unanswered(waiting, "the end")
    if made[-1].role not in {Role.USER, Role.TOOL}:
        text = "the last message is neither a user's nor a tool's, accepted is one of the two."
        raise refused(f"messages: {text}", "messages")
    if not any(message.role is Role.USER for message in made):
        raise refused("messages: none of them is a user's, accepted is at least one.", "messages")

    return made


@dataclass(frozen=True, slots=True)
class Told:
    """What a session is told."""

    text: str
    """What the user says; may be empty where there are results."""
    results: dict[str, str]
    """What tools of the client's have returned, by call."""
    instructions: tuple[str, ...]
    """What the model is told of this answer alone."""
    heard: tuple[str, ...]
    """The last answer that the client knows of; see `Brought`."""


def said_last(messages: Sequence[AnyMessage]) -> Told:
    """Return what a session is told: results and texts of the user behind the last answer.

    What stands before is the client's copy of what the session has. System messages are taken
    wherever they stand, for the session keeps none.

    Raises:
        ProblemError: there is neither, or the request holds what a session does not take.
    """
    behind = 1 + max(
        (place for place, one in enumerate(messages) if isinstance(one, AssistantMessage)),
        default=-1,
    )
    texts: list[str] = []
    results: dict[str, str] = {}
    for place, message in enumerate(messages[behind:], behind):
        where = f"messages[{place}]"
        if isinstance(message, UserMessage):
            if _image_parts(message):
                raise refused(f"{where}: a session takes no images yet, accepted is text.", where)
            texts.append(_text(message.content))
        elif isinstance(message, ToolMessage):
            call_id = clean_text(message.tool_call_id)
            if texts or call_id in results:
                why = "stands behind a user's message" if texts else "is the second of its call"
                raise refused(f"{where}: a result that {why}.", where)
            results[call_id] = _text(message.content)
    if not texts and not results:
        text = "nothing follows the last answer, accepted are a user's message and tool results."
        raise refused(f"messages: {text}", "messages")

    told = (_text(one.content) for one in messages if isinstance(one, SystemMessage))
    last = messages[behind - 1] if behind else None
    heard = _heard(last) if isinstance(last, AssistantMessage) else ()
    return Told("\n\n".join(texts), results, tuple(filter(str.strip, told)), heard)


def place_of_result(messages: Sequence[AnyMessage], call_id: str) -> str:
    """Return where the last result of a call stands, as clients write it."""
    place = max(
        place
        for place, one in enumerate(messages)
        if isinstance(one, ToolMessage) and clean_text(one.tool_call_id) == call_id
    )
    return f"messages[{place}].tool_call_id"


def _heard(answer: AssistantMessage) -> tuple[str, ...]:
    calls = tuple(clean_text(call.id) for call in answer.tool_calls or ())
    return calls or (_text(answer.content or ()),)


def _text(parts: Sequence[TextPart | ImagePart | RefusalPart]) -> str:
    texts = (part.text for part in parts if isinstance(part, TextPart))
    return clean_text("\n".join(texts))


def _name(message: SystemMessage | UserMessage | AssistantMessage) -> str:
    return clean_text(message.name or "")


def _image_parts(message: UserMessage) -> list[tuple[int, ImagePart]]:
    return [
        (place, part)
        for place, part in enumerate(message.content)
        if not isinstance(part, TextPart)
    ]


def _images(message: UserMessage, where: str) -> tuple[Image, ...]:
    """Return the images of a message, none of which is fetched from anywhere."""
    images = []
    for place, part in _image_parts(message):
        found = _DATA_URL.fullmatch(part.image_url.url)
        if found is None or len(found[2]) % _BASE64_CHARS:
            param = f"{where}.content[{place}].image_url.url"
            raise refused(
                f"{param}: accepted is data:image/png;base64,... with a gif, jpeg, png or webp; "
                "nothing is fetched from other addresses.",
                param,
            )
        images.append(Image(found[1], found[2], part.image_url.detail or ""))
    return tuple(images)


def _answer(message: AssistantMessage, where: str, turn_id: TurnId) -> Message:
    parts = message.content or []
    refusals = [part.refusal for part in parts if isinstance(part, RefusalPart)]
    texts = [_text(parts), *refusals, message.refusal or ""]
    calls = tuple(
        ToolCall(clean_text(call.id), call.function.name, clean_text(call.function.arguments))
        for call in message.tool_calls or ()
    )
    if len({call.call_id for call in calls}) < len(calls):
        raise refused(f"{where}.tool_calls: two calls have one id.", f"{where}.tool_calls")

    text = "\n".join(filter(None, texts))
    return Message(Role.ASSISTANT, text, calls, turn_id=turn_id, name=_name(message))


def _result(message: ToolMessage, where: str, waiting: dict[str, str], turn_id: TurnId) -> Message:
    call_id = clean_text(message.tool_call_id)
    if call_id not in waiting:
        param = f"{where}.tool_call_id"
        raise refused(f"{param}: answers no call of the message before it.", param)

    name = waiting.pop(call_id)
    return Message(Role.TOOL, _text(message.content), (), call_id, name, turn_id)


def _unanswered(waiting: dict[str, str], where: str) -> Exception:
    text = f"{len(waiting)} tool calls have no result before {where}, accepted is one for each."
    return refused(f"messages: {text}", "messages")
