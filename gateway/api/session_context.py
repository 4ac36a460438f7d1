"""What would be sent of a session, over HTTP: messages, sizes, cache, and the next round."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from starlette.routing import Route

from gateway.api.answers import json_response, shown_account, shown_usd
from gateway.api.form import query_form
from gateway.api.sessions import key_of, not_found
from gateway.context.cache import CachePolicy, cache_policy, is_cold
from gateway.context.pruning import Decision
from gateway.context.settings import PruningMode
from gateway.sessions.history import stamp
from gateway.turns.preparing import last_request
from gateway.turns.showing import show_context

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from gateway.agents.base import AgentFacts
    from gateway.api.context import ApiContext
    from gateway.context.settings import PruningSettings
    from gateway.sessions.entry import SessionEntry
    from gateway.turns.showing import NextRound, ShownContext

_SUMMARISED_SINCE: Final = "old turns were summarised since the last request"


def session_context_routes(context: ApiContext) -> list[Route]:
    """Return the routes of what is sent of a session."""
    shown = SessionContexts(context)
    one = "/v1/sessions/{key}/context"
    return [
        Route(one, shown.show, methods=["GET"]),
        Route(f"{one}/compact", shown.compact, methods=["POST"]),
    ]


@dataclass(frozen=True, slots=True)
class CacheState:
    """The provider's prompt cache of a session, as far as the gateway can know it."""

    state: str
    """`warm`, `cold`, or `unknown` where nobody would be asked."""
    why: str
    last_request_at: datetime | None
    """Start of the last successful request."""
    last_model: str
    """The model that answered it; empty before any."""
    age_s: float | None
    ttl_s: float
    expires_at: datetime | None
    """When it runs out, or ran out; None before any request."""
    last_verdict: str
    """What became of the last request that its provider counted; empty before any."""


class SessionContexts:
    """Shows what is sent, and lets old turns be summarised."""

    def __init__(self, context: ApiContext) -> None:
        """Read the context's parts."""
        self._context = context

    async def show(self, request: Request) -> Response:
        """Answer with what is sent of a session, message by message, and what that rests on."""
        key = key_of(request)
        form = query_form(request)
        dry_run, text = form.word_flag("dry_run"), form.word_flag("text")
        form.finish()
        parts = self._context
        found = parts.store.get(key)
        if found is None:
            raise not_found()

        entry = parts.watcher.view(found)
        agent, settings = parts.agents().get(entry.agent), parts.turns.contexts.settings
        now = parts.clock.now()
        shown = await show_context(
            parts.database, entry, agent, settings, now, dry_run=dry_run, text=text
        )
        policy = cache_policy(
            settings,
            entry.agent,
            agent.model if agent else entry.model,
            agent.cache_ttl_s if agent else None,
        )
        cache = _cache_state(entry, agent, policy, shown, now)
        answer: dict[str, object] = {
            "session_key": entry.session_key,
            "session_id": entry.session_id,
            "busy": parts.turns.is_busy(key),
            "agent": {"id": entry.agent, "configured": agent is not None}
            | ({} if agent is None else asdict(agent)),
            "messages": shown.messages,
            "messages_not_listed": shown.messages_not_listed,
            "size": _size(shown, agent),
            "measured": {
                "tokens": entry.context_tokens,
                "window_tokens": entry.context_window_tokens,
                "source": entry.context_source,
                "measured_at": entry.context_measured_at,
            },
            "cache": cache,
            "account": shown_account(shown.account)
            | {"price_configured": policy.input_usd_per_mtok is not None},
            "next_round": None,
        }
        if dry_run:
            answer["next_round"] = _next_round(shown.next_round, entry, settings.pruning, cache)
        return json_response(answer)

    async def compact(self, request: Request) -> Response:
        """Let the agent summarise all turns but the latest, and answer with what it did."""
        query_form(request).finish()
        key = key_of(request)
        compacted = await self._context.turns.compact(key)
        summary = compacted.summary
        return json_response(
            {
                "session_key": key,
                "compacted": summary is not None,
                "why_not": compacted.reason or None,
                "summary": None if summary is None else asdict(summary),
                "model_calls": len(compacted.calls),
            }
        )


def _size(shown: ShownContext, agent: AgentFacts | None) -> dict[str, object]:
    window_tokens = None if agent is None else agent.window_tokens
    return {
        "sent_messages": shown.sent_messages,
        "sent_chars": shown.sent_chars,
        "said_messages": shown.said_messages,
        "said_chars": shown.said_chars,
        "pruned_messages": shown.pruned_messages,
        "summarised_turns": shown.summarised_turns,
        "left_out_turns": shown.left_out_turns,
        "agent_chars": None if agent is None else agent.overhead_chars,
        "overhead_tokens": shown.overhead_tokens,
        "estimated_tokens": shown.estimated_tokens,
        "window_tokens": window_tokens,
        "window_share": window_tokens and round(shown.estimated_tokens / window_tokens, 4),
    }


def _cache_state(
    entry: SessionEntry,
    agent: AgentFacts | None,
    policy: CachePolicy,
    shown: ShownContext,
    now: datetime,
) -> CacheState:
    touched_at = entry.cache_touched_at
    state, why = "unknown", no_agent(entry)
    if agent is not None:
        last = last_request(entry, shown.account, entry.agent)
        cold = is_cold(last, agent.model, policy, now)
        state = "cold" if cold else "warm"
        why = _why_so(entry, agent, shown, now, cold=cold)
    return CacheState(
        state=state,
        why=why,
        last_request_at=touched_at,
        last_model=entry.model,
        age_s=None if touched_at is None else round((now - touched_at).total_seconds(), 3),
        ttl_s=policy.ttl_s,
        expires_at=None if touched_at is None else _expires_at(touched_at, policy.ttl_s),
        last_verdict=shown.account.cache_verdict,
    )


def _why_so(
    entry: SessionEntry, agent: AgentFacts, shown: ShownContext, now: datetime, *, cold: bool
) -> str:
    if entry.cache_touched_at is None:
        # A summary makes the gateway forget the request before it.
        forgotten = entry.model and shown.summarised_turns
        return _SUMMARISED_SINCE if forgotten else "no request has succeeded yet"
    if (entry.cache_agent or entry.agent) != entry.agent:
        return f"another agent answered last: {entry.cache_agent}"
    if entry.model != agent.model:
        return f"another model answered last: {entry.model}"
    if entry.cache_touched_at > now:
        return "the clock was set back since the last request"

    return "its time to live has passed" if cold else "the last request is younger than it lives"


def _expires_at(touched_at: datetime, ttl_s: float) -> datetime | None:
    try:
        return touched_at + timedelta(seconds=ttl_s)
    except OverflowError:  # beyond the calendar: never
        return None


def no_agent(entry: SessionEntry) -> str:
    """Return what is said of a session whose agent is gone."""
    return f"no agent {entry.agent!r} is configured, so nothing is sent and no window is known"


def _next_round(
    planned: NextRound | None, entry: SessionEntry, settings: PruningSettings, cache: CacheState
) -> dict[str, object]:
    if planned is None:
        return {"decision": None, "why": no_agent(entry)}

    return {
        "decision": planned.decision,
        "why": _why_decided(planned.decision, settings, cache),
        "trimmed": planned.trimmed,
        "cleared": planned.cleared,
        "tool_names": planned.tool_names,
        "tokens_before": planned.tokens_before,
        "tokens_after": planned.tokens_after,
        "saved_tokens": planned.saved_tokens,
        "saved_usd": shown_usd(planned.saved_usd),
        "left_out_turns": planned.left_out_turns,
        "compacts": planned.compacts,
    }


def _why_decided(decision: Decision, settings: PruningSettings, cache: CacheState) -> str:
    if decision is Decision.PRUNE and settings.mode is PruningMode.ALWAYS and cache.state != "cold":
        return "context.pruning.mode is always"

    until = "" if cache.expires_at is None else f" until {stamp(cache.expires_at)}"
    return {
        Decision.PRUNE: f"the prompt cache is cold: {cache.why}",
        Decision.FORCED: f"the prompt cache is warm{until}, but the window is filled from "
        f"context.pruning.force_ratio ({settings.force_ratio:g}) on",
        Decision.OFF: "context.pruning.mode is off",
        Decision.SMALL: "it fills less of the window than context.pruning.soft_trim_ratio "
        f"({settings.soft_trim_ratio:g})",
        Decision.WARM: f"the prompt cache is warm{until}",
        Decision.NOTHING: "there is no tool result that may be made shorter",
        Decision.LITTLE: "it would save less than context.pruning.min_saving_tokens "
        f"({settings.min_saving_tokens})",
    }[decision]
