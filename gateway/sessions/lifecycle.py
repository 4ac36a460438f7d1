"""How a session begins, ends, comes back, is paused and resumed: the changes of its entry.

Each runs inside a transaction of the writer thread; `gateway.sessions.store` and whoever changes
more than a session in one transaction call them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.errors import ConflictError, NotFoundError
from gateway.sessions import history
from gateway.sessions.entry import SessionEntry, display_name
from gateway.sessions.key import new_session_id, parse_key
from gateway.sessions.staging import NO_SESSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.clock import Clock
    from gateway.durable.batch import Transaction
    from gateway.model import SessionId, SessionKey, SessionSource
    from gateway.sessions.staging import EntryStaging


class Lifecycle:
    """Changes entries of one store."""

    def __init__(self, staging: EntryStaging, clock: Clock) -> None:
        """Change what the staging holds."""
        self._staging = staging
        self._clock = clock
        self.on_reset: Callable[[Transaction, SessionEntry, SessionEntry], None] | None = None
        """Called in the transaction of each reset, with the entry before and the new one."""

    def existing(self, key: SessionKey) -> SessionEntry:
        """Return the entry of a key as of this point in the writer thread's order.

        Raises:
            NotFoundError: there is none.
        """
        entry = self._staging.get(key)
        if entry is None:
            raise NotFoundError(NO_SESSION)

        return entry

    def start(self, transaction: Transaction, entry: SessionEntry) -> None:
        """Put a session under a key, in place of what was."""
        history.record_started(transaction, entry)
        self._staging.put(transaction, entry)

    def begin(
        self, transaction: Transaction, key: SessionKey, source: SessionSource
    ) -> SessionEntry:
        """Start the first conversation of a key that has none now."""
        ended = history.last_ended(transaction, key)
        fresh = self._fresh(key, source)
        if ended is not None:
            fresh = fresh.changed(previous_session_id=ended.session_id, reset_reason=ended.reason)
        self.start(transaction, fresh)
        return fresh

    def reset(
        self, transaction: Transaction, key: SessionKey, reason: str = "manual"
    ) -> SessionEntry:
        """Start a new conversation under a key; `undo` brings the old one back."""
        entry = self.existing(key)
        fresh = self._fresh(key, entry.source).changed(
            display_name=entry.display_name,
            previous_session_id=entry.session_id,
            reset_reason=reason,
            suspended_at=entry.suspended_at,
            suspended_by=entry.suspended_by,
        )
        history.record_ended(transaction, entry, reason=reason, at=fresh.created_at)
        self.start(transaction, fresh)
        if self.on_reset is not None:
            self.on_reset(transaction, entry, fresh)
        return fresh

    def undo(self, transaction: Transaction, key: SessionKey) -> SessionEntry:
        """Bring back the conversation before the last reset, prune or removal of a key.

        Raises:
            ConflictError: there is none to bring back.
        """
        current = self._staging.get(key)
        if current is None:
            ended = history.last_ended(transaction, key)
            wanted = None if ended is None else ended.session_id
        else:
            wanted = current.previous_session_id
        return self._bring_back(transaction, key, wanted, current, "undone")

    def switch(
        self, transaction: Transaction, key: SessionKey, session_id: SessionId
    ) -> SessionEntry:
        """Go on with an earlier conversation of a key; `undo` goes back to the one left.

        Raises:
            ConflictError: the key never had it, or goes on with it already.
        """
        current = self._staging.get(key)
        restored = self._bring_back(transaction, key, session_id, current, "switched")
        if current is None:
            return restored

        return self._staging.update(
            transaction,
            key,
            lambda entry: entry.changed(
                previous_session_id=current.session_id, reset_reason="switched"
            ),
        )

    def suspend(self, transaction: Transaction, key: SessionKey, by: str) -> SessionEntry:
        """Pause a session; one that is paused stays as it is.

        Args:
            transaction: The one to write in.
            key: Whose.
            by: Who asked for it, see `SessionEntry.suspended_by`.
        """
        now = self._clock.now()

        def paused(entry: SessionEntry) -> SessionEntry:
            if entry.suspended_at is not None:
                return entry

            return entry.changed(suspended_at=now, suspended_by=by)

        return self._staging.update(transaction, key, paused)

    def resume(self, transaction: Transaction, key: SessionKey) -> SessionEntry:
        """End a pause."""
        return self._staging.update(
            transaction, key, lambda entry: entry.changed(suspended_at=None, suspended_by=None)
        )

    def _bring_back(
        self,
        transaction: Transaction,
        key: SessionKey,
        session_id: SessionId | None,
        current: SessionEntry | None,
        reason: str,
    ) -> SessionEntry:
        before = None
        if session_id is not None:
            before = history.ended_entry(transaction, key, session_id)
        if before is None:
            raise ConflictError("There is no earlier conversation to bring back.")

        now = self._clock.now()
        restored = before.changed(updated_at=now)
        if current is not None:
            history.record_ended(transaction, current, reason=reason, at=now)
            restored = restored.changed(
                suspended_at=current.suspended_at, suspended_by=current.suspended_by
            )
        self.start(transaction, restored)
        return restored

    def _fresh(self, key: SessionKey, source: SessionSource) -> SessionEntry:
        now = self._clock.now()
        return SessionEntry(
            session_key=key,
            session_id=new_session_id(now),
            agent=parse_key(key).agent,
            created_at=now,
            updated_at=now,
            source=source,
            display_name=display_name(source),
        )
