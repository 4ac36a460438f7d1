"""Who answers a turn: its agent, and where that one cannot, the agents it names in its place.

An agent whose provider failed rests for a time that doubles with each failure (a circuit breaker);
one that rests is passed over as long as another can answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.errors import AgentFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from gateway.agents.base import Agent
    from gateway.clock import Clock
    from gateway.errors import AgentError
    from gateway.model import AgentId

FIRST_REST_S: Final = 5.0
LONGEST_REST_S: Final = 300.0
PASSED_ON: Final = frozenset({AgentFailure.RATE_LIMIT, AgentFailure.OUTAGE, AgentFailure.OVERFLOW})
"""Failures that another agent may not have."""
RESTING: Final = "resting"


@dataclass(slots=True)
class _Breaker:
    failures: int = 0
    """In a row."""
    rests_until: float = 0.0
    """Monotonic, in seconds."""


class Breakers:
    """Which agents rest after failures of their providers."""

    def __init__(self, clock: Clock) -> None:
        """Start with all of them ready."""
        self._clock = clock
        self._breakers: dict[AgentId, _Breaker] = {}

    def failed(self, agent: AgentId, error: AgentError) -> None:
        """Let an agent rest whose provider failed; one asked too large a request does not."""
        if error.failure not in {AgentFailure.RATE_LIMIT, AgentFailure.OUTAGE}:
            return

        breaker, rest_s = self._breakers.setdefault(agent, _Breaker()), 0.0
        # Many turns that fail of one outage are one failure.
        if not self.rest_s(agent):
            rest_s = FIRST_REST_S * 2 ** min(breaker.failures, 10)
            breaker.failures += 1
        rest_s = min(LONGEST_REST_S, max(rest_s, error.retry_after_s or 0.0))
        breaker.rests_until = max(breaker.rests_until, self._clock.monotonic() + rest_s)

    def answered(self, agent: AgentId) -> None:
        """Forget the failures of an agent that answers again."""
        self._breakers.pop(agent, None)

    def rest_s(self, agent: AgentId) -> float:
        """Return how long an agent rests yet, in seconds; 0 where it is ready."""
        breaker = self._breakers.get(agent)
        return 0.0 if breaker is None else max(0.0, breaker.rests_until - self._clock.monotonic())

    def resting(self) -> dict[str, float]:
        """Return the agents that rest, with the seconds that are left."""
        return {agent: rest for agent in self._breakers if (rest := self.rest_s(agent)) > 0}


def in_order(
    first: AgentId,
    agents: Mapping[AgentId, Agent],
    fallbacks: Mapping[AgentId, Sequence[AgentId]],
    breakers: Breakers,
    passed_over: Callable[[AgentId, str], None],
) -> Iterator[AgentId]:
    """Yield whom to ask, one after the other, as long as the ones before failed.

    Who rests comes after who is ready.

    Args:
        first: The agent of the turn.
        agents: All there are.
        fallbacks: By agent, whom it names in its place.
        breakers: Who rests.
        passed_over: Told whom another is asked before, and why.
    """
    resting: list[AgentId] = []
    named = dict.fromkeys((first, *fallbacks.get(first, ())))
    candidates = [agent for agent in named if agent in agents]
    for agent in candidates:
        if breakers.rest_s(agent) > 0 and len(candidates) > 1:
            resting.append(agent)
            passed_over(agent, RESTING)
        else:
            yield agent
    yield from resting
