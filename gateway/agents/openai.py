"""A model behind any OpenAI-compatible chat-completions endpoint, through the official SDK.

The SDK's types and errors stop here. Importing this module imports the SDK, which is an extra and
costs half a second: `gateway.agents.registry` does it only where such an agent is configured.

Providers repeat prompts, and some the key, in their error messages. Those messages therefore go
neither into our errors nor, as a cause, into a traceback; status, code and request id do.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import httpx2
import openai

from gateway.agents.base import MessageFinished, ModelCallFinished, TextDelta
from gateway.agents.settings import OFFICIAL_OPENAI_URL
from gateway.errors import AgentError
from gateway.log import get_logger
from gateway.model import Message, ModelCall, Role, ToolCall, Usage, clean_text

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence

    from openai.types import CompletionUsage
    from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam
    from openai.types.chat.chat_completion_chunk import ChoiceDeltaToolCall

    from gateway.agents.base import AgentEvent
    from gateway.agents.settings import OpenAISettings
    from gateway.clock import Clock
    from gateway.model import TurnId

MAX_ANSWER_CHARS: Final = 4_000_000
"""A stream that goes on beyond this is broken, whatever its model's window."""

_OPERATOR: Final = "the operator must check it."
_BUSY: Final = "The model's provider is overloaded or out of order. Please try again later."
_NO_BALANCE: Final = f"The account at the model's provider is used up: {_OPERATOR}"
_KEY_REFUSED: Final = f"The key of the model's provider is not accepted: {_OPERATOR}"
_REFUSED: Final = f"The model's provider refused the request: {_OPERATOR}"
_TIMED_OUT: Final = "The model did not answer in time. Please try again later."
_TOO_LONG: Final = (
    "This conversation is too long for the model. Please start a new one or send a shorter message."
)
_BROKEN_OFF: Final = "The model's answer broke off. Please try again."
_BY_STATUS: Final = {
    401: _KEY_REFUSED,
    402: _NO_BALANCE,
    403: _KEY_REFUSED,
    404: f"The model's provider does not know the model: {_OPERATOR}",
    408: _TIMED_OUT,
    413: _TOO_LONG,
    429: "The model's provider limits the rate of requests. Please try again in a moment.",
    504: _TIMED_OUT,
}
_NO_BALANCE_CODES: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_ABOUT_LENGTH: Final = re.compile(r"context[_ ](?:length|window|size)", re.IGNORECASE)

log = get_logger()


class OpenAIAgent:
    """Asks one model at one endpoint; offers it no tools."""

    def __init__(self, settings: OpenAISettings, api_key: str, clock: Clock) -> None:
        """Make a client; an empty key is for an endpoint that asks for none."""
        self.model = settings.model
        self.context_window_tokens = settings.context_window_tokens
        self.reserve_tokens = settings.reserve_tokens
        self._system_prompt = settings.system_prompt
        self._clock = clock
        self._output_limit = output_limit(settings)
        self._client = openai.AsyncOpenAI(
            api_key=api_key or "none",
            base_url=settings.base_url,
            max_retries=settings.max_retries,
            timeout=httpx2.Timeout(settings.read_timeout_s, connect=settings.connect_timeout_s),
            # A conversation goes to the configured endpoint alone: neither where it redirects to,
            # nor through a proxy where it is on this machine.
            http_client=openai.DefaultAsyncHttpxClient(
                follow_redirects=False, trust_env=not settings.loopback
            ),
        )

    async def run(
        self, messages: Sequence[Message], *, cache_key: str = ""
    ) -> AsyncGenerator[AgentEvent]:
        """Answer the last user message of a context.

        Cancellation: the connection of the request is closed.

        Raises:
            AgentError: There is no whole answer; deltas may have been yielded before.
        """
        started_at = self._clock.now()
        answer = _Answer(self.model)
        stream = await self._open_stream(messages)
        async with stream:
            while (chunk := await self._next_chunk(stream, answer)) is not None:
                text = answer.take(chunk)
                if text:
                    yield TextDelta(text)

        if answer.finish_reason:
            yield ModelCallFinished(ModelCall(self.model, started_at, answer.usage))
        yield MessageFinished(answer.message(messages[-1].turn_id))

    def overhead_chars(self) -> int:
        """Return the length of the system prompt."""
        return len(self._system_prompt)

    async def aclose(self) -> None:
        """Close connections; the agent is not used afterwards."""
        await self._client.close()

    async def _open_stream(
        self, messages: Sequence[Message]
    ) -> openai.AsyncStream[ChatCompletionChunk]:
        with _translated_errors(self.model):
            return await self._client.chat.completions.create(
                model=self.model,
                messages=_wire_messages(self._system_prompt, messages),
                stream=True,
                stream_options={"include_usage": True},
                extra_body=self._output_limit,
            )

    async def _next_chunk(
        self, stream: openai.AsyncStream[ChatCompletionChunk], answer: _Answer
    ) -> ChatCompletionChunk | None:
        try:
            with _translated_errors(self.model):
                return await anext(stream, None)
        except AgentError as exc:
            if not answer.finish_reason:
                raise
            # The answer is whole; only what follows it, its usage, is lost.
            log.warning("agent.usage_lost", model=self.model, reason=str(exc))
            return None


class _Answer:
    """Puts the chunks of one stream together."""

    def __init__(self, model: str) -> None:
        self.usage: Usage | None = None
        self.finish_reason = ""
        self._model = model
        self._texts: list[str] = []
        self._calls: dict[int, list[str]] = {}
        self._chars = 0

    def take(self, chunk: ChatCompletionChunk) -> str:
        """Add a chunk and return the text it brings, which may be empty.

        Raises:
            AgentError: It does not follow the protocol, or the answer has no end.
        """
        try:
            return self._take(chunk)
        except (AttributeError, TypeError, ValueError) as exc:
            # The SDK builds its types without checking what the endpoint sent.
            raise AgentError(
                f"{self._model}: a chunk of the stream is malformed", user_text=_BROKEN_OFF
            ) from exc

    def message(self, turn_id: TurnId) -> Message:
        """Return the whole answer.

        Raises:
            AgentError: The stream ended early, or what it brought is not an answer.
        """
        calls = tuple(ToolCall(*map(clean_text, parts)) for parts in self._calls.values())
        message = Message(Role.ASSISTANT, "".join(self._texts), calls, turn_id=turn_id)
        if problem := self._problem(message):
            reason, user_text = problem
            raise AgentError(f"{self._model}: {reason}", user_text=user_text)

        if self.finish_reason == "length":
            log.warning("agent.answer_cut", model=self._model, text_chars=len(message.text))

        return message

    def _take(self, chunk: ChatCompletionChunk) -> str:
        if chunk.usage is not None:
            self.usage = self._read_usage(chunk.usage)

        text = ""
        for choice in chunk.choices or ():
            if choice.index:
                continue
            self.finish_reason = str(choice.finish_reason or self.finish_reason)
            delta: Any = choice.delta  # the type says never None; some endpoints send null
            if delta is not None:
                text += clean_text((delta.content or "") + (delta.refusal or ""))
                self._take_calls(delta.tool_calls or ())

        self._texts.append(text)
        self._count(len(text))
        return text

    def _read_usage(self, counted: CompletionUsage) -> Usage | None:
        try:
            return _usage(counted)
        except (AttributeError, TypeError, ValueError) as exc:
            # A number that cannot be read costs the measurement, not the answer.
            log.warning("agent.usage_lost", model=self._model, reason=type(exc).__name__)
            return None

    def _take_calls(self, fragments: Sequence[ChoiceDeltaToolCall]) -> None:
        for fragment in fragments:
            call = self._calls.setdefault(fragment.index, ["", "", ""])
            call[0] = call[0] or fragment.id or ""
            if fragment.function is not None:
                call[1] += fragment.function.name or ""
                call[2] += fragment.function.arguments or ""
                self._count(len(fragment.function.arguments or ""))

    def _count(self, chars: int) -> None:
        self._chars += chars
        if self._chars > MAX_ANSWER_CHARS:
            raise AgentError(
                f"{self._model}: the answer has no end, {self._chars} characters so far",
                user_text=_BROKEN_OFF,
            )

    def _problem(self, message: Message) -> tuple[str, str] | None:
        """Return what the log and what the user is told of an answer that is none."""
        if not self.finish_reason:
            return "the stream ended before the answer did", _BROKEN_OFF

        if message.tool_calls:
            # Kept, a call without its result would make every later request of the session fail.
            names = ", ".join(call.name[:64] for call in message.tool_calls[:8])
            return (
                f"it called tools that it was not offered: {names}",
                "The model asked for a tool that it does not have. Please try again.",
            )

        if self.finish_reason == "content_filter":
            return "content_filter", "The model's provider filtered the answer out."

        if self.finish_reason == "error" or not message.text:
            return (
                f"no answer, finish reason {self.finish_reason[:64]!r}",
                "The model gave no answer. Please try again.",
            )

        return None


def _wire_messages(
    system_prompt: str, messages: Sequence[Message]
) -> list[ChatCompletionMessageParam]:
    wire: list[ChatCompletionMessageParam] = []
    if system_prompt:
        wire.append({"role": "system", "content": system_prompt})
    wire.extend(_wire_message(message) for message in messages if message.role is not Role.NOTICE)
    return wire


def _wire_message(message: Message) -> ChatCompletionMessageParam:
    match message.role:
        case Role.TOOL:
            return {"role": "tool", "tool_call_id": message.tool_call_id, "content": message.text}
        case Role.ASSISTANT if message.tool_calls:
            return {
                "role": "assistant",
                "content": message.text or None,
                "tool_calls": [
                    {
                        "id": call.call_id,
                        "type": "function",
                        "function": {"name": call.name, "arguments": call.arguments},
                    }
                    for call in message.tool_calls
                ],
            }
        case Role.ASSISTANT:
            return {"role": "assistant", "content": message.text}
        case Role.SYSTEM:
            return {"role": "system", "content": message.text}
        case _:
            return {"role": "user", "content": message.text}


def output_limit(settings: OpenAISettings) -> dict[str, int]:
    """Return the parameter that limits an answer.

    The official endpoint's newer models refuse `max_tokens`; many others know nothing else.
    """
    if not settings.max_output_tokens:
        return {}

    official = settings.base_url.rstrip("/") == OFFICIAL_OPENAI_URL
    return {"max_completion_tokens" if official else "max_tokens": settings.max_output_tokens}


def _usage(counted: CompletionUsage) -> Usage:
    details = counted.prompt_tokens_details
    cached = min((details.cached_tokens or 0) if details else 0, counted.prompt_tokens)
    usage = Usage(
        input_tokens=counted.prompt_tokens - cached,
        output_tokens=counted.completion_tokens,
        cache_read_tokens=cached,
    )
    if min(usage.input_tokens, usage.output_tokens, usage.cache_read_tokens) < 0:
        raise ValueError("negative token count")

    return usage


@contextmanager
def _translated_errors(model: str) -> Iterator[None]:
    """Turn every error of the SDK and of what lies below it into an `AgentError`."""
    try:
        yield
    except (openai.APITimeoutError, httpx2.TimeoutException) as exc:
        raise AgentError(
            f"{model}: the endpoint was silent for too long", user_text=_TIMED_OUT
        ) from exc
    except (openai.APIConnectionError, httpx2.HTTPError) as exc:
        cause = exc.__cause__ or exc
        raise AgentError(
            f"{model}: connection failed ({type(cause).__name__}: {cause})",
            user_text="The model's provider cannot be reached. Please try again later.",
        ) from exc
    except openai.APIError as exc:
        # Not `from exc`: its message is the provider's, see the docstring of the module.
        raise AgentError(_facts(model, exc), user_text=_user_text(exc)) from None
    except ValueError as exc:
        raise AgentError(
            f"{model}: what came is not JSON in UTF-8 ({type(exc).__name__})",
            user_text=_BROKEN_OFF,
        ) from None


def _facts(model: str, error: openai.APIError) -> str:
    facts: dict[str, object] = {"code": error.code, "type": error.type, "param": error.param}
    if isinstance(error, openai.APIStatusError):
        facts = {"status": error.status_code, **facts, "request id": error.request_id}
    told = ", ".join(
        f"{name} {str(fact)[:100]!r}" for name, fact in facts.items() if fact is not None
    )
    return f"{model}: the endpoint answered an error ({told})"


def _user_text(error: openai.APIError) -> str:
    code = error.code or ""
    # An error inside a stream has no status; some endpoints send it as the code.
    status = int(code) if re.fullmatch("[1-5][0-9][0-9]", code) else 0
    if isinstance(error, openai.APIStatusError):
        status = error.status_code
    if code in _NO_BALANCE_CODES:
        return _NO_BALANCE
    if status in {0, 400, 413, 422, 500} and _ABOUT_LENGTH.search(f"{code} {error.message}"):
        return _TOO_LONG

    general = _BUSY if status >= 500 else _REFUSED if status else _BROKEN_OFF  # noqa: PLR2004 - HTTP
    return _BY_STATUS.get(status, general)
