"""Conversations that ended long ago: their messages go to the archive, at last all that is left.

Messages are moved as a rule's action `archive` would move them, so that they can be given back
until the archive's time is over. What came back counts its time from then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import orjson

from gateway.model import Role
from gateway.pruning.conditions import NO_TOTALS, Totals
from gateway.pruning.items import ItemType
from gateway.pruning.records import PrunedItem, RunStatus
from gateway.pruning.rules import ArchiveAction
from gateway.pruning.units import parse_instant
from gateway.retention.rows import plain_record
from gateway.sessions.history import stamp
from gateway.transcripts import gone, items, pruned, removed
from gateway.transcripts.items import item_id
from gateway.transcripts.pruned import PrunedRow, PrunedState, RunCause, RunRow
from gateway.transcripts.removed import Ended

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from gateway.durable.batch import Transaction
    from gateway.durable.database import Database
    from gateway.transcripts.removed import Listed

RULE_ID: Final = "removed-sessions"
RULE_NAME: Final = "Removed conversations"
REASON: Final = "its conversation ended long enough ago"
STEP_ITEMS: Final = 50
STEP_BYTES: Final = 262_144
"""Messages, and their bytes, of one transaction: it holds the writer for some milliseconds."""
LISTED: Final = 500
"""Conversations, or model calls, that are looked at in one read."""
LISTS: Final = 20
"""Such reads of one sweep."""


@dataclass(slots=True)
class Moved:
    """What one sweep did."""

    run_id: str
    steps: int
    """How many reads and transactions may still be made."""
    exempt_keys: frozenset[str]
    """Session keys whose conversations are left alone."""
    between: Callable[[], Awaitable[None]]
    """Called between steps."""
    totals: Totals = NO_TOTALS
    """Messages that were moved."""
    forgotten: int = 0
    """Conversations of which nothing is left."""
    calls: int = 0
    """Model calls of such conversations."""
    more: bool = False
    """Whether there is more to do, as far as was looked, and some of it was done."""
    unreadable: list[int] = field(default_factory=list)
    """Positions of messages that were passed over."""

    @property
    def is_any(self) -> bool:
        """Whether anything was done."""
        return bool(self.totals.items or self.forgotten or self.calls)


@dataclass(frozen=True, slots=True)
class _Times:
    """The instants that a sweep goes by."""

    now: datetime
    before: datetime
    """When conversations must have ended at the latest."""
    due_at: datetime
    """When the grace of what is moved ends."""


class RemovedSessions:
    """Goes over ended conversations again and again, some in each sweep."""

    def __init__(self, database: Database, on_changed: Callable[[Collection[str]], None]) -> None:
        """Work on a database.

        Args:
            database: Where the conversations are.
            on_changed: Told the id of each whose messages are fewer, once that is durable.
        """
        self.run_id: str | None = None
        """The run in progress; None: none is."""
        self._database = database
        self._on_changed = on_changed
        self._after = Ended()
        self._within = ("", 0)
        """The conversation that is gone over, and the last message there that was looked at. What
        is passed over is looked at when its turn comes again."""
        self._after_call = 0

    async def work(
        self,
        now: datetime,
        before: datetime,
        due_at: datetime,
        *,
        steps: int,
        exempt_keys: frozenset[str],
        between: Callable[[], Awaitable[None]],
    ) -> Moved:
        """Move messages of conversations that ended before an instant, and forget what is over.

        Durability: on return what is told is on disk.
        Cancellation: what is done stays done; the run counts as cut off.

        Args:
            now: The present instant.
            before: When they must have ended at the latest.
            due_at: Until when what is moved stays in the database.
            steps: How many reads and transactions of messages at most.
            exempt_keys: Session keys whose conversations are left alone.
            between: Called between steps.
        """
        moved = Moved(uuid4().hex, steps, exempt_keys, between)
        times = _Times(now, before, due_at)
        self.run_id = moved.run_id
        try:
            is_more = not await self._go_over(moved, times)
            if moved.totals.items:
                await self._database.write_through(lambda tx: pruned.end_run(tx, _run(moved, now)))
        finally:
            self.run_id = None
        is_more = not await self._forget_calls(moved, times) or is_more
        moved.more = is_more and moved.is_any
        return moved

    async def _go_over(self, moved: Moved, times: _Times) -> bool:
        """Go on over what ended; False where that takes more steps."""
        for _ in range(LISTS):
            some = await self._database.read(
                partial(removed.ended, before=stamp(times.before), after=self._after, limit=LISTED)
            )
            for one in some:
                if moved.steps <= 0:
                    return False

                is_exempt = one.session_key in moved.exempt_keys
                if one.has_messages and not is_exempt:
                    if not await self._move(moved, one, times):
                        return False
                elif one.is_over and not is_exempt:
                    moved.steps -= 1
                    await self._forget(moved, one.session_id, times)
                    await moved.between()
                self._after, self._within = one, ("", 0)
            if len(some) < LISTED:
                self._after = Ended()
                return True
            await moved.between()
        return False

    async def _move(self, moved: Moved, one: Ended, times: _Times) -> bool:
        """Move the messages of a conversation; False where that takes more steps."""
        session_id = one.session_id
        if self._within[0] != session_id:
            self._within = (session_id, 0)
        while moved.steps > 0:
            moved.steps -= 1
            await moved.between()
            listed = await self._database.read(
                partial(
                    removed.messages_of,
                    session_id=session_id,
                    after=self._within[1],
                    limit=STEP_ITEMS,
                )
            )
            if not listed:
                return True

            old = [message for message in listed if not _is_back_since(message, times.before)]
            piece = _first_bytes(old, STEP_BYTES)
            last = listed if len(piece) == len(old) else piece
            if not piece:
                self._within = (session_id, last[-1].position)
                continue
            positions = [message.position for message in piece]
            taken = await self._database.write_through(
                partial(self._take, moved, session_id, positions, times)
            )
            self._within = (session_id, last[-1].position)
            if taken is None:
                return True

            totals, unreadable = taken
            moved.totals += totals
            moved.unreadable += unreadable
            if totals.items:
                self._on_changed((session_id,))
        return False

    def _take(
        self,
        moved: Moved,
        session_id: str,
        positions: Sequence[int],
        times: _Times,
        transaction: Transaction,
    ) -> tuple[Totals, list[int]] | None:
        """Move messages, in the writer; None where the conversation goes on again."""
        if not removed.is_ended(transaction, session_id, stamp(times.before)):
            return None

        totals, unreadable = NO_TOTALS, list[int]()
        # The newest message of all may be among them.
        gone.keep_positions(transaction)
        for position in positions:
            try:
                row = items.original(transaction, position)
                size = items.size_of(transaction, position)
            except UnicodeDecodeError:
                unreadable.append(position)
                continue
            if row is None or size is None:
                continue
            if not totals.items:
                cause = RunCause.RETENTION.value
                pruned.begin_run(transaction, moved.run_id, cause=cause, started_at=times.now)
            before = Totals(*size)
            entry = _entry(moved.run_id, position, session_id, str(row["role"]), before, times)
            pruned.add(transaction, entry, row)
            items.remove(transaction, position)
            totals += before
        return totals, unreadable

    async def _forget(self, moved: Moved, session_id: str, times: _Times) -> None:
        users = await self._database.read(partial(removed.users_only_of, session_id=session_id))
        moved.forgotten += await self._database.write_through(
            partial(removed.forget, session_id=session_id, before=stamp(times.before), users=users)
        )

    async def _forget_calls(self, moved: Moved, times: _Times) -> bool:
        """Delete model calls of conversations that are forgotten; False where there may be more."""
        before = stamp(times.before)
        for _ in range(LISTS):
            calls, after = await self._database.read(
                partial(removed.old_calls, before=before, after=self._after_call, limit=LISTED)
            )
            if calls:
                moved.calls += await self._database.write_through(
                    partial(removed.forget_calls, positions=calls, before=before)
                )
            self._after_call = after or 0
            if after is None:
                return True
            await moved.between()
        return False


def _first_bytes(listed: Sequence[Listed], most: int) -> Sequence[Listed]:
    """Return the first messages that come to no more than so many bytes; one at least."""
    total = 0
    for number, one in enumerate(listed):
        total += one.size_bytes
        if number and total > most:
            return listed[:number]
    return listed


def _is_back_since(one: Listed, before: datetime) -> bool:
    """Return whether a message was given back after an instant."""
    if one.marks is None:
        return False

    try:
        restored_at = orjson.loads(one.marks).get("restored_at")
        return restored_at is not None and parse_instant(restored_at) > before
    except (AttributeError, ValueError):
        # Marks that are none say nothing.
        return False


def _entry(
    run_id: str, position: int, session_id: str, role: str, before: Totals, times: _Times
) -> PrunedRow:
    record = PrunedItem(
        run_id=run_id,
        item_id=item_id(position),
        session_id=session_id,
        type=ItemType.TOOL_RESULT if role == Role.TOOL else ItemType.MESSAGE,
        rule_id=RULE_ID,
        rule_name=RULE_NAME,
        action=ArchiveAction(),
        reason=REASON,
        observed=(),
        before=before,
        after=NO_TOTALS,
        at=times.now,
    )
    return PrunedRow(
        run_id=run_id,
        item=position,
        session_id=session_id,
        action=ArchiveAction.kind,
        state=PrunedState.HELD,
        at=pruned.instant(times.now),
        due_at=pruned.instant(times.due_at),
        archive=None,
        record=plain_record(record, NO_TOTALS),
    )


def _run(moved: Moved, now: datetime) -> RunRow:
    return RunRow(
        run_id=moved.run_id,
        cause=RunCause.RETENTION.value,
        started_at=pruned.instant(now),
        ended_at=pruned.instant(now),
        status=RunStatus.OK.value,
        pruned=moved.totals.items,
        freed_bytes=moved.totals.size_bytes,
        freed_tokens=moved.totals.tokens,
    )
