"""A model behind any OpenAI-compatible chat-completions endpoint, through the official SDK.

The SDK's types and errors stop here. Importing this module imports the SDK, which is an extra and
costs half a second: `gateway.agents.registry` does it only where such an agent is configured.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import httpx2
import openai

from gateway.agents.answer import NO_ANSWER, Answer, FinishReasons
from gateway.agents.attempts import Attempts, stamp
from gateway.agents.base import MessageFinished, ModelCallFinished, TextDelta
from gateway.agents.failures import (
    NO_BALANCE,
    TOO_LONG,
    SdkErrors,
    text_of_status,
    translated_errors,
)
from gateway.agents.openai_wire import read_usage, wire_messages
from gateway.errors import AgentError
from gateway.log import get_logger
from gateway.model import ModelCall

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from openai.types.chat import ChatCompletionChunk

    from gateway.agents.base import AgentEvent
    from gateway.agents.settings import OpenAISettings
    from gateway.clock import Clock
    from gateway.model import Message

_REASONS: Final = FinishReasons(
    cut=frozenset({"length"}),
    failed={
        "content_filter": "The model's provider filtered the answer out.",
        "error": NO_ANSWER,
    },
)
_NO_BALANCE_CODES: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_ABOUT_LENGTH: Final = re.compile(r"context[_ ](?:length|window|size)", re.IGNORECASE)

log = get_logger()


class OpenAIAgent:
    """Asks one model at one endpoint; offers it no tools."""

    def __init__(self, settings: OpenAISettings, api_key: str, clock: Clock) -> None:
        """Make a client; an empty key is for an endpoint that asks for none."""
        self.model = settings.model
        self.cache_ttl_s: float | None = None
        self.context_window_tokens = settings.context_window_tokens
        self.reserve_tokens = settings.reserve_tokens
        self._settings = settings
        self._clock = clock
        self._client = openai.AsyncOpenAI(
            api_key=api_key or "none",
            base_url=settings.base_url,
            max_retries=settings.max_retries,
            timeout=httpx2.Timeout(settings.read_timeout_s, connect=settings.connect_timeout_s),
            # A conversation goes to the configured endpoint alone: neither where it redirects to,
            # nor through a proxy where it is on this machine.
            http_client=openai.DefaultAsyncHttpxClient(
                follow_redirects=False,
                trust_env=not settings.loopback,
                event_hooks={"request": [stamp]},
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
        attempts = Attempts(self._clock)
        answer = Answer(self.model, _REASONS)
        stream = await self._open_stream(messages, cache_key)
        async with stream:
            while (chunk := await self._next_chunk(stream, answer)) is not None:
                with answer.reading():
                    text = _take(chunk, answer)
                if text:
                    yield TextDelta(text)

        if answer.finish_reason:
            yield ModelCallFinished(ModelCall(self.model, attempts.started_at, answer.usage))
        yield MessageFinished(answer.message(messages[-1].turn_id))

    def overhead_chars(self) -> int:
        """Return the length of the system prompt."""
        return len(self._settings.system_prompt)

    async def aclose(self) -> None:
        """Close connections; the agent is not used afterwards."""
        await self._client.close()

    async def _open_stream(
        self, messages: Sequence[Message], cache_key: str
    ) -> openai.AsyncStream[ChatCompletionChunk]:
        wire = wire_messages(self._settings.system_prompt, messages)
        with translated_errors(self.model, _ERRORS):
            return await self._client.chat.completions.create(
                model=self.model,
                # They stand in `extra_body`, which takes their place: here, the SDK would compare
                # each with its types, a third of a second for 2,000 messages on the event loop.
                messages=(),
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"messages": wire, **extra_parameters(self._settings, cache_key)},
            )

    async def _next_chunk(
        self, stream: openai.AsyncStream[ChatCompletionChunk], answer: Answer
    ) -> ChatCompletionChunk | None:
        try:
            with translated_errors(self.model, _ERRORS):
                return await anext(stream, None)
        except AgentError as exc:
            if not answer.finish_reason:
                raise
            # The answer is whole; only what follows it, its usage, is lost.
            log.warning("agent.usage_lost", model=self.model, reason=str(exc))
            return None


def extra_parameters(settings: OpenAISettings, cache_key: str) -> dict[str, object]:
    """Return the parameters that not every endpoint knows by one name, or at all.

    The official endpoint's newer models refuse `max_tokens`; many others know nothing else, and
    some refuse `prompt_cache_key`.
    """
    parameters: dict[str, object] = {}
    if settings.max_output_tokens:
        name = "max_completion_tokens" if settings.official else "max_tokens"
        parameters[name] = settings.max_output_tokens
    if cache_key and (settings.official or settings.prompt_cache_key):
        parameters["prompt_cache_key"] = cache_key
    return parameters


def _take(chunk: ChatCompletionChunk, answer: Answer) -> str:
    """Add a chunk and return the text it brings, which may be empty."""
    if chunk.usage is not None:
        answer.measure(partial(read_usage, chunk.usage))

    text = ""
    for choice in chunk.choices or ():
        if choice.index:
            continue
        answer.finish_reason = str(choice.finish_reason or answer.finish_reason)
        delta: Any = choice.delta  # the type says never None; some endpoints send null
        if delta is not None:
            text += answer.add_text((delta.content or "") + (delta.refusal or ""))
            _take_calls(delta, answer)

    return text


def _take_calls(delta: Any, answer: Answer) -> None:  # noqa: ANN401 - built unchecked from what came
    for fragment in delta.tool_calls or ():
        function = fragment.function
        answer.add_call(
            fragment.index,
            call_id=fragment.id or "",
            name=(function and function.name) or "",
            arguments=(function and function.arguments) or "",
        )


def _facts(error: openai.APIError) -> dict[str, object]:
    facts: dict[str, object] = {"code": error.code, "type": error.type, "param": error.param}
    if isinstance(error, openai.APIStatusError):
        facts = {"status": error.status_code, **facts, "request id": error.request_id}
    return facts


def _user_text(error: openai.APIError) -> str:
    code = error.code or ""
    # An error inside a stream has no status; some endpoints send it as the code.
    status = int(code) if re.fullmatch("[1-5][0-9][0-9]", code) else 0
    if isinstance(error, openai.APIStatusError):
        status = error.status_code
    if code in _NO_BALANCE_CODES:
        return NO_BALANCE
    if status in {0, 400, 413, 422, 500} and _ABOUT_LENGTH.search(f"{code} {error.message}"):
        return TOO_LONG

    return text_of_status(status)


_ERRORS: Final = SdkErrors(
    timeout=openai.APITimeoutError,
    connection=openai.APIConnectionError,
    api=openai.APIError,
    user_text=_user_text,
    facts=_facts,
)
