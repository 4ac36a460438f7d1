"""The tool loop: a model is asked, its calls run, and it is asked again until it has answered.

It has answered as well where it calls a tool of its caller's: that one does not run here.

One loop for all vendors: a vendor is a `Model` under it, and knows one request. The tools are a
`Toolbox`; what they return goes to the model as it is, and is never read as anything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from gateway.agents.asked import NO_WISHES, Wishes
from gateway.agents.base import Completion, MessageFinished, ModelCallFinished
from gateway.agents.called import MAX_CALLS, CallRunner
from gateway.agents.calls import with_unique_ids
from gateway.errors import AgentError
from gateway.log import get_logger
from gateway.model import Message, Role, ToolSpec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from gateway.agents.asked import Asked
    from gateway.agents.base import AgentEvent, AgentFacts, Conversation
    from gateway.agents.direct import DirectRequest, Takes
    from gateway.agents.settings import AgentToolSettings
    from gateway.agents.tools import Toolbox
    from gateway.model import ModelCall

NO_SUCH_TOOL: Final = "The model asked for a tool that it does not have. Please try again."
TOO_MUCH: Final = (
    "The model used as much of its tools as one message may, and came to no answer. "
    "Please ask for less at a time."
)
SAME_NAME: Final = "A tool of the gateway has the name of one of yours. Please give yours another."

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
    wishes: Wishes
    bound: str = ""
    """The bound that the turn has reached."""

    @property
    def may_call(self) -> bool:
        """Whether the answer may call tools."""
        return bool(self.tools) and not self.bound and self.wishes.tool_choice != "none"

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


class ToolLoop:
    """A model and its tools as an agent."""

    def __init__(self, model: Model, toolbox: Toolbox, settings: AgentToolSettings) -> None:
        """Put them together; the model is closed with the loop, the toolbox is not."""
        self._model = model
        self._toolbox = toolbox
        self._calls = CallRunner(toolbox, settings.max_parallel)
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
        asked, answer = conversation.asked_for, None
        wishes, theirs = asked.wishes, asked.tool_names
        while answer is None or answer.tool_calls:
            request = _Request(await conversation.messages(), self._offered(asked), wishes)
            request.bound = self._bound_reached(request, conversation)
            answer = None
            async with aclosing(self._ask(request, conversation.cache_key)) as events:
                async for event in events:
                    yield event
                    if isinstance(event, MessageFinished):
                        answer = event.message
            if answer is None:
                raise AgentError(f"{self._model.facts.model}: a request came to no message")

            for result in await self._calls.results(conversation, answer, request.tools):
                yield MessageFinished(result)
            if any(call.name in theirs for call in answer.tool_calls[:MAX_CALLS]):
                return

            wishes = _after_a_call(wishes)

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
        own = frozenset(tool.name for tool in self._toolbox.specs())
        return replace(self._model.takes, own_tools=own)

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
            request.messages,
            request.tools,
            cache_key=cache_key,
            may_call=request.may_call,
            wishes=request.wishes,
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

    def _offered(self, asked: Asked) -> Sequence[ToolSpec]:
        """Return the gateway's tools and the caller's.

        Raises:
            AgentError: one of each have one name, so that a call of it could mean either.
        """
        own = self._toolbox.specs()
        if not asked.tools:
            return own
        if asked.tool_names & {tool.name for tool in own}:
            raise AgentError("a tool of the caller's has a name of ours", user_text=SAME_NAME)

        return [*own, *asked.tools]

    def _bound_reached(self, request: _Request, conversation: Conversation) -> str:
        """Return the setting whose bound a turn has reached; empty: none."""
        settings, spent_tokens = self._settings, conversation.spent_tokens
        steps = request.steps() - conversation.steps_before
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


def _after_a_call(wishes: Wishes) -> Wishes:
    """Return what is still wished for once tools were called: who must call one has done so."""
    if wishes.tool_choice != "required" and wishes.named_tool is None:
        return wishes

    return replace(wishes, tool_choice=None, named_tool=None)
