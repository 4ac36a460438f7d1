"""An open database, and rows to put into it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from gateway.clock import FakeClock
from gateway.durable.database import Database

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from gateway.durable.batch import Transaction

ADD = "INSERT INTO store_state (name, value) VALUES (?, ?)"


def add(name: str, value: int = 0) -> Callable[[Transaction], int]:
    def work(transaction: Transaction) -> int:
        transaction.execute(ADD, (name, value))
        return value

    return work


async def names(database: Database) -> list[str]:
    """Return what a reader sees, in order of insertion."""
    rows = await database.read(
        lambda conn: conn.execute("SELECT name FROM store_state ORDER BY value, name").fetchall()
    )
    return [str(row[0]) for row in rows]


@asynccontextmanager
async def opened_database(tmp_path: Path) -> AsyncGenerator[Database]:
    with anyio.fail_after(60):
        async with Database.open(tmp_path / "gateway.db", FakeClock()) as database:
            yield database
