"""Turns in a database, told briefly, and what the store of items makes of them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import anyio

from gateway.clock import FakeClock
from gateway.durable.database import Database
from gateway.model import Message, Role, SessionId, ToolCall, TurnId
from gateway.pruning import (
    DeleteAction,
    ItemQuery,
    PrunedItem,
    PruningConfig,
    PruningManager,
    PruningRule,
    Totals,
)
from gateway.pruning.store import Change
from gateway.retention.items import SqliteItemStore
from gateway.sessions.history import stamp
from gateway.transcripts import items, pruned
from gateway.transcripts.writing import append_messages

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable
    from pathlib import Path

    from gateway.durable.batch import Queries
    from gateway.pruning import PrunableItem
    from gateway.pruning.rules import Action

NOW = FakeClock().now()
GRACE_S = 3_600.0


@dataclass(frozen=True, slots=True)
class Stored:
    """A database and its items."""

    database: Database
    items: SqliteItemStore
    clock: FakeClock

    async def tell(
        self, *messages: Message, session: str = "s", turn: str = "t", age_s: float = 100
    ) -> None:
        """Store the messages of one turn, as a turn does."""
        at = stamp(NOW - timedelta(seconds=age_s))
        told = [
            Message(
                one.role,
                one.text,
                one.tool_calls,
                one.tool_call_id,
                one.tool_name,
                TurnId(turn),
                one.images,
            )
            for one in messages
        ]
        await self.database.write(lambda tx: append_messages(tx, SessionId(session), told, at=at))

    async def run(self, sql: str, *bindings: object) -> None:
        """Change the database behind the gateway's back."""
        await self.database.write(lambda tx: tx.execute(sql, bindings).fetchall())

    async def rows(self, sql: str, *bindings: object) -> list[Any]:
        """Read the database as it is."""
        return await self.database.read(lambda place: place.execute(sql, bindings).fetchall())

    async def all(self, limit: int = 1_000, **query: Any) -> list[PrunableItem]:  # noqa: ANN401 - fields of a query
        """Return all items of a query, page by page."""
        found: list[PrunableItem] = []
        after = None
        while True:
            page = await self.items.page(ItemQuery(**query), after=after, limit=limit)
            found += page.items
            after = page.next
            if after is None:
                return found

    async def ids(self, **query: Any) -> list[int]:  # noqa: ANN401 - fields of a query
        """Return the positions of all items of a query."""
        return [int(one.id) for one in await self.all(**query)]

    async def originals(self) -> list[dict[str, Any]]:
        """Return the rows that entries of the audit hold, the oldest entry first."""

        def work(place: Queries) -> list[dict[str, Any] | None]:
            entries = pruned.page(place, limit=1_000)[::-1]
            return [pruned.original(place, entry.position) for entry in entries]

        return [row for row in await self.database.read(work) if row is not None]

    async def put_back(self, row: dict[str, Any]) -> None:
        """Give a row back that went."""
        await self.database.write(lambda tx: items.put_back(tx, row))

    async def item(self, item_id: str) -> PrunableItem:
        """Return an item that is there."""
        return (await self.items.find([item_id]))[item_id]

    def manager(self, *rules: PruningRule, **config: Any) -> PruningManager:  # noqa: ANN401 - fields of the class
        """Return a manager over the items."""
        return PruningManager(PruningConfig(rules=rules, **config), self.items, clock=self.clock)


@asynccontextmanager
async def stored(tmp_path: Path, grace_s: float = GRACE_S) -> AsyncGenerator[Stored]:
    """Open a database, empty at first."""
    clock = FakeClock()
    with anyio.fail_after(60):
        async with Database.open(tmp_path / "gateway.db", clock) as database:
            yield Stored(database, SqliteItemStore(database, clock, lambda: grace_s), clock)


def user(text: str = "question") -> Message:
    """Return what a user says."""
    return Message(Role.USER, text)


def says(text: str = "answer") -> Message:
    """Return what an agent says."""
    return Message(Role.ASSISTANT, text)


def calls(*call_ids: str, text: str = "") -> Message:
    """Return an agent's call of tools."""
    return Message(Role.ASSISTANT, text, tuple(ToolCall(one, "look", "{}") for one in call_ids))


def result(call_id: str, text: str = "seen") -> Message:
    """Return what a tool returned."""
    return Message(Role.TOOL, text, tool_call_id=call_id, tool_name="look")


def removal(item: PrunableItem, action: Action | None = None, run_id: str = "run") -> Change:
    """Return the change that removes an item."""
    return _change(item, None, action or DeleteAction(), run_id)


def change(item: PrunableItem, after: PrunableItem, action: Action, run_id: str = "run") -> Change:
    """Return the change that puts something in the place of an item."""
    return _change(item, after, action, run_id)


def _change(item: PrunableItem, after: PrunableItem | None, action: Action, run_id: str) -> Change:
    left = Totals(1, after.size_bytes, after.token_count) if after else Totals()
    record = PrunedItem(
        run_id=run_id,
        item_id=item.id,
        session_id=item.session_id,
        type=item.type,
        rule_id="rule",
        rule_name="Rule",
        action=action,
        reason="age 2d > 1d",
        observed=(),
        before=Totals(1, item.size_bytes, item.token_count),
        after=left,
        at=NOW,
    )
    return Change(item.id, item.version, action, after, record, NOW, run_id)


async def sums_agree(one: Stored) -> None:
    """Check that the sums that are kept are those of the rows."""
    kept = await one.rows("SELECT * FROM item_totals ORDER BY 1, 2")
    counted = await one.rows(
        "SELECT session_id, CASE role WHEN 'tool' THEN 'tool_result' ELSE 'message' END, count(*), "
        "sum(size_bytes), sum(tokens) FROM messages GROUP BY 1, 2 ORDER BY 1, 2"
    )
    assert kept == counted


def numbers(some: Iterable[PrunableItem]) -> list[int]:
    """Return the positions of items."""
    return [int(one.id) for one in some]
