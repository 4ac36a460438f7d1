"""Running one turn: from its first request to what its agents made of it. Writes nothing itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.agents.base import Agent
from gateway.agents.direct import can_answer
from gateway.errors import AgentError, AgentFailure
from gateway.log import get_logger
from gateway.model import AgentId
from gateway.transcripts.inbox import Ending, Origin
from gateway.turns.candidates import PASSED_ON, Breakers, in_order

if TYPE_CHECKING:
    from gateway.clock import Clock
    from gateway.model import TurnId
    from gateway.transcripts.inbox import InboxRow
    from gateway.turns.live import LiveTurn
    from gateway.turns.outcome import Outcome

MAX_RECOVERIES: Final = 1
"""How often a restart runs an unanswered message again before it is given up."""
GIVEN_UP: Final = "This message could not be answered: the gateway stopped twice while trying."
CUT_OFF: Final = (
    "The gateway was restarted while this was answered, so there is no answer. "
    "Please send it again if you still want one."
)
INTERRUPTED: Final = "interrupted"
"""Status of a turn that somebody or something ended."""
_ENDINGS: Final = {
    Ending.STOP: "this conversation was stopped.",
    Ending.NEW: "this conversation was left for another one.",
    Ending.SUPERSEDED: "another message came.",
    Ending.RESTARTS: (
        "the gateway stopped three times while it answered here, so this conversation is "
        "paused. /resume lets it go on."
    ),
}
FAILED: Final = "Something went wrong while this was answered. Please try again."


@dataclass(slots=True)
class Answering:
    """All agents, who stands in for whom, and who rests."""

    agents: Mapping[AgentId, Agent]
    breakers: Breakers
    fallbacks: Mapping[AgentId, Sequence[AgentId]] = field(default_factory=dict)
    """By agent, who answers in its place where it cannot; may be changed at any time."""
    stood_in: int = 0
    """Turns that another agent has answered than their own."""

    async def answer(self, turn: LiveTurn, first: AgentId) -> None:
        """Let agents answer a turn, the next one where one cannot.

        Raises:
            AgentError: None of them could; the turn holds what was said.
        """
        failed: AgentError | None = None
        last: AgentError | None = None
        candidates = in_order(first, self.agents, self.fallbacks, self.breakers, turn.passed_over)
        for agent_id in candidates:
            if agent_id != first and not can_answer(self.agents[agent_id], turn.asked_for):
                continue
            try:
                await self._ask(turn, agent_id)
            except AgentError as error:
                self.breakers.failed(agent_id, error)
                # What a user has read of an answer is not said again by another agent.
                if error.failure not in PASSED_ON or not turn.outcome.is_open():
                    raise

                # Why its own agent could not says most.
                failed = error if failed is None or agent_id == first else failed
                turn.passed_over(agent_id, error.failure.value)
                last = error
                _log_failure(turn.outcome.turn_id, agent_id, error)
            else:
                self.breakers.answered(agent_id)
                self.stood_in += agent_id != first
                return
        if failed is None:
            raise AgentError(f"there is no agent {first!r}")

        if failed is last:
            # The reply says it already, and nobody was asked after it.
            turn.outcome.fallbacks.pop()
        raise failed

    async def _ask(self, turn: LiveTurn, agent_id: AgentId) -> None:
        """Let one agent answer, once more where its provider finds the request too large."""
        agent = self.agents[agent_id]
        turn.use(agent_id, agent)
        try:
            await _run(turn, agent)
        except AgentError as error:
            too_large = error.failure is AgentFailure.OVERFLOW and turn.outcome.is_open()
            if not too_large or not await turn.make_room():
                raise

            await _run(turn, agent)


async def run_turn(
    turn: LiveTurn, first: AgentId, answering: Answering, clock: Clock, deadline_s: float
) -> Outcome:
    """Let agents answer a turn, within a deadline.

    Whatever goes wrong becomes an outcome with an error the user can read.
    """
    outcome = turn.outcome
    with clock.move_on_after(deadline_s) as scope:
        try:
            await answering.answer(turn, first)
        except AgentError as error:
            outcome.fail("failed", error.user_text, repr(error), error.failure.value)
        except Exception as error:  # noqa: BLE001 - the turn boundary: a broken agent ends this turn only
            get_logger().exception("turn.crashed", turn_id=outcome.turn_id)
            outcome.fail("failed", FAILED, type(error).__name__)
    if scope.cancelled_caught:
        text = f"This took longer than {deadline_s:g} seconds and was stopped."
        outcome.fail("deadline", text, "deadline")
    return outcome


def interrupt(outcome: Outcome, why: Ending) -> None:
    """End a turn that somebody or something ended before it was answered whole.

    Who took the message back knows it, and is told nothing.
    """
    if why is Ending.RETRACTED:
        outcome.status, outcome.error = INTERRUPTED, why.value
        return

    text = "Not answered to its end: " if outcome.text else "Not answered: "
    outcome.fail(INTERRUPTED, text + _ENDINGS[why], why.value)


def unanswerable(row: InboxRow, *, known_agent: bool, rerun: bool) -> tuple[str, str] | None:
    """Return status and text for a message that no agent is asked for any more; else None.

    Args:
        row: The message.
        known_agent: Whether there is its agent.
        rerun: Whether a turn that a stop of the gateway cut off runs again.
    """
    if row.recoveries > MAX_RECOVERIES:
        return "failed", GIVEN_UP
    if not known_agent:
        return "failed", f"There is no agent {row.agent!r} any more."
    if row.recoveries and row.origin is Origin.USER and not rerun:
        return INTERRUPTED, CUT_OFF

    return None


async def _run(turn: LiveTurn, agent: Agent) -> None:
    async with aclosing(agent.run(turn)) as events:
        async for event in events:
            turn.take(event)
    if not turn.outcome.is_whole():
        raise AgentError("the agent ended in the middle of a message or before a tool's result")


def _log_failure(turn_id: TurnId, agent_id: AgentId, error: AgentError) -> None:
    get_logger().warning(
        "agent.failed", turn_id=turn_id, agent=agent_id, failure=error.failure, error=str(error)
    )
