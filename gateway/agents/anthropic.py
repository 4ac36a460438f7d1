"""A model behind the Messages API, Anthropic's or another that speaks it, through the official SDK.

The SDK's types and errors stop here. Importing this module imports the SDK, which is an extra and
costs a second: `gateway.agents.registry` does it only where such an agent is configured.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anthropic
import httpx2

from gateway.agents.answer import Answer, FinishReasons
from gateway.agents.anthropic_wire import read_usage, request_parts
from gateway.agents.attempts import Attempts, stamp
from gateway.agents.base import MessageFinished, ModelCallFinished, TextDelta
from gateway.agents.failures import (
    NO_BALANCE,
    TOO_LONG,
    SdkErrors,
    text_of_status,
    translated_errors,
)
from gateway.errors import AgentError
from gateway.log import get_logger
from gateway.model import ModelCall

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from anthropic.types import RawMessageStreamEvent

    from gateway.agents.base import AgentEvent
    from gateway.agents.settings import AnthropicSettings
    from gateway.clock import Clock
    from gateway.model import Message

MAX_RETRY_AFTER_S: Final = 120.0
"""A provider that wants a longer pause gets no second request: the user reads why instead."""
_REASONS: Final = FinishReasons(
    cut=frozenset({"max_tokens", "model_context_window_exceeded"}),
    failed={"refusal": "The model declined to answer this."},
)
_STATUS_OF_TYPE: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""Errors inside a stream come with the status of the stream, which is 200."""
_SPEND_LIMITS: Final = frozenset({"contract_spend_limit_reached", "enforced_spend_limit_reached"})
_ABOUT_BALANCE: Final = re.compile("credit balance", re.IGNORECASE)
_ABOUT_LENGTH: Final = re.compile(
    r"prompt is too long|context[_ ](?:limit|length|window|size)", re.IGNORECASE
)

log = get_logger()


class AnthropicAgent:
    """Asks one model at one endpoint; offers it no tools."""

    def __init__(self, settings: AnthropicSettings, api_key: str, clock: Clock) -> None:
        """Make a client; an empty key is for an endpoint that asks for none."""
        self.model = settings.model
        self.cache_ttl_s: float | None = settings.cache_ttl_s
        self.context_window_tokens = settings.context_window_tokens
        self.reserve_tokens = settings.reserve_tokens
        self._settings = settings
        self._clock = clock
        self._client = anthropic.AsyncAnthropic(
            api_key=api_key or "none",
            base_url=settings.base_url,
            max_retries=settings.max_retries,
            timeout=httpx2.Timeout(settings.read_timeout_s, connect=settings.connect_timeout_s),
            # Whatever the environment says: a trace may carry what was said.
            open_telemetry=False,
            # A conversation goes to the configured endpoint alone: neither where it redirects to,
            # nor through a proxy where it is on this machine. The SDK's own default client asks
            # the environment for proxies even where it is told not to trust it.
            http_client=httpx2.AsyncClient(
                follow_redirects=False,
                trust_env=not settings.loopback,
                event_hooks={"request": [stamp], "response": [self._refuse_long_pauses]},
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
        counted: list[Any] = []
        stream = await self._open_stream(messages)
        async with stream:
            while (event := await self._next_event(stream, answer)) is not None:
                with answer.reading():
                    text = _take(event, answer, counted)
                if text:
                    yield TextDelta(text)

        if answer.finish_reason:
            answer.measure(partial(read_usage, counted))
            yield ModelCallFinished(ModelCall(self.model, attempts.started_at, answer.usage))
        yield MessageFinished(answer.message(messages[-1].turn_id))

    def overhead_chars(self) -> int:
        """Return the length of the system prompt."""
        return len(self._settings.system_prompt)

    async def aclose(self) -> None:
        """Close connections; the agent is not used afterwards."""
        await self._client.close()

    async def _open_stream(
        self, messages: Sequence[Message]
    ) -> anthropic.AsyncStream[RawMessageStreamEvent]:
        settings = self._settings
        parts = request_parts(settings.system_prompt, messages, settings.cache_ttl)
        stream: anthropic.AsyncStream[RawMessageStreamEvent]
        with translated_errors(self.model, _ERRORS):
            stream = await self._client.messages.create(
                model=self.model, max_tokens=settings.max_output_tokens, stream=True, **parts
            )
        return stream

    async def _next_event(
        self, stream: anthropic.AsyncStream[RawMessageStreamEvent], answer: Answer
    ) -> RawMessageStreamEvent | None:
        try:
            with translated_errors(self.model, _ERRORS):
                event = await anext(stream, None)
        except AgentError as exc:
            if not answer.finish_reason:
                raise
            # The answer is whole, and so are its numbers: only the mark of the end is missing.
            log.warning("agent.stream_unended", model=self.model, reason=str(exc))
            return None

        # The SDK would read on until the connection closes.
        return None if getattr(event, "type", None) == "message_stop" else event

    async def _refuse_long_pauses(self, response: httpx2.Response) -> None:
        """Tell the SDK, which would wait for any time, not to wait for a long one."""
        if _retry_after_s(response.headers, self._clock) > MAX_RETRY_AFTER_S:
            response.headers["x-should-retry"] = "false"


def _take(event: Any, answer: Answer, counted: list[Any]) -> str:  # noqa: ANN401 - built unchecked
    """Add an event and return the text it brings, which may be empty."""
    match event.type:
        case "message_start":
            counted.append(event.message.usage)
        case "message_delta":
            counted.append(event.usage)
            answer.finish_reason = str(event.delta.stop_reason or answer.finish_reason)
        case "content_block_start" if event.content_block.type == "tool_use":
            block = event.content_block
            answer.add_call(event.index, call_id=block.id, name=block.name)
        case "content_block_start" if event.content_block.type == "text":
            return answer.add_text(event.content_block.text)
        case "content_block_delta":
            return _take_delta(event, answer)
    return ""


def _take_delta(event: Any, answer: Answer) -> str:  # noqa: ANN401 - built unchecked
    match event.delta.type:
        case "text_delta":
            return answer.add_text(event.delta.text)
        case "input_json_delta":
            answer.add_call(event.index, arguments=event.delta.partial_json)
        case "thinking_delta":
            # Nobody reads it, but it may have no end either.
            answer.count(len(event.delta.thinking))
    return ""


def _retry_after_s(headers: Mapping[str, str], clock: Clock) -> float:
    """Return the pause that a response asks for, in seconds or as a date; 0 if it asks for none."""
    header = headers.get("retry-after", "")
    with suppress(ValueError):
        return float(headers.get("retry-after-ms", "")) / 1_000
    with suppress(ValueError):
        return float(header)
    try:
        until = parsedate_to_datetime(header)
    except ValueError:
        return 0.0

    return (until.replace(tzinfo=until.tzinfo or UTC) - clock.now()).total_seconds()


def _facts(error: anthropic.APIError) -> dict[str, object]:
    if not isinstance(error, anthropic.APIStatusError):
        return {"kind": type(error).__name__}

    return {
        "status": error.status_code,
        "type": error.type,
        "code": error.error_code,
        "request id": error.request_id,
    }


def _user_text(error: anthropic.APIError) -> str:
    if not isinstance(error, anthropic.APIStatusError):
        return text_of_status(0)

    status = error.status_code
    if error.response.is_success:
        status = _STATUS_OF_TYPE.get(str(error.type), 0)
    told = str(error.api_message)
    if error.error_code in _SPEND_LIMITS or (status == 400 and _ABOUT_BALANCE.search(told)):  # noqa: PLR2004 - HTTP
        return NO_BALANCE
    if status in {0, 400, 413, 500} and _ABOUT_LENGTH.search(told):
        return TOO_LONG

    return text_of_status(status)


_ERRORS: Final = SdkErrors(
    timeout=anthropic.APITimeoutError,
    connection=anthropic.APIConnectionError,
    api=anthropic.APIError,
    user_text=_user_text,
    facts=_facts,
)
