"""The one commit that ends a turn: transcript, usage, reply and entry, or none of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from gateway.context.cache import CacheVerdict
from gateway.model import ContextSource, Message, Role, SessionId, Usage
from gateway.sessions.entry import SessionEntry, display_name
from gateway.sessions.history import stamp
from gateway.transcripts import accounts, inbox, outbox
from gateway.transcripts.accounts import ContextAccount
from gateway.transcripts.inbox import InboxRow
from gateway.transcripts.writing import append_messages, append_model_calls
from gateway.turns.records import encode_reply
from gateway.turns.running import Outcome
from gateway.turns.ticket import Reply, ReplyContext, ResetNotice

if TYPE_CHECKING:
    from gateway.durable.batch import Transaction
    from gateway.durable.database import Database
    from gateway.sessions.store import SessionStore


@dataclass(frozen=True, slots=True)
class TurnCommit:
    """Everything a turn leaves behind."""

    row: InboxRow
    session_id: SessionId
    message: Message
    outcome: Outcome
    reset: ResetNotice | None
    notice: str
    """What the user is told ahead of the answer; empty for nothing."""
    context: ReplyContext | None
    at: datetime
    verdicts: tuple[CacheVerdict, ...] = ()
    """What became of each model call at the provider's prompt cache."""
    account: ContextAccount | None = None
    """How the context was measured; None where nothing new is known."""

    def messages(self) -> list[Message]:
        """Return what the turn adds to the transcript, in order."""
        messages = [self.message]
        if self.notice:
            messages.append(Message(Role.NOTICE, self.notice.strip()))
        messages += self.outcome.messages
        turn_id = self.row.turn_id
        return [m if m.turn_id == turn_id else replace(m, turn_id=turn_id) for m in messages]


async def commit_turn(database: Database, store: SessionStore, turn: TurnCommit) -> Reply:
    """Commit a turn and return its reply.

    Durability: on return reply, transcript and entry survive power loss together.
    """
    reply = _reply(turn)

    def work(transaction: Transaction) -> None:
        at, row = stamp(turn.at), turn.row
        append_messages(transaction, turn.session_id, turn.messages(), at=at)
        append_model_calls(
            transaction,
            turn.session_id,
            row.turn_id,
            row.agent,
            turn.outcome.calls,
            turn.verdicts,
        )
        if turn.account is not None:
            accounts.keep(transaction, turn.session_id, turn.account)
        outbox.add(transaction, row, reply=encode_reply(reply), at=at)
        inbox.remove(transaction, row)
        # The entry of a session that was removed or reset meanwhile is not this turn's to change.
        if store.has_staged(row.session_key):
            store.stage_update(transaction, row.session_key, lambda entry: counted(entry, turn))

    await database.write_through(work)
    return reply


def counted(entry: SessionEntry, turn: TurnCommit) -> SessionEntry:
    """Return an entry with a turn counted; unchanged where it is another session's by now."""
    if entry.session_id != turn.session_id:
        return entry

    outcome, source = turn.outcome, turn.row.source
    usage = outcome.usage() or Usage()
    last = outcome.calls[-1] if outcome.calls else None
    return entry.changed(
        updated_at=_used_at(entry, turn),
        source=source,
        display_name=display_name(source),
        turns=entry.turns + 1,
        input_tokens=entry.input_tokens + usage.input_tokens,
        output_tokens=entry.output_tokens + usage.output_tokens,
        cache_read_tokens=entry.cache_read_tokens + usage.cache_read_tokens,
        cache_write_tokens=entry.cache_write_tokens + usage.cache_write_tokens,
        cache_touched_at=entry.cache_touched_at if last is None else last.started_at,
        model=entry.model if last is None else last.model,
        **_measured(entry, turn.context, usage),
    )


def _used_at(entry: SessionEntry, turn: TurnCommit) -> datetime:
    """Return when the user last did something: late answers do not move it back.

    A stamp in the future is a clock's mistake, and mended.
    """
    accepted_at = datetime.fromisoformat(turn.row.accepted_at)
    if entry.updated_at > turn.at:
        return accepted_at

    return max(entry.updated_at, accepted_at)


def _measured(entry: SessionEntry, context: ReplyContext | None, usage: Usage) -> dict[str, Any]:
    """Return the fields that a measurement of the context changes, and the total."""
    total = entry.total_tokens + usage.total_tokens
    if context is None or context.source is ContextSource.UNKNOWN:
        return {"total_tokens": total}

    return {
        "total_tokens": max(total, context.tokens),
        "context_tokens": context.tokens,
        "context_window_tokens": context.window_tokens,
        "context_source": context.source,
        "context_measured_at": context.measured_at,
        "context_step": entry.context_step + 1,
    }


def _reply(turn: TurnCommit) -> Reply:
    return Reply(
        session_key=turn.row.session_key,
        session_id=turn.session_id,
        turn_id=turn.row.turn_id,
        text=turn.notice + turn.outcome.text,
        reset=turn.reset,
        usage=turn.outcome.usage(),
        context=turn.context or ReplyContext(0, 0, ContextSource.UNKNOWN, None),
        status=turn.outcome.status,
    )


def turn_facts(turn: TurnCommit, reply: Reply) -> dict[str, object]:
    """Return what the log says of a turn; never what anybody wrote."""
    row, outcome = turn.row, turn.outcome
    return {
        "session_key": row.session_key,
        "session_id": turn.session_id,
        "turn_id": row.turn_id,
        "agent": row.agent,
        "model": outcome.calls[-1].model if outcome.calls else None,
        "platform": row.source.platform,
        "status": outcome.status,
        "error": outcome.error or None,
        "reset": None if turn.reset is None else turn.reset.reason,
        "recoveries": row.recoveries,
        "text_chars": len(row.text),
        "reply_chars": len(reply.text),
        "model_calls": len(outcome.calls),
        "total_tokens": None if reply.usage is None else reply.usage.total_tokens,
        "context_tokens": reply.context.tokens,
        "context_source": reply.context.source.value,
        "turns_left_out": reply.context.turns_left_out,
        "cache": turn.verdicts[-1].value if turn.verdicts else None,
    }
