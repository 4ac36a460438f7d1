"""Which processes keep which session from being reset and pruned; any thread may ask."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.clock import Clock
    from gateway.model import SessionKey


class ActiveProcesses:
    """Processes by session key: those that run, and those whose end is still owed to it."""

    def __init__(self, clock: Clock, guard_max_age_s: float) -> None:
        """Start with none; one older than the age, by the wall clock, keeps nothing any more."""
        self.max_age_s = guard_max_age_s
        self._clock = clock
        self._lock = threading.Lock()
        """Guards `_since`."""
        self._since: dict[SessionKey, dict[str, datetime]] = {}

    def begun(self, session_key: SessionKey, process_id: str, at: datetime) -> None:
        """Note a process of a session."""
        with self._lock:
            self._since.setdefault(session_key, {})[process_id] = at

    def ended(self, session_key: SessionKey, process_id: str) -> None:
        """Note that nothing of a process is owed any more; one that is not known is no error."""
        with self._lock:
            processes = self._since.get(session_key, {})
            processes.pop(process_id, None)
            if not processes:
                self._since.pop(session_key, None)

    def blocking(self, session_key: SessionKey) -> tuple[str, ...]:
        """Return the processes that keep a session; the argument is the session key."""
        with self._lock:
            processes = list(self._since.get(session_key, {}).items())
        return tuple(name for name, since in processes if self.guards(since))

    def has_active_for_session(self, session_key: SessionKey) -> bool:
        """Return whether a process keeps a session; the argument is the session key."""
        return bool(self.blocking(session_key))

    def guards(self, since: datetime) -> bool:
        """Return whether a process of this age keeps its session."""
        return self.guards_for_s(since) > 0

    def guards_for_s(self, since: datetime) -> float:
        """Return for how long one of this age will, in seconds; 0 and less: it does not."""
        # A start in the future counts as now: the clock was set back.
        age_s = max(0.0, (self._clock.now() - since).total_seconds())
        return self.max_age_s - age_s
