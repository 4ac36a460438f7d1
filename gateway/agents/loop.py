"""The tool loop: a model is asked, its calls run, and it is asked again until it has answered.

One loop for all vendors: a vendor is a `Model` under it, and knows one request. The tools are a
`Toolbox`; what they return goes to the model as it is, and is never read as anything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio

from gateway.agents.base import Completion, MessageFinished, ModelCallFinished
from gateway.agents.calls import parse_arguments, with_unique_ids
from gateway.agents.direct import NO_WISHES
from gateway.errors import AgentError
from gateway.log import get_logger
from gateway.model import Message, Role, ToolCall, ToolResult, ToolSpec, clean_text

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from gateway.agents.base import AgentEvent, AgentFacts, Conversation
    from gateway.agents.direct import DirectRequest, Takes, Wishes
    from gateway.agents.settings import AgentToolSettings
    from gateway.agents.tools import Toolbox
    from gateway.model import ModelCall

NO_SUCH_TOOL: Final = "The model asked for a tool that it does not have. Please try again."
TOO_MUCH: Final = (
    "The model used as much of its tools as one message may, and came to no answer. "
    "Please ask for less at a time."
)
MAX_CALLS: Final = 256
"""How many calls of one answer are run."""
_LISTED_TOOLS: Final = 50
_SHOWN_CHARS: Final = 64

log = get_logger()


class Model(Protocol):
    """One model of one vendor."""

    @property
    def facts(self) -> AgentFacts:
        """What is known of it without tools."""
        ...

    @property
    def takes(self) -> Takes:
        """What can be asked of it beside an answer."""
        ...

    def overhead_chars(self, tools: Sequence[ToolSpec]) -> int:
        """Return how many characters a request with these tools carries beside the messages."""
        ...

    def ask(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        *,
        cache_key: str,
        may_call: bool,
        wishes: Wishes = NO_WISHES,
    ) -> AsyncGenerator[AgentEvent]:
        """Send one request and yield its text as it comes, what it cost, and the whole answer.

        The ids of the answer's calls may be empty, or the same as others of the turn.

        Args:
            messages: The context, oldest first.
            tools: What the request defines.
            cache_key: See `gateway.agents.base.Conversation`.
            may_call: False: the model is told not to use them. It may do so nevertheless.
            wishes: Of those that it takes.

        Raises:
            AgentError: There is no whole answer; deltas may have been yielded before.
        """
        ...

    async def aclose(self) -> None:
        """Close connections; the model is not used afterwards."""
        ...


@dataclass(slots=True)
class _Request:
    """One request of a turn."""

    messages: Sequence[Message]
    tools: Sequence[ToolSpec]
    bound: str = ""
    """The bound that the turn has reached."""

    @property
    def may_call(self) -> bool:
        """Whether the answer may call tools."""
        return bool(self.tools) and not self.bound

    def steps(self) -> int:
        """Return how many answers of the turn called tools so far."""
        return sum(bool(message.tool_calls) for message in self._turn())

    def call_ids(self) -> Iterator[str]:
        """Yield the ids of the turn's calls so far."""
        return (call.call_id for message in self._turn() for call in message.tool_calls)

    def _turn(self) -> Sequence[Message]:
        """Return what was said since the last user message."""
        for place in reversed(range(len(self.messages))):
            if self.messages[place].role is Role.USER:
                return self.messages[place + 1 :]
        return self.messages


@dataclass(slots=True)
class _Step:
    """A call of an answer, and what comes of it."""

    call: ToolCall
    arguments: dict[str, Any]
    result: ToolResult | None = None
    """None until it is known."""


class ToolLoop:
    """A model and its tools as an agent."""

    def __init__(self, model: Model, toolbox: Toolbox, settings: AgentToolSettings) -> None:
        """Put them together; the model is closed with the loop, the toolbox is not."""
        self._model = model
        self._toolbox = toolbox
        self._settings = settings
        self._facts: tuple[Sequence[ToolSpec], AgentFacts] | None = None
        """The tools that were offered last, and the facts with them."""

    def facts(self) -> AgentFacts:
        """Return the facts of the model, with the tools that it is offered now."""
        tools = self._toolbox.specs()
        # By identity: it is asked for each request, and a toolbox keeps them until they change.
        if self._facts is None or self._facts[0] is not tools:
            overhead_chars = self._model.overhead_chars(tools)
            self._facts = tools, replace(self._model.facts, overhead_chars=overhead_chars)
        return self._facts[1]

    async def run(self, conversation: Conversation) -> AsyncGenerator[AgentEvent]:
        """Answer the user's message, with as many requests as that takes.

        Cancellation: reaches the tools that run, and closes the connection of a request.

        Raises:
            AgentError: It cannot answer; `user_text` is what the user may read.
        """
        answer: Message | None = None
        while answer is None or answer.tool_calls:
            request = _Request(await conversation.messages(), self._toolbox.specs())
            request.bound = self._bound_reached(request, conversation.spent_tokens)
            answer = None
            async with aclosing(self._ask(request, conversation.cache_key)) as events:
                async for event in events:
                    yield event
                    if isinstance(event, MessageFinished):
                        answer = event.message
            if answer is None:
                raise AgentError(f"{self._model.facts.model}: a request came to no message")

            for result in await self._results(conversation, answer, request.tools):
                yield MessageFinished(result)

    async def complete(self, messages: Sequence[Message], *, cache_key: str = "") -> Completion:
        """Answer the last user message of a context once; no tool runs.

        The tools are defined all the same: the prompt cache begins with them.

        An answer that is none, or calls a tool, is an `error` beside what it cost.

        Raises:
            AgentError: There is no answer, and nothing was counted.
        """
        call: ModelCall | None = None
        answer: Message | None = None
        asked = self._model.ask(
            messages, self._toolbox.specs(), cache_key=cache_key, may_call=False
        )
        try:
            async with aclosing(asked) as events:
                async for event in events:
                    match event:
                        case ModelCallFinished():
                            call = event.call
                        case MessageFinished():
                            answer = event.message
            text = self._text_of(answer)
        except AgentError as error:
            if call is None:
                raise
            return Completion("", call, error)

        if call is None:
            raise AgentError(f"{self._model.facts.model}: an answer came without its count")

        return Completion(text, call)

    def takes(self) -> Takes:
        """Return what of a caller the model takes."""
        return self._model.takes

    async def ask(self, request: DirectRequest) -> AsyncGenerator[AgentEvent]:
        """Answer once with a caller's own tools; see `gateway.agents.direct.Direct`."""
        tools, choice = request.tools, request.wishes.tool_choice
        may_call = bool(tools) and choice != "none"
        asked = self._model.ask(
            request.messages,
            tools,
            cache_key=request.cache_key,
            may_call=may_call,
            wishes=request.wishes,
        )
        async with aclosing(asked) as events:
            async for event in events:
                if isinstance(event, MessageFinished):
                    if not may_call:
                        self._refuse_calls(event.message, NO_SUCH_TOOL)
                    yield replace(event, message=with_unique_ids(event.message, ()))
                else:
                    yield event

    async def aclose(self) -> None:
        """Close the model's connections; the agent is not used afterwards."""
        await self._model.aclose()

    async def _ask(self, request: _Request, cache_key: str) -> AsyncGenerator[AgentEvent]:
        """Send one request; its answer calls tools only where it may, and under ids of its own."""
        asked = self._model.ask(
            request.messages, request.tools, cache_key=cache_key, may_call=request.may_call
        )
        async with aclosing(asked) as events:
            async for event in events:
                if isinstance(event, MessageFinished):
                    answer = with_unique_ids(event.message, request.call_ids())
                    if not request.may_call:
                        self._refuse_calls(answer, TOO_MUCH if request.bound else NO_SUCH_TOOL)
                    yield replace(event, message=answer)
                else:
                    yield event

    def _bound_reached(self, request: _Request, spent_tokens: int) -> str:
        """Return the setting whose bound a turn has reached; empty: none."""
        settings, steps = self._settings, request.steps()
        bound = ""
        if not request.tools:
            return bound
        if steps >= settings.max_steps:
            bound = "max_steps"
        elif 0 < settings.max_turn_tokens <= spent_tokens:
            bound = "max_turn_tokens"
        if bound:
            model = self._model.facts.model
            log.warning(
                "agent.bound_reached",
                model=model,
                bound=bound,
                steps=steps,
                spent_tokens=spent_tokens,
            )
        return bound

    def _text_of(self, answer: Message | None) -> str:
        """Return the text of an answer that was to call no tool."""
        if answer is None:
            raise AgentError(f"{self._model.facts.model}: a request came to no message")

        self._refuse_calls(answer, NO_SUCH_TOOL)
        return answer.text

    def _refuse_calls(self, answer: Message, user_text: str) -> None:
        """Raise where there are calls: kept, they would make every later request fail."""
        if answer.tool_calls:
            # Not their names: a model may write anything into one.
            raise AgentError(
                f"{self._model.facts.model}: it called tools that it was not offered "
                f"({len(answer.tool_calls)} calls)",
                user_text=user_text,
            )

    async def _results(
        self, conversation: Conversation, answer: Message, tools: Sequence[ToolSpec]
    ) -> list[Message]:
        """Run the calls of an answer and return a result for each, in their order."""
        names = [tool.name for tool in tools]
        steps = [_step(call, names) for call in answer.tool_calls]
        for step in steps[MAX_CALLS:]:
            text = f"{_shown(step.call)} was not run: an answer may call {MAX_CALLS} tools at most."
            step.result = ToolResult(text)
        for step in steps:
            if step.result is None:
                step.result = await self._refused(conversation, step.call)
        waiting = [step for step in steps if step.result is None]
        if waiting:
            async with anyio.create_task_group() as tasks:
                # Each takes the next call that none has taken yet.
                shared = iter(waiting)
                for _ in range(min(self._settings.max_parallel, len(waiting))):
                    tasks.start_soon(self._work, shared, answer, conversation)
        return [_message(step, answer) for step in steps]

    async def _refused(self, conversation: Conversation, call: ToolCall) -> ToolResult | None:
        """Ask the user where that is needed; None: the call may run."""
        try:
            asks = self._toolbox.needs_approval(call.name)
        except Exception as exc:  # noqa: BLE001 - a broken toolbox costs the call, not the turn
            return _crashed(call, exc)

        if not asks or await conversation.approve(call):
            return None

        return ToolResult(
            f"{_shown(call)} was not run: the user did not allow it, or did not answer in time."
        )

    async def _work(
        self, waiting: Iterator[_Step], answer: Message, conversation: Conversation
    ) -> None:
        for step in waiting:
            try:
                step.result = await self._toolbox.call(
                    step.call.name, step.arguments, caller=conversation.caller
                )
            except Exception as exc:  # noqa: BLE001 - a broken toolbox costs the call, not the turn
                step.result = _crashed(step.call, exc)
            conversation.returned(_message(step, answer))


def _step(call: ToolCall, names: Sequence[str]) -> _Step:
    """Return a call, with its result where it cannot run at all."""
    if call.name not in names:
        known = ", ".join(names[:_LISTED_TOOLS])
        return _Step(call, {}, ToolResult(f"There is no tool {_shown(call)}. There are: {known}."))

    arguments = parse_arguments(call.arguments)
    if arguments is None:
        text = (
            f"{_shown(call)} was not run: its arguments are no JSON object. "
            "Call it again with all of them."
        )
        return _Step(call, {}, ToolResult(text))

    return _Step(call, arguments)


def _crashed(call: ToolCall, error: Exception) -> ToolResult:
    # Not its message: it may hold what was said, and paths of this machine.
    log.warning("agent.tool_crashed", tool=_shown(call), error=type(error).__name__)
    return ToolResult(f"{_shown(call)} failed: {type(error).__name__}.")


def _message(step: _Step, answer: Message) -> Message:
    # A toolbox that cancels itself leaves none.
    result = step.result or ToolResult(f"{_shown(step.call)} was interrupted.")
    return Message(
        Role.TOOL,
        clean_text(result.text),
        tool_call_id=step.call.call_id,
        tool_name=step.call.name,
        turn_id=answer.turn_id,
        images=result.images,
    )


def _shown(call: ToolCall) -> str:
    return repr(call.name[:_SHOWN_CHARS])
