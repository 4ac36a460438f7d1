"""The one commit that ends a turn: transcript, usage, reply and entry, or none of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from gateway.model import ContextSource, Message, Projection, Role, SessionId, TurnId
from gateway.sessions import history
from gateway.sessions.entry import SessionEntry, display_name
from gateway.sessions.history import stamp
from gateway.transcripts import accounts, inbox, outbox, projections
from gateway.transcripts.accounts import ContextAccount
from gateway.transcripts.inbox import InboxRow, Origin
from gateway.transcripts.outbox import COMMAND, RETRACTED
from gateway.transcripts.writing import append_messages
from gateway.turns.counting import spending, store_calls
from gateway.turns.outcome import MadeCall, Outcome
from gateway.turns.records import encode_reply
from gateway.turns.ticket import Reply, ReplyContext, ResetNotice

if TYPE_CHECKING:
    from collections.abc import Callable

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
    user: str
    """Whose usage it is."""
    account: ContextAccount | None = None
    """How the context was measured; None where nothing was counted."""
    refused: Projection | None = None
    """What keeps a message out of the context that no window has room for; None for all others."""
    posted: int = 0
    """Sizes of the context that dashboards were told while it ran."""
    lead: str = ""
    """What stands before all else in the reply, and in the transcript already."""
    stored_calls: int = 0
    """So many of its first requests were stored while it ran."""
    retracted: bool = False
    """Whether its sender took the message back before: nothing is said of it."""
    before: tuple[Message, ...] = ()
    """What the turn had said already, where it goes on with results of its caller's tools."""

    @property
    def turn_id(self) -> TurnId:
        """The turn that its messages belong to."""
        return self.row.continues or self.row.turn_id

    @property
    def said(self) -> bool:
        """Whether anything was said that the transcript gets."""
        return self.row.origin is not Origin.COMPACT and not self.retracted

    def calls(self) -> list[MadeCall]:
        """Return the requests that are not stored yet."""
        return self.outcome.calls[self.stored_calls :]

    def messages(self) -> list[Message]:
        """Return what the turn adds to the transcript, in order."""
        if not self.said:
            return []

        messages = [] if self.row.continues else [self.message]
        if self.notice:
            messages.append(Message(Role.NOTICE, self.notice.strip()))
        messages += self.outcome.messages
        turn_id = self.turn_id
        return [m if m.turn_id == turn_id else replace(m, turn_id=turn_id) for m in messages]


class Committed(NamedTuple):
    """What came of a commit."""

    reply: Reply
    through: int
    """The position of the turn's last message; 0 where it has none."""


OnCommit: TypeAlias = "Callable[[Transaction, TurnCommit, Reply], None]"
"""Called with each turn that ends, in the transaction of its commit; may be run again with it."""


async def commit_turn(
    database: Database,
    store: SessionStore,
    turn: TurnCommit,
    on_commit: OnCommit | None = None,
) -> Committed:
    """Commit a turn and return its reply; `on_commit` is called in the transaction.

    Durability: on return reply, transcript and entry survive power loss together.
    """
    reply = _reply(turn)

    def work(transaction: Transaction) -> int:
        at, row, messages = stamp(turn.at), turn.row, turn.messages()
        append_messages(transaction, turn.session_id, messages, at=at)
        through = transaction.connection.last_insert_rowid() if messages else 0
        store_calls(transaction, turn.session_id, turn.turn_id, turn.user, turn.calls())
        if turn.account is not None:
            accounts.keep(transaction, turn.session_id, turn.account)
        if turn.refused is not None:
            projections.keep(transaction, turn.session_id, [turn.refused], at=at)
        outbox.add(transaction, row, reply=encode_reply(reply), at=at)
        inbox.remove(transaction, row)
        entry = store.find_staged(row.session_key)
        if entry is not None and entry.session_id == turn.session_id:
            store.stage_update(transaction, row.session_key, lambda entry: counted(entry, turn))
        else:
            # It was left meanwhile, and may be gone back to.
            history.change_ended(
                transaction, row.session_key, turn.session_id, lambda entry: counted(entry, turn)
            )
        if on_commit is not None:
            on_commit(transaction, turn, reply)
        return through

    return Committed(reply, await database.write_through(work))


def counted(entry: SessionEntry, turn: TurnCommit) -> SessionEntry:
    """Return an entry with a turn counted."""
    source = turn.row.source
    changes = spending(entry, turn.calls())
    changes |= _measured(entry, turn, changes["total_tokens"])
    if turn.row.origin is Origin.USER:
        # What a process has to tell is no interaction, and a summary may be asked for by another.
        changes |= {
            "updated_at": _used_at(entry, turn),
            "source": source,
            "display_name": display_name(source),
        }
    is_new = turn.said and not turn.row.continues
    return entry.changed(turns=entry.turns + is_new, **changes)


def _used_at(entry: SessionEntry, turn: TurnCommit) -> datetime:
    """Return when the user last did something: late answers do not move it back.

    A stamp in the future is a clock's mistake, and mended.
    """
    accepted_at = datetime.fromisoformat(turn.row.accepted_at)
    if entry.updated_at > turn.at:
        return accepted_at

    return max(entry.updated_at, accepted_at)


def _measured(entry: SessionEntry, turn: TurnCommit, total: int) -> dict[str, Any]:
    """Return the fields that a measurement of the context changes, the total among them."""
    context = turn.context
    if context is None or context.source is ContextSource.UNKNOWN:
        return {}

    return {
        "total_tokens": max(total, context.tokens),
        "context_tokens": context.tokens,
        "context_window_tokens": context.window_tokens,
        "context_source": context.source,
        "context_measured_at": context.measured_at,
        # Newer than all that was told while the turn ran, wherever that is by now.
        "context_step": entry.context_step + 1 + turn.posted,
    }


def _reply(turn: TurnCommit) -> Reply:
    return Reply(
        session_key=turn.row.session_key,
        session_id=turn.session_id,
        turn_id=turn.row.turn_id,
        text="" if turn.retracted else turn.lead + turn.notice + turn.outcome.text,
        reset=turn.reset,
        usage=turn.outcome.usage(),
        context=turn.context or ReplyContext(0, 0, ContextSource.UNKNOWN, None),
        status=_status(turn),
        agent=turn.outcome.agent or "",
        fallbacks=tuple(turn.outcome.fallbacks),
        failure=turn.outcome.failure,
        calls=turn.outcome.open_calls(),
        cut=turn.outcome.cut,
        continues=turn.row.continues,
    )


def _status(turn: TurnCommit) -> str:
    if turn.retracted:
        return RETRACTED

    return COMMAND if turn.row.origin is Origin.COMPACT else turn.outcome.status


def turn_facts(turn: TurnCommit, reply: Reply) -> dict[str, object]:
    """Return what the log says of a turn; never what anybody wrote."""
    row, outcome = turn.row, turn.outcome
    return {
        "session_key": row.session_key,
        "session_id": turn.session_id,
        "turn_id": row.turn_id,
        "agent": row.agent,
        "answered_by": outcome.agent,
        "fallbacks": [f"{one.agent}: {one.reason}" for one in outcome.fallbacks] or None,
        "model": outcome.calls[-1].call.model if outcome.calls else None,
        "platform": row.source.platform,
        "status": outcome.status,
        "error": outcome.error or None,
        "reset": None if turn.reset is None else turn.reset.reason,
        "continues": row.continues or None,
        "open_calls": len(reply.calls) or None,
        "recoveries": row.recoveries,
        "text_chars": len(row.text),
        "reply_chars": len(reply.text),
        "model_calls": len(outcome.calls),
        "total_tokens": None if reply.usage is None else reply.usage.total_tokens,
        "context_tokens": reply.context.tokens,
        "context_source": reply.context.source.value,
        "turns_left_out": reply.context.turns_left_out,
        "cache": _cache(outcome),
        "usd": None if outcome.usd is None else round(outcome.usd, 6),
    }


def _cache(outcome: Outcome) -> str | dict[str, int] | None:
    """Return the verdict of a turn's model call, or how many calls had each."""
    verdicts = Counter(made.verdict.value for made in outcome.calls)
    return dict(verdicts) if len(outcome.calls) > 1 else next(iter(verdicts), None)
