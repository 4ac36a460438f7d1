"""A model behind the Messages API, Anthropic's or another that speaks it, through the official SDK.

The SDK's types and errors stop here. Importing this module imports the SDK, which is an extra and
costs a second: `gateway.agents.registry` does it only where such an agent is configured.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anthropic
import httpx2

from gateway.agents.answer import Answer, FinishReasons
from gateway.agents.anthropic_wire import (
    ANTHROPIC_TAKES,
    read_usage,
    request_parts,
    wire_tools,
)
from gateway.agents.asked import NO_WISHES, Wishes
from gateway.agents.attempts import stamp
from gateway.agents.calls import wire_chars
from gateway.agents.failures import (
    ABOUT_LENGTH,
    BROKEN_OFF,
    NO_BALANCE,
    TOO_LONG,
    Fault,
    SdkErrors,
    fault_of_status,
    retry_after_s,
)
from gateway.agents.streaming import Wire, streamed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from anthropic.types import RawMessageStreamEvent

    from gateway.agents.base import AgentEvent
    from gateway.agents.settings import AnthropicSettings
    from gateway.clock import Clock
    from gateway.model import Message, ToolSpec

MAX_RETRY_AFTER_S: Final = 120.0
"""A provider that wants a longer pause gets no second request: the user reads why instead."""
_REASONS: Final = FinishReasons(
    cut=frozenset({"max_tokens", "model_context_window_exceeded"}),
    failed={"refusal": Fault("The model declined to answer this.")},
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


class AnthropicModel:
    """Asks one model at one endpoint."""

    def __init__(self, settings: AnthropicSettings, api_key: str, clock: Clock) -> None:
        """Make a client; an empty key is for an endpoint that asks for none."""
        self.facts = settings.facts()
        self.takes = ANTHROPIC_TAKES
        self._settings = settings
        self._clock = clock
        self._wire = Wire(
            settings.model,
            _REASONS,
            _ERRORS,
            _take,
            partial(read_usage, cache_on=settings.cache_ttl != "off"),
            clock,
        )
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

    def overhead_chars(self, tools: Sequence[ToolSpec]) -> int:
        """Return the length of the system prompt and of the tools' definitions.

        What stands for past tools where none is offered is not among it: only some requests have
        it, and what it costs is measured with the first of them.
        """
        return self.facts.overhead_chars + wire_chars(wire_tools(tools))

    def ask(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        *,
        cache_key: str,
        may_call: bool,
        wishes: Wishes = NO_WISHES,
    ) -> AsyncGenerator[AgentEvent]:
        """Send one request; see `gateway.agents.loop.Model`."""
        settings = self._settings
        parts = request_parts(
            settings.system_prompt,
            messages,
            settings.cache_ttl,
            tools,
            may_call=may_call,
            wishes=wishes,
        )
        # What the operator allows is the most that anybody can wish for.
        parts["max_tokens"] = min(
            settings.max_output_tokens, wishes.max_output_tokens or settings.max_output_tokens
        )
        return streamed(self._wire, messages[-1].turn_id, partial(self._open_stream, parts))

    async def aclose(self) -> None:
        """Close connections; the model is not used afterwards."""
        await self._client.close()

    async def _open_stream(
        self, parts: dict[str, Any]
    ) -> anthropic.AsyncStream[RawMessageStreamEvent]:
        stream: anthropic.AsyncStream[RawMessageStreamEvent] = await self._client.messages.create(
            model=self._settings.model,
            max_tokens=self._settings.max_output_tokens,
            stream=True,
            # They stand in `extra_body`, which takes their place: here, the SDK would copy and
            # compare each with its types, on the event loop.
            messages=(),
            extra_body=parts,
        )
        return stream

    async def _refuse_long_pauses(self, response: httpx2.Response) -> None:
        """Tell the SDK, which would wait for any time, not to wait for a long one."""
        if (retry_after_s(response.headers, self._clock) or 0.0) > MAX_RETRY_AFTER_S:
            response.headers["x-should-retry"] = "false"


def _take(event: Any, answer: Answer) -> str:  # noqa: ANN401 - built unchecked from what came
    """Add an event and return the text it brings, which may be empty."""
    match event.type:
        case "message_start":
            answer.counted.append(event.message.usage)
        case "message_delta":
            answer.counted.append(event.usage)
            answer.finish_reason = str(event.delta.stop_reason or answer.finish_reason)
        case "message_stop":
            # The SDK would read on until the connection closes.
            answer.ended = True
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


def _facts(error: anthropic.APIError) -> dict[str, object]:
    if not isinstance(error, anthropic.APIStatusError):
        return {"kind": type(error).__name__}

    return {
        "status": error.status_code,
        "type": error.type,
        "code": error.error_code,
        "request id": error.request_id,
    }


def _fault(error: anthropic.APIError) -> Fault:
    if not isinstance(error, anthropic.APIStatusError):
        return BROKEN_OFF

    status = error.status_code
    if error.response.is_success:
        status = _STATUS_OF_TYPE.get(str(error.type), 0)
    told = str(error.api_message)
    if error.error_code in _SPEND_LIMITS or (status == 400 and _ABOUT_BALANCE.search(told)):  # noqa: PLR2004 - HTTP
        return NO_BALANCE
    if status in {0, 400, 413, 500} and ABOUT_LENGTH.search(told):
        return TOO_LONG

    return fault_of_status(status)


_ERRORS: Final = SdkErrors(
    timeout=anthropic.APITimeoutError,
    connection=anthropic.APIConnectionError,
    api=anthropic.APIError,
    status=anthropic.APIStatusError,
    fault=_fault,
    facts=_facts,
)
