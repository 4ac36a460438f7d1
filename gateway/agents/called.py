"""The calls of one answer as they run: approved where that is needed, so many at once.

What a tool returns goes on as it is; one that cannot run, or fails, is a result that says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import anyio

from gateway.agents.base import NobodyToAskError
from gateway.agents.calls import parse_arguments
from gateway.log import get_logger
from gateway.model import Message, Role, ToolCall, ToolResult, clean_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gateway.agents.base import Conversation
    from gateway.agents.tools import Toolbox
    from gateway.model import ToolSpec

MAX_CALLS: Final = 256
"""How many calls of one answer are run."""
_LISTED_TOOLS: Final = 50
_SHOWN_CHARS: Final = 64

log = get_logger()


@dataclass(slots=True)
class _Step:
    """A call of an answer, and what comes of it."""

    call: ToolCall
    arguments: dict[str, Any]
    result: ToolResult | None = None
    """None until it is known."""


class CallRunner:
    """Runs calls of one agent."""

    def __init__(self, toolbox: Toolbox, max_parallel: int) -> None:
        """Run calls of these tools, so many of an answer at once."""
        self._toolbox = toolbox
        self._max_parallel = max_parallel

    async def results(
        self, conversation: Conversation, answer: Message, tools: Sequence[ToolSpec]
    ) -> list[Message]:
        """Run the calls of an answer and return a result for each, in their order.

        The caller runs those of its own tools.
        """
        names = [tool.name for tool in tools]
        theirs = conversation.asked_for.tool_names
        calls = answer.tool_calls
        steps = [_step(call, names) for call in calls[:MAX_CALLS] if call.name not in theirs]
        for call in calls[MAX_CALLS:]:
            text = f"{_shown(call)} was not run: an answer may call {MAX_CALLS} tools at most."
            steps.append(_Step(call, {}, ToolResult(text)))
        for step in steps:
            if step.result is None:
                step.result = await self._refused(conversation, step.call)
        waiting = [step for step in steps if step.result is None]
        if waiting:
            async with anyio.create_task_group() as tasks:
                # Each takes the next call that none has taken yet.
                shared = iter(waiting)
                for _ in range(min(self._max_parallel, len(waiting))):
                    tasks.start_soon(self._work, shared, answer, conversation)
        return [_message(step, answer) for step in steps]

    async def _refused(self, conversation: Conversation, call: ToolCall) -> ToolResult | None:
        """Ask the user where that is needed; None: the call may run."""
        try:
            asks = self._toolbox.needs_approval(call.name)
        except Exception as exc:  # noqa: BLE001 - a broken toolbox costs the call, not the turn
            return _crashed(call, exc)

        try:
            if not asks or await conversation.approve(call):
                return None
        except NobodyToAskError:
            return ToolResult(
                f"{_shown(call)} was not run: it needs the user's yes, and nobody can be asked for "
                "one here."
            )

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
