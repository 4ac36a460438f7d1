"""What each command does. Knows no channel and no authorisation: who calls has looked at both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.commands.parsing import Name, Typed, help_text, usage
from gateway.commands.words import MAX_LISTED, NO_SESSION, Status, sessions_text, status_text
from gateway.context.cache import cache_policy
from gateway.durable.batch import Transaction
from gateway.errors import ConflictError, RefusedError
from gateway.model import ContextSource, Inbound, SessionId, SessionKey, TurnId
from gateway.sessions.policy import USER, may_user_resume, next_reset
from gateway.transcripts.inbox import Ending
from gateway.transcripts.reading import beginnings, sessions_of
from gateway.transcripts.usage import spent_by_session

if TYPE_CHECKING:
    from gateway.clock import Clock
    from gateway.commands.backgrounds import Backgrounds
    from gateway.durable.database import Database
    from gateway.sessions.entry import SessionEntry
    from gateway.sessions.store import SessionStore
    from gateway.turns.pipeline import Turns

NEW: Final = "new"
"""The reason of a reset by `/new`."""
_STOP_WORDS: Final = 2
"""Of `stop ID` behind `/ps`."""
_MIN_ID_CHARS: Final = 4
"""The shortest end of a session id that names it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A command, who typed it and what it is about."""

    typed: Typed
    inbound: Inbound
    key: SessionKey
    """The session it concerns."""
    admin: bool


@dataclass(frozen=True, slots=True)
class Effect:
    """What a command changes: stored together with its answer, then told to who runs turns."""

    stage: Callable[[Transaction], str]
    """Changes what is stored and returns the answer."""
    after: Callable[[], None] = lambda: None
    """Called on the event loop once that is durable."""


class Commands:
    """Carries commands out."""

    def __init__(
        self,
        database: Database,
        store: SessionStore,
        turns: Turns,
        backgrounds: Backgrounds,
        clock: Clock,
    ) -> None:
        """Act on the parts of one gateway."""
        self._database = database
        self._store = store
        self._turns = turns
        self._backgrounds = backgrounds
        self._clock = clock
        self._handlers: Mapping[Name, Callable[[Asked], Awaitable[Effect]]] = {
            Name.NEW: self._new,
            Name.UNDO: self._undo,
            Name.STOP: self._stop,
            Name.RESUME: self._resume,
            Name.SESSIONS: self._sessions,
            Name.STATUS: self._status,
            Name.COMPACT: self._compact,
            Name.BG: self._bg,
            Name.PS: self._ps,
            Name.HELP: self._help,
        }

    async def effect(self, asked: Asked) -> Effect:
        """Return what a command does; what it only shows is found out already.

        `/compact` of a session that there is is none of these: it takes its turn in its lane.

        Raises:
            RefusedError: it is not understood, or may not be; nothing was done.
        """
        typed, _key = asked.typed, asked.key
        if typed.rest and typed.name not in {Name.RESUME, Name.BG, Name.PS}:
            raise _not_understood(asked)

        return await self._handlers[typed.name](asked)

    async def _help(self, asked: Asked) -> Effect:
        may_start = self._backgrounds.may_start(admin=asked.admin)
        lists = self._backgrounds.enabled
        return _told(help_text(admin=asked.admin, starts=may_start, lists=lists))

    async def _sessions(self, asked: Asked) -> Effect:
        records = await sessions_of(self._database, asked.key)
        shown = [record.session_id for record in records[:MAX_LISTED]]
        began = await beginnings(self._database, shown)
        return _told(sessions_text(self._store.get(asked.key), records, began))

    async def _compact(self, _: Asked) -> Effect:
        # With a conversation it is no effect but a turn.
        return _told(NO_SESSION)

    async def _ps(self, asked: Asked) -> Effect:
        rest = asked.typed.rest.split()
        if not rest:
            return _told(await self._backgrounds.listing(asked.key))
        if len(rest) == _STOP_WORDS and rest[0].lower() == "stop":
            return _told(await self._backgrounds.stop(asked.key, rest[1]))

        raise _not_understood(asked)

    async def _bg(self, asked: Asked) -> Effect:
        text = asked.typed.rest
        return _told(
            await self._backgrounds.start(asked.inbound, asked.key, text, admin=asked.admin)
        )

    async def _new(self, asked: Asked) -> Effect:
        return self._leaving(asked, self._begin_anew)

    async def _undo(self, asked: Asked) -> Effect:
        return self._leaving(asked, self._go_back)

    def _leaving(self, asked: Asked, change: Callable[[Transaction, Asked], str | None]) -> Effect:
        """Leave a conversation: what was to be answered in it no agent answers any more."""
        key, ended = asked.key, list[TurnId]()

        def stage(transaction: Transaction) -> str:
            text = change(transaction, asked)
            if text is None:
                return NO_SESSION

            ended.extend(self._turns.stage_end(transaction, key, Ending.NEW))
            return text

        return Effect(stage, lambda: self._turns.end(key, ended, Ending.NEW))

    def _begin_anew(self, transaction: Transaction, asked: Asked) -> str | None:
        entry = self._store.find_staged(asked.key)
        if entry is None:
            return None

        self._store.lifecycle.reset(transaction, asked.key, NEW)
        paused = self._unpause(transaction, entry, asked)
        return "A new conversation begins. /undo brings the earlier one back." + paused

    def _go_back(self, transaction: Transaction, asked: Asked) -> str | None:
        entry = self._store.lifecycle.undo(transaction, asked.key)
        paused = self._unpause(transaction, entry, asked)
        return f"Back in the conversation of {entry.created_at:%Y-%m-%d %H:%M} UTC." + paused

    async def _stop(self, asked: Asked) -> Effect:
        key, ended = asked.key, list[TurnId]()

        def stage(transaction: Transaction) -> str:
            if not self._store.has_staged(key):
                return NO_SESSION

            ended.extend(self._turns.stage_end(transaction, key, Ending.STOP))
            entry = self._store.lifecycle.suspend(transaction, key, USER)
            if not may_user_resume(entry):
                return "Stopped. The operator has paused this conversation."

            return "Stopped. This conversation is paused; /resume lets it go on."

        return Effect(stage, lambda: self._turns.end(key, ended, Ending.STOP))

    async def _resume(self, asked: Asked) -> Effect:
        wanted = asked.typed.rest
        if wanted:
            session_id = await self._find(asked.key, wanted)

            def change(transaction: Transaction, asked: Asked) -> str:
                entry = self._store.lifecycle.switch(transaction, asked.key, session_id)
                paused = self._unpause(transaction, entry, asked)
                began = f"{entry.created_at:%Y-%m-%d %H:%M} UTC"
                return f"Back in the conversation of {began}. /undo leaves it again." + paused

            return self._leaving(asked, change)

        def stage(transaction: Transaction) -> str:
            entry = self._store.find_staged(asked.key)
            if entry is None:
                return NO_SESSION
            if entry.suspended_at is None:
                return "This conversation is not paused."

            # Who resumes is here: the next message must find what they go on with.
            self._store.stage_update(
                transaction, asked.key, lambda entry: entry.changed(updated_at=self._clock.now())
            )
            return self._unpause(transaction, entry, asked).strip() or "It goes on."

        return Effect(stage)

    def _unpause(self, transaction: Transaction, entry: SessionEntry, asked: Asked) -> str:
        """End the pause of a session, if there is one that its user may end; say so if not."""
        if entry.suspended_at is None:
            return ""
        if not (asked.admin or may_user_resume(entry)):
            return " It is paused by the operator; an admin can let it go on."

        self._store.lifecycle.resume(transaction, asked.key)
        return ""

    async def _find(self, key: SessionKey, wanted: str) -> SessionId:
        """Return the conversation of a key that an id, or the end of one, names."""
        records = await sessions_of(self._database, key)
        ids = [one.session_id for one in records]
        found = [one for one in ids if one == wanted]
        if not found and len(wanted) >= _MIN_ID_CHARS:
            found = [one for one in ids if one.endswith(wanted)]
        if len(found) != 1:
            which = "more than one conversation" if found else "no conversation here"
            raise RefusedError(f"That names {which}. /sessions lists them.")

        entry = self._store.get(key)
        if entry is not None and entry.session_id == found[0]:
            raise ConflictError("That is the conversation that goes on here.")

        return found[0]

    async def _status(self, asked: Asked) -> Effect:
        key, entry = asked.key, self._store.get(asked.key)
        if entry is None:
            return _told(NO_SESSION)

        now = self._clock.now()
        spent = await self._database.read(lambda conn: spent_by_session(conn, entry.session_id))
        running, waiting = self._turns.work_of(key)
        processes = self._backgrounds.count(key)
        busy = "an answer is being made" if running or waiting else ""
        guard = "a process runs" if self._backgrounds.guards(key) else ""
        status = Status(
            entry=entry,
            spent=spent,
            now=now,
            cache=self._cache(entry),
            next_reset_at=next_reset(entry, self._turns.places.policy(entry.source), now),
            holds=" or ".join(filter(None, (busy, guard))),
            running=running,
            asks=self._turns.approvals.is_open(key),
            waiting=waiting,
            processes=processes,
        )
        return _told(status_text(status))

    def _cache(self, entry: SessionEntry) -> tuple[bool, float]:
        """Return whether anything is known of the prompt cache, and how long it lives on."""
        agent = self._turns.answering.agents.get(entry.agent)
        own = (entry.cache_agent or entry.agent) == entry.agent
        # Whose provider counts nothing tells nothing of a cache either.
        if agent is None or entry.context_source is not ContextSource.USAGE:
            return False, 0.0
        if entry.cache_touched_at is None or not own:
            return True, 0.0

        facts = agent.facts()
        settings = self._turns.contexts.settings
        policy = cache_policy(settings, entry.agent, facts.model, facts.cache_ttl_s)
        age_s = (self._clock.now() - entry.cache_touched_at).total_seconds()
        warm = facts.model == entry.model and age_s >= 0
        return True, max(0.0, policy.ttl_s - age_s) if warm else 0.0


def _not_understood(asked: Asked) -> RefusedError:
    how = usage(asked.typed.name, admin=asked.admin)
    return RefusedError(f"Not understood. It is used like this: {how}")


def _told(text: str) -> Effect:
    return Effect(lambda _: text)
