"""Context measurements on their way into the store: the latest of a session wins.

Posting is a plain call that never waits and never fails the caller. A measurement is applied only
to the session id it was made for, only if the entry has no newer one; it never moves `updated_at`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.model import ContextMeasurement, SessionId, SessionKey
    from gateway.sessions.entry import SessionEntry

Pending = dict[tuple["SessionKey", "SessionId"], "ContextMeasurement"]
"""The latest measurement by session key and session id: one that comes late, for the conversation
before a reset, must not push aside that of the new one."""
MAX_PENDING: Final = 100_000
"""Sessions that may wait; beyond it new ones are dropped and counted, so that memory is bounded."""


class ContextMailbox:
    """Pending measurements by session; used on the event loop only."""

    def __init__(self) -> None:
        """Start empty."""
        self._pending: Pending = {}
        self._taken: Pending = {}
        self.dropped = 0

    def __len__(self) -> int:
        """Return how many sessions wait, what is being written included."""
        return len(self._pending.keys() | self._taken.keys())

    def post(self, key: SessionKey, session_id: SessionId, measurement: ContextMeasurement) -> bool:
        """Keep a measurement if it is the latest of its session; tell whether it was kept."""
        place = (key, session_id)
        waiting = self._pending.get(place)
        if waiting is None and len(self._pending) >= MAX_PENDING:
            self.dropped += 1
            return False

        if waiting is not None and waiting.step >= measurement.step:
            return False

        self._pending[place] = measurement
        return True

    def take(self) -> Pending:
        """Return all that waits, to be written; `settle` tells how that went."""
        self._taken, self._pending = self._pending, {}
        return self._taken

    def settle(self, *, written: bool) -> None:
        """Forget what was taken, or keep it where nothing newer has come meanwhile."""
        taken, self._taken = self._taken, {}
        if not written:
            for place, measurement in taken.items():
                self.post(*place, measurement)

    def view(self, entry: SessionEntry) -> SessionEntry:
        """Return an entry with its pending measurement, as it will be once that is durable."""
        place = (entry.session_key, entry.session_id)
        for waiting in (self._taken, self._pending):
            if place in waiting:
                entry = apply_measurement(entry, entry.session_id, waiting[place])
        return entry


def apply_measurement(
    entry: SessionEntry, session_id: SessionId, measurement: ContextMeasurement
) -> SessionEntry:
    """Return an entry with a measurement; unchanged where it is another session's or not newer."""
    if entry.session_id != session_id or measurement.step <= entry.context_step:
        return entry

    return entry.changed(
        context_tokens=measurement.tokens,
        context_window_tokens=measurement.window_tokens,
        context_source=measurement.source,
        context_measured_at=measurement.measured_at,
        context_step=measurement.step,
        total_tokens=max(entry.total_tokens, measurement.tokens),
    )
