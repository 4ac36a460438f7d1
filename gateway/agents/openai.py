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

from gateway.agents.answer import Answer, FinishReasons
from gateway.agents.asked import NO_WISHES, Wishes
from gateway.agents.attempts import stamp
from gateway.agents.calls import wire_chars
from gateway.agents.failures import (
    ABOUT_LENGTH,
    BUSY,
    NO_ANSWER,
    NO_BALANCE,
    TOO_LONG,
    Fault,
    SdkErrors,
    fault_of_status,
)
from gateway.agents.openai_wire import (
    OPENAI_TAKES,
    read_usage,
    wire_choice,
    wire_messages,
    wire_tools,
    wire_wishes,
)
from gateway.agents.streaming import Wire, streamed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from openai.types.chat import ChatCompletionChunk

    from gateway.agents.base import AgentEvent
    from gateway.agents.openai_wire import WireMessage
    from gateway.agents.settings import OpenAISettings
    from gateway.clock import Clock
    from gateway.model import Message, ToolSpec

_REASONS: Final = FinishReasons(
    cut=frozenset({"length"}),
    failed={
        "content_filter": Fault("The model's provider filtered the answer out."),
        # A router's word for a provider that failed behind it.
        "error": Fault(NO_ANSWER.user_text, BUSY.failure),
    },
)
_NO_BALANCE_CODES: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_STATUS_OF_CODE: Final = {"rate_limit_exceeded": 429, "server_error": 500, "overloaded_error": 529}
"""Errors inside a stream have no status; some endpoints send it as the code."""


class OpenAIModel:
    """Asks one model at one endpoint."""

    def __init__(self, settings: OpenAISettings, api_key: str, clock: Clock) -> None:
        """Make a client; an empty key is for an endpoint that asks for none."""
        self.facts = settings.facts()
        self.takes = OPENAI_TAKES
        self._settings = settings
        self._wire = Wire(settings.model, _REASONS, _ERRORS, _take, read_usage, clock)
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

    def overhead_chars(self, tools: Sequence[ToolSpec]) -> int:
        """Return the length of the system prompt and of the tools' definitions."""
        definitions = wire_tools(tools, official=self._settings.official)
        return self.facts.overhead_chars + wire_chars(definitions)

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
        parameters = extra_parameters(settings, cache_key, tools, may_call=may_call, wishes=wishes)
        wire = wire_messages(settings.system_prompt, messages)
        open_stream = partial(self._open_stream, wire, parameters)
        return streamed(self._wire, messages[-1].turn_id, open_stream)

    async def aclose(self) -> None:
        """Close connections; the model is not used afterwards."""
        await self._client.close()

    async def _open_stream(
        self, wire: list[WireMessage], parameters: dict[str, object]
    ) -> openai.AsyncStream[ChatCompletionChunk]:
        return await self._client.chat.completions.create(
            model=self._settings.model,
            # They stand in `extra_body`, which takes their place: here, the SDK would compare
            # each with its types, a third of a second for 2,000 messages on the event loop.
            messages=(),
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"messages": wire, **parameters},
        )


def extra_parameters(
    settings: OpenAISettings,
    cache_key: str,
    tools: Sequence[ToolSpec] = (),
    *,
    may_call: bool = True,
    wishes: Wishes = NO_WISHES,
) -> dict[str, object]:
    """Return the parameters that not every endpoint knows by one name, or at all.

    The official endpoint's newer models refuse `max_tokens`; many others know nothing else, and
    some refuse `prompt_cache_key`, or a choice of tools where there are none.
    """
    parameters: dict[str, object] = wire_wishes(wishes)
    # What the operator allows is the most that anybody can wish for.
    lengths = [most for most in (settings.max_output_tokens, wishes.max_output_tokens) if most]
    if lengths:
        name = "max_completion_tokens" if settings.official else "max_tokens"
        parameters[name] = min(lengths)
    if cache_key and (settings.official or settings.prompt_cache_key):
        parameters["prompt_cache_key"] = cache_key
    if tools:
        parameters["tools"] = wire_tools(tools, official=settings.official)
        parameters["tool_choice"] = wire_choice(wishes) if may_call else "none"
        if wishes.parallel_calls is not None:
            parameters["parallel_tool_calls"] = wishes.parallel_calls
    return parameters


def _take(chunk: Any, answer: Answer) -> str:  # noqa: ANN401 - built unchecked from what came
    """Add a chunk and return the text it brings, which may be empty."""
    if chunk.usage is not None:
        # Some endpoints count in every chunk; the last one counts all.
        answer.counted[:] = [chunk.usage]

    text = ""
    for choice in chunk.choices or ():
        if choice.index:
            continue
        answer.finish_reason = str(choice.finish_reason or answer.finish_reason)
        delta = choice.delta  # the type says never None; some endpoints send null
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


def _fault(error: openai.APIError) -> Fault:
    code = error.code or ""
    if isinstance(error, openai.APIStatusError):
        status = error.status_code
    else:
        status = (
            int(code) if re.fullmatch("[1-5][0-9][0-9]", code) else _STATUS_OF_CODE.get(code, 0)
        )
    if code in _NO_BALANCE_CODES:
        return NO_BALANCE
    if status in {0, 400, 413, 422, 500} and ABOUT_LENGTH.search(f"{code} {error.message}"):
        return TOO_LONG

    return fault_of_status(status)


_ERRORS: Final = SdkErrors(
    timeout=openai.APITimeoutError,
    connection=openai.APIConnectionError,
    api=openai.APIError,
    status=openai.APIStatusError,
    fault=_fault,
    facts=_facts,
)
