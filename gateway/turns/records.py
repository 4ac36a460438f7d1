"""Replies as they are stored and read back, and the notices the gateway adds to them."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Final

import orjson

from gateway.model import ContextSource, SessionId, SessionKey, ToolCall, TurnId, Usage
from gateway.sessions.policy import may_user_resume
from gateway.transcripts.outbox import ANSWERED
from gateway.turns.ticket import Fallback, Reply, ReplyContext, ResetNotice

if TYPE_CHECKING:
    from gateway.sessions.entry import SessionEntry

PAUSED: Final = "paused"
"""Status of a reply that no turn made."""
_REASONS: Final = {
    "idle": "nothing was said here for a long time",
    "daily": "a new day has begun",
    "manual": "it was asked for",
    "pruned": "the old one had not been used for a long time and was put away",
    "removed": "the old one was removed",
}


def encode_reply(reply: Reply) -> str:
    """Return a reply as JSON text."""
    return orjson.dumps(reply, option=orjson.OPT_UTC_Z).decode()


def decode_reply(text: str) -> Reply:
    """Return a stored reply."""
    raw = orjson.loads(text)
    context = raw["context"]
    measured_at = context["measured_at"]
    return Reply(
        session_key=SessionKey(raw["session_key"]),
        session_id=SessionId(raw["session_id"]),
        turn_id=TurnId(raw["turn_id"]),
        text=raw["text"],
        reset=decode_reset(raw["reset"]),
        usage=None if raw["usage"] is None else Usage(**raw["usage"]),
        context=ReplyContext(
            tokens=context["tokens"],
            window_tokens=context["window_tokens"],
            source=ContextSource(context["source"]),
            measured_at=None if measured_at is None else datetime.fromisoformat(measured_at),
            turns_left_out=context["turns_left_out"],
        ),
        status=raw["status"],
        # Replies from before there were fallbacks have neither.
        agent=raw.get("agent", ""),
        fallbacks=tuple(Fallback(**one) for one in raw.get("fallbacks", ())),
        failure=raw.get("failure", ""),
        calls=tuple(ToolCall(**call) for call in raw.get("calls", ())),
        cut=raw.get("cut", False),
        continues=TurnId(raw.get("continues", "")),
    )


def encode_reset(reset: ResetNotice | None) -> dict[str, str | None] | None:
    """Return a reset notice as plain fields."""
    return None if reset is None else asdict(reset)


def decode_reset(raw: dict[str, str | None] | None) -> ResetNotice | None:
    """Return a reset notice from its fields."""
    if raw is None:
        return None

    previous = raw["previous_session_id"]
    return ResetNotice(str(raw["reason"]), None if previous is None else SessionId(previous))


def reset_text(reset: ResetNotice | None, *, commands: bool = True) -> str:
    """Return what the user is told about a reset, ahead of the answer; empty without one.

    Args:
        reset: The reset.
        commands: Whether the user has commands to undo it.
    """
    if reset is None:
        return ""

    why = _REASONS.get(reset.reason, reset.reason)
    undo = " /undo brings the earlier one back." if commands else ""
    return f"(This is a new conversation: {why}.{undo})\n\n"


def answered_reply(entry: SessionEntry, turn_id: TurnId, text: str) -> Reply:
    """Return the answer to a message that was meant for the question of the turn that runs."""
    return reply_without_turn(entry.session_key, entry, text, ANSWERED, turn_id)


def paused_reply(entry: SessionEntry) -> Reply:
    """Return the answer to a message whose session is paused."""
    how = "The operator can let it go on."
    if may_user_resume(entry):
        how = "/resume lets it go on."
    text = (
        f"This conversation is paused since {entry.suspended_at:%Y-%m-%d %H:%M} UTC, and your "
        f"message was not kept. {how}"
    )
    return reply_without_turn(entry.session_key, entry, text, PAUSED, TurnId(""))


def reply_without_turn(
    key: SessionKey, entry: SessionEntry | None, text: str, status: str, turn_id: TurnId
) -> Reply:
    """Return a reply that no turn made, for a session that there may not be."""
    if entry is None:
        context = ReplyContext(0, 0, ContextSource.UNKNOWN, None)
        return Reply(key, SessionId(""), turn_id, text, None, None, context, status)

    return Reply(
        session_key=key,
        session_id=entry.session_id,
        turn_id=turn_id,
        text=text,
        reset=None,
        usage=None,
        context=ReplyContext(
            tokens=entry.context_tokens,
            window_tokens=entry.context_window_tokens,
            source=entry.context_source,
            measured_at=entry.context_measured_at,
        ),
        status=status,
    )
