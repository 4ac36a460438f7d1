"""What is told of contexts: to the log, to subscribers, to dashboards, and as counts.

Decides nothing. What anybody wrote is not told.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

from gateway.events import ContextPruned, Events
from gateway.log import get_logger
from gateway.model import ContextMeasurement, ContextSource, ProjectionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gateway.agents.base import AgentFacts
    from gateway.clock import Clock
    from gateway.model import Projection, SessionId, SessionKey
    from gateway.sessions.entry import SessionEntry
    from gateway.turns.compacting import Compacted
    from gateway.turns.keeping import Made
    from gateway.turns.outcome import MadeCall
    from gateway.turns.preparing import Asking, Plan, Request


class ContextTelling:
    """Tells what becomes of contexts, and counts it since the start."""

    def __init__(self, clock: Clock) -> None:
        """Begin with nobody who listens."""
        self._clock = clock
        self.events = Events()
        self.post: Callable[[SessionKey, SessionId, ContextMeasurement], None] = (
            lambda _key, _session_id, _measurement: None
        )
        """Called with each new size of a context; it must neither wait nor raise."""
        self.view: Callable[[SessionEntry], SessionEntry] = lambda entry: entry
        """Returns an entry with what was posted of it and is not stored yet."""
        self.verdicts: Counter[str] = Counter()
        """Model calls by what became of them at the provider's prompt cache."""
        self.pruned: Counter[str] = Counter()
        """Tool results by what was made of them: `trim`, `clear`."""
        self.rounds = 0
        self.saved_tokens = 0
        """What rounds took out of contexts, estimated."""
        self.saved_usd = 0.0
        self.compactions: Counter[str] = Counter()
        """Attempts to summarise old turns: `done`, `failed`."""

    def called(self, calls: Iterable[MadeCall]) -> None:
        """Count the model calls of a turn."""
        self.verdicts.update(made.verdict.value for made in calls)

    def counted(self, asking: Asking) -> None:
        """Tell what a provider has just counted while the turn goes on."""
        if asking.counted is not None:
            self.post(asking.entry.session_key, asking.entry.session_id, asking.counted)

    def estimated(self, asking: Asking, facts: AgentFacts, tokens: int) -> None:
        """Tell the size of a context that got smaller."""
        self.estimate(asking.entry, tokens, facts.window_tokens, asking.step)

    def estimate(self, entry: SessionEntry, tokens: int, window_tokens: int, step: int) -> None:
        """Tell the size of a session's context as it is estimated; see `ContextMeasurement`."""
        measurement = ContextMeasurement(
            tokens=tokens,
            window_tokens=window_tokens,
            source=ContextSource.ESTIMATE,
            measured_at=self._clock.now(),
            step=step,
        )
        self.post(entry.session_key, entry.session_id, measurement)

    def smaller(self, made: Made, asking: Asking, request: Request) -> None:
        """Tell that a context got smaller, and by which rounds."""
        after = request.estimated_tokens()
        self.estimated(asking, request.facts, after)
        for plan in made.rounds:
            last = plan is made.plan
            self._round(plan, asking.entry, after if last else plan.tokens_after)

    def shortened(self, asking: Asking, projections: Iterable[Projection]) -> None:
        """Tell that tool results of the turn that runs were made shorter."""
        modes = Counter(projection.mode.value for projection in projections)
        self.pruned.update(modes)
        get_logger().warning(
            "context.turn_shortened",
            session_key=asking.entry.session_key,
            session_id=asking.entry.session_id,
            agent=asking.agent_id,
            trimmed=modes["trim"],
            cleared=modes["clear"],
        )

    def compacted(self, asking: Asking, compaction: Compacted) -> None:
        """Tell what an attempt to summarise came to."""
        summary = compaction.summary
        self.compactions["failed" if summary is None else "done"] += 1
        fields: dict[str, object] = {
            "session_key": asking.entry.session_key,
            "session_id": asking.entry.session_id,
            "agent": asking.agent_id,
            "model_calls": len(compaction.calls),
        }
        if summary is None:
            get_logger().warning("context.compaction_failed", **fields, reason=compaction.reason)
            return

        get_logger().info(
            "context.compacted",
            **fields,
            turns=summary.turns,
            summary_chars=len(summary.text),
            tokens_before=summary.tokens_before,
            tokens_after=summary.tokens_after,
        )

    def _round(self, plan: Plan, entry: SessionEntry, tokens_after: int) -> None:
        done = plan.round
        event = ContextPruned(
            session_key=entry.session_key,
            session_id=entry.session_id,
            trimmed=done.count(ProjectionMode.TRIM),
            cleared=done.count(ProjectionMode.CLEAR),
            tool_names=tuple(done.tool_names()),
            tokens_before=plan.tokens_before,
            tokens_after=tokens_after,
        )
        self.rounds += 1
        self.pruned.update(trim=event.trimmed, clear=event.cleared)
        self.saved_tokens += done.saved_tokens
        self.saved_usd += plan.usd or 0.0
        get_logger().info(
            "context.pruned",
            **asdict(event),
            decision=done.decision.value,
            saved_tokens=done.saved_tokens,
            saved_usd=None if plan.usd is None else round(plan.usd, 6),
        )
        self.events.publish(event)
