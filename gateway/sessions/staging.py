"""Entry changes inside a transaction: numbered, logged, and in memory once they are durable.

All of it runs in the database's writer thread, one transaction after the other, so a change sees
the result of every change before it. What is rolled back leaves no trace but a gap in the numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.errors import NotFoundError
from gateway.sessions.entry import encode_member

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.durable.batch import Transaction
    from gateway.model import SessionKey
    from gateway.sessions.entry import SessionEntry
    from gateway.sessions.table import EntryTable

NO_SESSION: Final = "there is no session with this key"
_LOG: Final = "INSERT INTO session_log (sequence, session_key, member) VALUES (?, ?, ?)"


class EntryStaging:
    """The writer thread's view of the entries, and the only way to change them."""

    def __init__(
        self, table: EntryTable, sequence: int, on_first_change: Callable[[], None]
    ) -> None:
        """Start after a sequence; the callback runs in the writer thread once memory differs."""
        self._table = table
        self._staged: dict[str, bytes | None] = {}
        self._sequence = sequence
        self._on_first_change = on_first_change
        self.applied_sequence = sequence
        """The last change that is durable and in memory; read from any thread."""
        self.changed = False
        """Whether memory changed since the owner last set this to False."""

    def member(self, key: SessionKey) -> bytes | None:
        """Return an entry's bytes as of this point in the order of all changes."""
        if key in self._staged:
            return self._staged[key]

        return self._table.member(key)

    def get(self, key: SessionKey) -> SessionEntry | None:
        """Return an entry as of this point in the order of all changes."""
        member = self.member(key)
        return None if member is None else self._table.decoded(key, member)

    def put(self, transaction: Transaction, entry: SessionEntry) -> None:
        """Set an entry; one that is the same already is not written again."""
        self._replace(transaction, entry, self.member(entry.session_key))

    def update(
        self,
        transaction: Transaction,
        key: SessionKey,
        change: Callable[[SessionEntry], SessionEntry],
    ) -> SessionEntry:
        """Replace an entry by what a function makes of it; the same again is not written.

        Raises:
            NotFoundError: there is no such entry.
        """
        before = self.member(key)
        if before is None:
            raise NotFoundError(NO_SESSION)

        entry = change(self._table.decoded(key, before))
        self._replace(transaction, entry, before)
        return entry

    def drop(self, transaction: Transaction, key: SessionKey) -> None:
        """Remove an entry."""
        self._stage(transaction, key, None)

    def _replace(self, transaction: Transaction, entry: SessionEntry, before: bytes | None) -> None:
        member = encode_member(entry)
        if member != before:
            self._table.keep_decoded(entry.session_key, member, entry)
            self._stage(transaction, entry.session_key, member)

    def _stage(self, transaction: Transaction, key: SessionKey, member: bytes | None) -> None:
        self._sequence += 1
        transaction.execute(_LOG, (self._sequence, key, member))
        if key in self._staged:
            transaction.on_abort(self._staged.__setitem__, key, self._staged[key])
        else:
            transaction.on_abort(self._unstage, key)
        self._staged[key] = member
        transaction.on_commit(self._apply, key, member, self._sequence)

    def _unstage(self, key: SessionKey) -> None:
        self._staged.pop(key, None)

    def _apply(self, key: SessionKey, member: bytes | None, sequence: int) -> None:
        if member is None:
            self._table.drop(key)
        else:
            self._table.put(key, member)
        # A later transaction of the same batch may have staged the key again.
        if key in self._staged and self._staged[key] is member:
            del self._staged[key]
        self.applied_sequence = sequence
        if not self.changed:
            self.changed = True
            self._on_first_change()
