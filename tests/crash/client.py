"""A client that writes down each change before it asks for it, and each answer it gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.errors import (
    ConflictError,
    GatewayError,
    NotFoundError,
    StorageBusyError,
    StorageFullError,
)
from gateway.model import Inbound, Message, Role, TurnId
from gateway.sessions.entry import encode_member
from gateway.turns.acceptance import Acceptance, Stored
from gateway.turns.again import Again
from gateway.turns.commit import TurnCommit, commit_turn, counted
from gateway.turns.outcome import Outcome as TurnOutcome
from gateway.turns.ticket import Progress
from tests.crash.operations import Acknowledged, Attempt, Refused
from tests.support.state import NEVER_RESET, entry, key_of, source

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.clock import FakeClock
    from gateway.model import SessionKey
    from gateway.sessions.entry import SessionEntry
    from tests.crash.operations import Mark
    from tests.support.state import State

REFUSALS = (StorageFullError, StorageBusyError, ConflictError, NotFoundError)
"""Errors that promise that nothing was applied."""


class Client:
    """Changes a store, one change of a key at a time; errors are answers too."""

    def __init__(self, state: State, clock: FakeClock, note: Callable[[Mark], None]) -> None:
        self.state = state
        self.errors: list[GatewayError] = []
        self.accepted_after_failure = 0
        """Changes that were acknowledged though the store had failed before they were asked for."""
        self._clock = clock
        self._note = note
        self._number = 0

    async def create(self, chat_id: str) -> None:
        # A key that was removed comes back with another session.
        self._number += 1
        made = entry(chat_id, updated_at=self._clock.now()).changed(
            session_id=f"{chat_id}-{id(self.state)}-{self._number}"
        )
        await self._change(
            made.session_key, encode_member(made), lambda: self.state.store.create(made)
        )

    async def update(self, chat_id: str) -> None:
        key = key_of(chat_id)
        before = self.state.store.get(key)
        if before is None:
            return

        after = before.changed(input_tokens=before.input_tokens + 1, updated_at=self._clock.now())
        await self._change(
            key, encode_member(after), lambda: self.state.store.update(key, lambda _: after)
        )

    async def remove(self, chat_id: str) -> None:
        key = key_of(chat_id)
        if self.state.store.get(key) is not None:
            await self._change(key, None, lambda: self.state.store.remove(key))

    async def reset(self, chat_id: str) -> None:
        key = key_of(chat_id)
        before = self.state.store.get(key)
        if before is not None:
            await self._change_to_new(key, before, lambda: self.state.store.reset(key))

    async def snapshot(self) -> None:
        try:
            await self.state.store.snapshots.write()
        except GatewayError as error:
            self.errors.append(error)

    async def compact(self, up_to_bytes: int) -> None:
        try:
            await self.state.database.compact(up_to_bytes)
        except GatewayError as error:
            self.errors.append(error)

    async def prune(self, max_entries: int) -> None:
        """Drop the oldest beyond a number; which these are is known only afterwards."""
        store = self.state.store
        keys = [one.session_key for one in store.entries(limit=100_000)]
        numbers = {key: self._attempt(key, None) for key in keys}
        try:
            await store.prune_old_entries(1e6, max_entries=max_entries)
        except GatewayError as error:
            self.errors.append(error)
            return

        for key, number in numbers.items():
            # Of what stays nothing is said: a change before it may still be in doubt.
            if store.get(key) is None:
                self._acknowledge(number, None)
            else:
                self._note(Refused(number))

    async def turn(self, chat_id: str, turn_id: str) -> None:
        """Accept a message, making its session if there is none, and answer it."""
        stored = await self._accept(chat_id, turn_id)
        current = self.state.store.get(key_of(chat_id))
        if stored is None or current is None:
            return

        done = TurnOutcome(Progress(), TurnId(turn_id))
        done.add_text("yes")
        done.add_message(Message(Role.ASSISTANT, "yes"))
        turn = TurnCommit(
            row=stored.row,
            session_id=current.session_id,
            message=Message(Role.USER, stored.row.text),
            outcome=done,
            reset=None,
            notice="",
            context=None,
            at=self._clock.now(),
            user="",
        )
        await self._change(
            current.session_key,
            encode_member(counted(current, turn)),
            lambda: commit_turn(self.state.database, self.state.store, turn),
            rows=frozenset({f"replied:{turn_id}"}),
        )

    async def _accept(self, chat_id: str, turn_id: str) -> Stored | None:
        store, key = self.state.store, key_of(chat_id)
        view = store.view(key, NEVER_RESET, lambda _: False)
        inbound = Inbound(source(chat_id), f"question {turn_id}", message_id=turn_id)
        acceptance = Acceptance(
            store=store,
            inbound=inbound,
            agent=entry().agent,
            key=key,
            turn_id=TurnId(turn_id),
            view=view,
            clock=self._clock,
            again=Again(self._clock),
            first=True,
        )
        found: list[object] = []

        async def accept() -> None:
            found.append(await self.state.database.write(acceptance.run))

        rows = frozenset({f"accepted:{turn_id}"})
        if view.entry is None:
            await self._change_to_new(key, None, accept, rows=rows)
        else:
            await self._change(key, encode_member(view.entry), accept, rows=rows)
        stored = found[0] if found else None
        return stored if isinstance(stored, Stored) else None

    async def _change(
        self,
        key: SessionKey,
        value: bytes | None,
        ask: Callable[[], Awaitable[object]],
        *,
        rows: frozenset[str] = frozenset(),
    ) -> None:
        refused = self.state.database.statistics().failed
        number = self._attempt(key, value, rows=rows)
        if await self._answer(number, ask, refused=refused):
            self._acknowledge(number, value)

    async def _change_to_new(
        self,
        key: SessionKey,
        before: SessionEntry | None,
        ask: Callable[[], Awaitable[object]],
        *,
        rows: frozenset[str] = frozenset(),
    ) -> None:
        refused = self.state.database.statistics().failed
        self._number += 1
        number = self._serial()
        after = None if before is None else before.session_id
        self._note(Attempt(number, key, None, after, open_ended=True, rows=rows))
        if await self._answer(number, ask, refused=refused):
            left = self.state.store.get(key)
            self._acknowledge(number, None if left is None else encode_member(left))

    async def _answer(
        self, number: int, ask: Callable[[], Awaitable[object]], *, refused: bool
    ) -> bool:
        """Ask, and note the answer; a store that had failed before must not do anything."""
        try:
            await ask()
        except GatewayError as error:
            self.errors.append(error)
            if refused or isinstance(error, REFUSALS):
                self._note(Refused(number))
            return False

        self.accepted_after_failure += refused
        return True

    def _attempt(
        self, key: SessionKey, value: bytes | None, *, rows: frozenset[str] = frozenset()
    ) -> int:
        number = self._serial()
        self._note(Attempt(number, key, value, rows=rows))
        return number

    def _acknowledge(self, number: int, value: bytes | None) -> None:
        sequence = self.state.store.statistics().sequence
        self._note(Acknowledged(number, value, sequence))

    def _serial(self) -> int:
        self._number += 1
        return self._number
