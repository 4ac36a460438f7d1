"""Which processes run for which session, in memory."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.model import SessionKey


class ProcessRegistry:
    """Live processes by session key; safe to ask from any thread."""

    def __init__(self) -> None:
        """Start with none."""
        self._lock = threading.Lock()
        """Guards `_active`."""
        self._active: dict[SessionKey, set[str]] = {}

    def started(self, session_key: SessionKey, process_id: str) -> None:
        """Note that a process runs for a session."""
        with self._lock:
            self._active.setdefault(session_key, set()).add(process_id)

    def ended(self, session_key: SessionKey, process_id: str) -> None:
        """Note that a process ended; one that is not known is no error."""
        with self._lock:
            processes = self._active.get(session_key, set())
            processes.discard(process_id)
            if not processes:
                self._active.pop(session_key, None)

    def has_active_for_session(self, session_key: SessionKey) -> bool:
        """Return whether a process runs for a session; the argument is the session key."""
        with self._lock:
            return session_key in self._active

    def __len__(self) -> int:
        """Return the number of live processes."""
        with self._lock:
            return sum(map(len, self._active.values()))
