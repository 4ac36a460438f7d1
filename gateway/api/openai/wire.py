"""A chat-completions request as it arrives, checked field by field.

What is not known here is refused: a client must not believe that something was heeded which was
not. Fields that say what is done anyway are taken with that value alone.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from gateway.api.openai.errors import refused

MAX_MESSAGES: Final = 2_000
MAX_VALUES: Final = 50_000
"""How many values a request may hold: a long history of messages in parts has many."""
MAX_TOOLS: Final = 128
MAX_SESSION_CHARS: Final = 512
"""The longest name of a session, as of other ids."""
_TAGS: Final = frozenset(
    {"system", "developer", "user", "assistant", "tool", "text", "image_url", "refusal"}
)
_SHOWN_CHARS: Final = 64
_TOP_KEYS: Final = 64
"""More than any request has; each unknown one would cost a sentence of pydantic's."""


class _Object(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nothing(cls, value: Any) -> Any:  # noqa: ANN401 - whatever a client sends
        """Leave out fields that are not known and ask for nothing; of others the first is told."""
        if not isinstance(value, dict):
            return value

        known = cls.model_fields
        strange = (key for key, one in value.items() if one is not None and key not in known)
        first = next(strange, None)
        return {key: one for key, one in value.items() if key in known or key == first}


def _parts(value: object) -> object:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _choice(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


class TextPart(_Object):
    """A text."""

    type: Literal["text"]
    text: str


class _ImageUrl(_Object):
    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(_Object):
    """An image."""

    type: Literal["image_url"]
    image_url: _ImageUrl


class RefusalPart(_Object):
    """What a model said in place of an answer."""

    type: Literal["refusal"]
    refusal: str


Texts = Annotated[list[TextPart], Field(fail_fast=True), BeforeValidator(_parts)]
Shown = Annotated[
    list[Annotated[TextPart | ImagePart, Field(discriminator="type")]],
    Field(fail_fast=True),
    BeforeValidator(_parts),
]
Said = Annotated[
    list[Annotated[TextPart | RefusalPart, Field(discriminator="type")]],
    Field(fail_fast=True),
    BeforeValidator(_parts),
]
FunctionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Speaker = Annotated[str, Field(max_length=64)]
"""Who says a message, for models whose wire has that."""
CallId = Annotated[str, Field(min_length=1, max_length=256)]


class CalledFunction(_Object):
    """What a call calls."""

    name: FunctionName
    arguments: str
    parsed_arguments: Any = None
    """What the SDK's helpers have made of the arguments; they send it back."""


class Call(_Object):
    """A call of an earlier answer."""

    id: CallId
    type: Literal["function"]
    function: CalledFunction
    index: int | None = None
    """Of the call in its stream; the SDK's helpers send it back."""


class SystemMessage(_Object):
    """What a model is told before all else."""

    role: Literal["system", "developer"]
    content: Texts
    name: Speaker | None = None


class UserMessage(_Object):
    """What the user says."""

    role: Literal["user"]
    content: Shown
    name: Speaker | None = None


class AssistantMessage(_Object):
    """An earlier answer, as the client got it."""

    role: Literal["assistant"]
    content: Said | None = None
    refusal: str | None = None
    tool_calls: Annotated[list[Call], Field(fail_fast=True, max_length=256)] | None = None
    parsed: Any = None
    """What the SDK's helpers have made of the content; they send it back."""
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None
    name: Speaker | None = None


class ToolMessage(_Object):
    """What a tool of the client's returned."""

    role: Literal["tool"]
    content: Texts
    tool_call_id: CallId
    name: str | None = None
    """Of the tool, as old clients send it; the call tells it."""


AnyMessage = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]


class Function(_Object):
    """A function that the client offers."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Object):
    """A tool that the client offers."""

    type: Literal["function"]
    function: Function


class _Named(_Object):
    name: FunctionName


class ToolChoice(_Object):
    """Which tools an answer may or must call."""

    type: Literal["auto", "none", "required", "function"]
    function: _Named | None = None


class _StreamOptions(_Object):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class _ResponseFormat(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", strict=True, hide_input_in_errors=True)
    type: Literal["text", "json_object", "json_schema"]


Penalty = Annotated[float, Field(ge=-2, le=2)]
Length = Annotated[int, Field(ge=1, le=10_000_000)]


class ChatRequest(_Object):
    """A request for a completion."""

    model: Annotated[str, Field(min_length=1)]
    messages: Annotated[
        list[AnyMessage], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)
    ]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    user: Annotated[str, Field(max_length=MAX_SESSION_CHARS)] | None = None
    tools: Annotated[list[Tool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_choice: Annotated[ToolChoice, BeforeValidator(_choice)] | None = None
    parallel_tool_calls: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: Length | None = None
    max_completion_tokens: Length | None = None
    stop: (
        Annotated[
            list[Annotated[str, Field(min_length=1)]],
            BeforeValidator(_listed),
            Field(max_length=4),
        ]
        | None
    ) = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    reasoning_effort: Annotated[str, Field(min_length=1, max_length=32)] | None = None
    response_format: _ResponseFormat | None = None
    prompt_cache_key: Annotated[str, Field(max_length=MAX_SESSION_CHARS)] | None = None
    # What follows is for what OpenAI keeps of a request: taken, and given to nobody.
    safety_identifier: Annotated[str, Field(max_length=MAX_SESSION_CHARS)] | None = None
    metadata: Annotated[dict[str, Any], Field(max_length=16)] | None = None
    store: bool | None = None
    # What follows is taken only where it asks for what is done anyway.
    n: Literal[1] | None = None
    top_logprobs: Literal[0] | None = None
    logprobs: Literal[False] | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    modalities: list[Literal["text"]] | None = None
    service_tier: Literal["auto", "default"] | None = None


def read_request(fields: dict[str, object]) -> ChatRequest:
    """Return the request that a JSON object is.

    Raises:
        ProblemError: it is none, or asks for something that is not served here; the first fault
            is told, and which parameter it is of.
    """
    if len(fields) > _TOP_KEYS:
        raise refused(f"The request has {len(fields)} fields; none has so many.", "")

    try:
        return ChatRequest.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    param = _param(first["loc"])
    if first["type"] == "extra_forbidden":
        raise refused(f"{param}: not supported here.", param)

    raise refused(f"{param}: {first['msg']}.", param)


def _param(place: tuple[int | str, ...]) -> str:
    """Return the place of a fault as clients write it, without the tags of kinds."""
    param = ""
    for index, part in enumerate(place):
        if isinstance(part, int):
            param += f"[{part}]"
        elif not (part in _TAGS and index and isinstance(place[index - 1], int)):
            shown = part[:_SHOWN_CHARS]
            param += f".{shown}" if param else shown
    return param
