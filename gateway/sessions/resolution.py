"""Which session a message goes to: what was looked at, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.errors import ConflictError
from gateway.model import SessionId
from gateway.sessions.entry import SessionEntry
from gateway.sessions.policy import Decision


class MovedOnError(ConflictError):
    """The session changed since it was looked at; look again."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """The session a message goes to, and what was decided about it."""

    entry: SessionEntry
    decision: Decision
    previous_session_id: SessionId | None = None
    """The conversation that this message ended, or that had been pruned."""
    reset_reason: str | None = None
    """Why the session id is new to a returning user; None where nothing was reset."""


@dataclass(frozen=True, slots=True)
class View:
    """What a decision was based on, so that it is only carried out if it still holds."""

    decision: Decision
    entry: SessionEntry | None
    member: bytes | None
    """The entry's bytes."""
