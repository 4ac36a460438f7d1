"""What webhooks are told: each event staged in the transaction of what it tells.

Ids, keys, numbers and reasons; nothing that anybody wrote, the names of users and tools included.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from gateway.model import ProjectionMode
from gateway.webhooks.settings import EventKind

if TYPE_CHECKING:
    from typing import Any

    from gateway.durable.batch import Transaction
    from gateway.model import SessionId, SessionKey
    from gateway.sessions.entry import SessionEntry
    from gateway.sessions.store import SessionStore
    from gateway.turns.commit import TurnCommit
    from gateway.turns.pipeline import Turns
    from gateway.turns.preparing import Plan
    from gateway.turns.ticket import Reply
    from gateway.webhooks.webhooks import Webhooks


def announced(webhooks: Webhooks, store: SessionStore, turns: Turns) -> Webhooks:
    """Return webhooks that are told what they ask for; what nobody asks for costs nothing."""

    def reset(transaction: Transaction, before: SessionEntry, fresh: SessionEntry) -> None:
        data = session_reset(before, fresh)
        webhooks.stage(transaction, EventKind.SESSION_RESET, fresh.session_key, data)

    def pruned(transaction: Transaction, key: SessionKey, session_id: SessionId, by: str) -> None:
        data = {"session_key": key, "session_id": session_id, "reason": by}
        webhooks.stage(transaction, EventKind.SESSION_PRUNED, key, data)

    def context(transaction: Transaction, entry: SessionEntry, plan: Plan) -> None:
        data = context_pruned(entry, plan)
        webhooks.stage(transaction, EventKind.CONTEXT_PRUNED, entry.session_key, data)

    def turn(transaction: Transaction, commit: TurnCommit, reply: Reply) -> None:
        if commit.said:
            data = turn_completed(commit, reply)
            webhooks.stage(transaction, EventKind.TURN_COMPLETED, reply.session_key, data)

    if webhooks.wants(EventKind.SESSION_RESET):
        store.lifecycle.on_reset = reset
    if webhooks.wants(EventKind.SESSION_PRUNED):
        store.on_pruned = pruned
    if webhooks.wants(EventKind.CONTEXT_PRUNED):
        turns.contexts.keeping.on_pruned = context
    if webhooks.wants(EventKind.TURN_COMPLETED):
        turns.hooks.on_commit = turn
    return webhooks


def session_reset(before: SessionEntry, fresh: SessionEntry) -> dict[str, Any]:
    """Return what is told of a reset."""
    return {
        "session_key": fresh.session_key,
        "session_id": fresh.session_id,
        "previous_session_id": before.session_id,
        "reason": fresh.reset_reason,
        "turns": before.turns,
    }


def context_pruned(entry: SessionEntry, plan: Plan) -> dict[str, Any]:
    """Return what is told of a round that made tool results shorter."""
    return {
        "session_key": entry.session_key,
        "session_id": entry.session_id,
        "reason": plan.round.decision.value,
        "trimmed": plan.round.count(ProjectionMode.TRIM),
        "cleared": plan.round.count(ProjectionMode.CLEAR),
        "tokens_before": plan.tokens_before,
        "tokens_after": plan.tokens_after,
    }


def turn_completed(turn: TurnCommit, reply: Reply) -> dict[str, Any]:
    """Return what is told of a turn."""
    outcome = turn.outcome
    return {
        "session_key": reply.session_key,
        "session_id": reply.session_id,
        "turn_id": reply.turn_id,
        "agent": turn.row.agent,
        "answered_by": reply.agent or None,
        "platform": turn.row.source.platform,
        "account": turn.row.source.account,
        "status": reply.status,
        "failure": reply.failure or None,
        "usage": None if reply.usage is None else asdict(reply.usage),
        "usd": None if outcome.usd is None else round(outcome.usd, 6),
        "model_calls": len(outcome.calls),
        "reply_chars": len(reply.text),
        "context_tokens": reply.context.tokens,
        "context_window_tokens": reply.context.window_tokens,
    }
