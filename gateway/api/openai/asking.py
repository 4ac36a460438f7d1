"""What a request asks for: a message to a session, or an answer to the client's conversation.

What an agent does not heed is refused here, before anything is done. Pure.
"""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import orjson

from gateway.access.tokens import OPERATOR, ClientToken
from gateway.agents.asked import NO_WISHES, Asked, Wishes
from gateway.agents.direct import DirectRequest, Takes
from gateway.api.bodies import header_of
from gateway.api.openai.conversation import conversation, said_last
from gateway.api.openai.errors import refused
from gateway.api.openai.wire import MAX_SESSION_CHARS, ChatRequest, read_request
from gateway.context.estimate import estimate_context_chars, tokens_of_chars
from gateway.model import AgentId, Inbound, SessionSource, ToolSpec
from gateway.turns.brought import Brought

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from starlette.types import Scope

    from gateway.model import TurnId

PLATFORM: Final = "openai"
SESSION_HEADER: Final = "x-session-key"
IDEMPOTENCY_HEADER: Final = "idempotency-key"
_RETRIES: Final = b"x-stainless-retry-count"
"""In it OpenAI's SDKs say how often they have sent a request before."""
_FIELDS: Final = {
    "named_tool": "tool_choice",
    "parallel_calls": "parallel_tool_calls",
    "max_output_tokens": "max_completion_tokens",
}
"""Wishes whose fields have another name."""
_USUAL: Final = {
    "temperature": 1.0,
    "top_p": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
}
"""Values that say what is done without them: many clients always send them."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who sends a request."""

    token: ClientToken | None
    """The client's; None: the gateway's own."""

    @property
    def name(self) -> str:
        """The name of the client's token; empty: the gateway's own."""
        return "" if self.token is None else self.token.name

    def source(self, session: str = "") -> SessionSource:
        """Return where the messages of a session come from; no other token has the same place."""
        return SessionSource(PLATFORM, session, account=self.name, user_id=self.name or OPERATOR)


@dataclass(frozen=True, slots=True)
class Read:
    """A request as it was read."""

    request: ChatRequest
    session: str
    """The name of its session, NFC; empty: it is for none."""
    direct: DirectRequest | None
    """What a request without a session asks an agent for."""
    tokens: int
    """How many that is, roughly."""


def read(scope: Scope, asker: Asker, turn_id: TurnId, fields: dict[str, object]) -> Read:
    """Return the request that a JSON object is, with all that takes time for a long one.

    Raises:
        ProblemError: it is none, or its conversation or its tools are not taken.
    """
    request = read_request(fields)
    session = session_name(scope, request)
    if session:
        return Read(request, session, None, 0)

    direct = direct_request(request, asker, turn_id)
    chars = estimate_context_chars(direct.messages)
    chars += sum(len(orjson.dumps(tool.schema)) + len(tool.description) for tool in direct.tools)
    return Read(request, "", direct, tokens_of_chars(chars))


def session_name(scope: Scope, request: ChatRequest) -> str:
    """Return the name of the session that a request is for, NFC; empty: it is for none.

    Raises:
        ProblemError: the name is none.
    """
    named = _header(scope, SESSION_HEADER)
    if named is None:
        named = request.user or ""
        if not _is_fit(named):
            text = "holds control characters, lone surrogates or U+FFFD, accepted is text without"
            raise refused(f"user: {text}.", "user")

    return unicodedata.normalize("NFC", named)


def message_of(
    scope: Scope, request: ChatRequest, asker: Asker, session: str, takes: Takes | None
) -> tuple[Inbound, Brought]:
    """Return the message that a request to a session is, and what comes with it.

    Args:
        scope: Of the request.
        request: What it asks for.
        asker: Who sends it.
        session: The name of the session.
        takes: What its agent can be asked for; None: nothing beside an answer.

    Raises:
        ProblemError: it asks for what a session, or its agent, does not give.
    """
    tools, wishes = _tools(request), wishes_of(request)
    own = frozenset[str]() if takes is None else takes.own_tools
    choice = request.tool_choice
    if own and choice is not None and choice.type == "none":
        # Those of the agent are meant as well.
        wishes = replace(wishes, tool_choice="none")
    _check_choice(wishes, {tool.name for tool in tools} | own)
    check_taken(tools, wishes, takes or Takes(), request)
    for place, tool in enumerate(tools):
        if tool.name in own:
            param = f"tools[{place}].function.name"
            raise refused(f"{param}: the agent has a tool of this name.", param)

    told = said_last(request.messages)
    message_id = _header(scope, IDEMPOTENCY_HEADER) or ""
    again = not message_id and header_of(scope, _RETRIES).strip("0 ").isdigit()
    inbound = Inbound(
        source=asker.source(session),
        text=told.text,
        message_id=message_id,
        agent=AgentId(request.model),
        typed=False,
    )
    asked = Asked(told.instructions, tuple(tools), wishes)
    return inbound, Brought(asked, told.results, again, told.heard)


def direct_request(request: ChatRequest, asker: Asker, turn_id: TurnId) -> DirectRequest:
    """Return what a stateless request asks an agent for.

    Raises:
        ProblemError: its conversation or its tools are not taken.
    """
    tools, wishes = _tools(request), wishes_of(request)
    _check_choice(wishes, {tool.name for tool in tools})
    messages = conversation(request.messages, turn_id)
    cache_key = ""
    if request.prompt_cache_key:
        # Another token's prompt must not be found by its name.
        told = f"{asker.name}\0{request.prompt_cache_key}".encode(errors="replace")
        cache_key = hashlib.sha256(told).hexdigest()[:32]
    return DirectRequest(messages, tools, wishes, cache_key)


def check_taken(
    tools: Sequence[ToolSpec], wishes: Wishes, takes: Takes, request: ChatRequest
) -> None:
    """Refuse what an agent would not heed.

    Raises:
        ProblemError: the first such field.
    """
    who = f"the agent {request.model!r} cannot heed it"
    if tools and not takes.tools:
        raise refused(f"tools: {who}.", "tools")

    for name in sorted(wishes.named() - takes.wishes):
        field = _field(name, request)
        raise refused(f"{field}: {who}.", field)
    temperature = wishes.temperature
    if temperature is not None and temperature > takes.max_temperature:
        text = f"accepted by the agent {request.model!r} is up to {takes.max_temperature:g}."
        raise refused(f"temperature: {text}", "temperature")


def wishes_of(request: ChatRequest) -> Wishes:
    """Return what a request wishes for, without what is done anyway."""
    lengths = [most for most in (request.max_tokens, request.max_completion_tokens) if most]
    given: dict[str, object] = {
        "max_output_tokens": min(lengths, default=None),
        "stop": tuple(request.stop or ()) or None,
        "seed": request.seed,
        "reasoning_effort": request.reasoning_effort,
    }
    for name, usual in _USUAL.items():
        value = getattr(request, name)
        given[name] = None if value == usual else value
    wanted = request.response_format
    if wanted is not None and wanted.type != "text":
        given["response_format"] = wanted.model_dump()
    if request.tools:
        if request.parallel_tool_calls is False:
            given["parallel_calls"] = False
        given |= _choice(request)
    elif request.tool_choice is not None and request.tool_choice.type not in {"auto", "none"}:
        given |= _choice(request)
    return Wishes(**given) if given else NO_WISHES  # type: ignore[arg-type]


def _check_choice(wishes: Wishes, tools: Collection[str]) -> None:
    if wishes.named_tool is not None and wishes.named_tool not in tools:
        raise refused("tool_choice: names none of the tools.", "tool_choice")
    if wishes.tool_choice == "required" and not tools:
        raise refused("tool_choice: there are no tools, accepted is auto or none.", "tool_choice")


def _choice(request: ChatRequest) -> dict[str, object]:
    choice = request.tool_choice
    if choice is None or choice.type == "auto":
        return {}
    if choice.type != "function":
        return {"tool_choice": choice.type}
    if choice.function is None:
        raise refused("tool_choice.function: is missing.", "tool_choice.function")

    return {"named_tool": choice.function.name}


def _tools(request: ChatRequest) -> list[ToolSpec]:
    tools = []
    names: set[str] = set()
    for place, tool in enumerate(request.tools or ()):
        function = tool.function
        if function.name in names:
            param = f"tools[{place}].function.name"
            raise refused(f"{param}: another tool has this name.", param)
        names.add(function.name)
        schema = function.parameters or {"type": "object", "properties": {}}
        if schema.get("type", "object") != "object":
            param = f"tools[{place}].function.parameters"
            raise refused(f"{param}: accepted is the schema of an object.", param)
        description = function.description or ""
        tools.append(ToolSpec(function.name, description, schema, function.strict, verbatim=True))
    return tools


def _field(wish: str, request: ChatRequest) -> str:
    if wish == "max_output_tokens" and request.max_completion_tokens is None:
        return "max_tokens"

    return _FIELDS.get(wish, wish)


def _is_fit(name: str) -> bool:
    # U+FFFD is what the reader of the body has made of a lone surrogate: two names could be one.
    return not any(char == "\ufffd" or unicodedata.category(char) in {"Cc", "Cs"} for char in name)


def _header(scope: Scope, name: str) -> str | None:
    """Return a header as text; None where it is not there.

    Raises:
        ProblemError: it is empty, too long or no UTF-8, or holds control characters.
    """
    values = [value for key, value in scope["headers"] if key == name.encode()]
    if not values:
        return None

    try:
        text = header_of(scope, name.encode()).encode("latin-1").decode().strip()
    except UnicodeDecodeError:
        text = ""
    fit = 0 < len(text) <= MAX_SESSION_CHARS
    if len(values) > 1 or not (fit and _is_fit(text)):
        raise refused(
            f"The header {name} takes 1 to {MAX_SESSION_CHARS} characters of UTF-8 without control "
            "characters, once.",
            name,
        )

    return text
