"""Contexts of which rules have changed messages: forgotten at once, their new sizes told later.

To tell a size takes a read of what is left, which is nothing for a turn to wait for: whoever has
changed the messages calls `measure` when it suits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.context.estimate import tokens_of_chars
from gateway.model import ContextSource, SessionId, SessionKey
from gateway.sessions.history import owner_of
from gateway.transcripts.pruned import instant
from gateway.transcripts.reading import is_changed_since
from gateway.turns.memory import SessionContext, load_context, readable_chars

if TYPE_CHECKING:
    from collections.abc import Collection

    from gateway.agents.base import AgentFacts
    from gateway.durable.batch import Queries
    from gateway.durable.database import Database
    from gateway.sessions.entry import SessionEntry
    from gateway.sessions.store import SessionStore
    from gateway.turns.contexts import Contexts
    from gateway.turns.owed import Owed
    from gateway.turns.running import Answering

MOST_AT_ONCE: Final = 100
"""Contexts that one call of `measure` reads."""
MOST_WAITING: Final = 100_000
"""Sessions that may wait for it; of those that waited longest the next request tells the size."""


class ChangedContexts:
    """Knows whose contexts are in use, and whose have changed."""

    def __init__(
        self,
        database: Database,
        sessions: SessionStore,
        owed: Owed,
        contexts: Contexts,
        answering: Answering,
    ) -> None:
        """Begin with none changed."""
        self._database = database
        self._sessions = sessions
        self._owed = owed
        self._contexts = contexts
        self._answering = answering
        self._waiting: dict[SessionId, None] = {}
        """In the order in which they changed."""

    def live(self) -> set[SessionId]:
        """Return the conversations with a turn that runs, waits, or is being stored."""
        known = list(self._owed.session_ids())
        found = {session_id for _, session_id in known}
        # A message that is being stored belongs to where its key is now.
        for key in set(self._owed.lanes.keys()).difference(key for key, _ in known):
            entry = self._sessions.get(key)
            if entry is not None:
                found.add(entry.session_id)
        return found

    def note(self, session_ids: Collection[str]) -> None:
        """Forget the contexts of sessions, and note that their sizes are to be told."""
        for one in session_ids:
            session_id = SessionId(one)
            self._contexts.forget(session_id)
            self._waiting.pop(session_id, None)
            self._waiting[session_id] = None
        while len(self._waiting) > MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]

    async def measure(self, most: int = MOST_AT_ONCE) -> int:
        """Estimate changed contexts and tell their sizes; a busy session waits for the next call.

        No entry's `updated_at` moves. A size stays as it was measured where nothing that is sent
        has changed, or where there never was one.

        Cancellation: the session at hand is told of by the next request.

        Args:
            most: How many sessions are looked at.

        Returns:
            How many sessions wait.

        Raises:
            EntryError, ValueError: What is stored of a session is damaged; it does not wait any
                more.
        """
        for session_id in list(self._waiting)[:most]:
            self._waiting.pop(session_id, None)
            if not await self._measure(session_id):
                self._waiting.setdefault(session_id)
        return len(self._waiting)

    async def _measure(self, session_id: SessionId) -> bool:
        """Tell the size of a context, if it is to be told; False where its session is busy."""
        key = await self._database.read(lambda conn: owner_of(conn, session_id))
        entry = None if key is None else self._entry(SessionKey(key), session_id)
        if entry is None or entry.context_source is ContextSource.UNKNOWN:
            return True

        if self._owed.lanes.is_busy(entry.session_key):
            return False

        agent = self._answering.agents.get(entry.agent)
        facts = None if agent is None else agent.facts()
        context = await self._read(entry, facts)
        now = self._entry(entry.session_key, session_id)
        if now is None or context is None:
            return True

        if now.context_step != entry.context_step or self._owed.lanes.is_busy(entry.session_key):
            return False

        window_tokens = _window_tokens(entry, facts)
        telling, step = self._contexts.telling, entry.context_step + 1
        telling.estimate(entry, _tokens(context, facts), window_tokens, step)
        return True

    def _entry(self, key: SessionKey, session_id: SessionId) -> SessionEntry | None:
        """Return the entry of a key while it is in a conversation, all in it that was told."""
        entry = self._sessions.get(key)
        if entry is None or entry.session_id != session_id:
            return None

        return self._contexts.telling.view(entry)

    async def _read(self, entry: SessionEntry, facts: AgentFacts | None) -> SessionContext | None:
        """Return the context of a session; None where nothing that is sent has changed."""
        begun = entry.cache_touched_at
        since, session_id = "" if begun is None else instant(begun), entry.session_id
        context = await load_context(
            self._database,
            session_id,
            max_chars=readable_chars(_window_tokens(entry, facts)),
            counted_at=since,
        )

        def query(connection: Queries) -> bool:
            after = context.begins_after
            return is_changed_since(connection, session_id, after=after, since=since)

        return context if await self._database.read(query) else None


def _window_tokens(entry: SessionEntry, facts: AgentFacts | None) -> int:
    return entry.context_window_tokens if facts is None else facts.window_tokens


def _tokens(context: SessionContext, facts: AgentFacts | None) -> int:
    """Return what a request of the context alone would be counted as."""
    chars, account = context.counted.chars, context.account
    if facts is not None:
        chars, account = chars + facts.overhead_chars, account.of(facts.model)
    return account.tokens(tokens_of_chars(chars))
