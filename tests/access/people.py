"""People who write, and an access room on a real database."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import anyio

from gateway.access.gate import Access
from gateway.access.pairing import Pairing
from gateway.access.settings import AccessSettings
from gateway.clock import FakeClock
from gateway.durable.database import Database
from gateway.model import ChatType, Inbound, SessionSource

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from gateway.access.gate import Admission

CODE = re.compile(r"Your code is ([A-HJ-NP-Z2-9]{8}),")
ANN = SessionSource(platform="telegram", chat_id="1", user_id="1", user_name="Ann")


def somebody(user_id: str = "1", **changes: Any) -> SessionSource:  # noqa: ANN401 - fields of the class
    return replace(ANN, chat_id=user_id, user_id=user_id, **changes)


def in_group(user_id: str = "1", chat_id: str = "-100", **changes: Any) -> SessionSource:  # noqa: ANN401
    return replace(
        ANN, **({"chat_id": chat_id, "user_id": user_id, "chat_type": ChatType.GROUP} | changes)
    )


def settings(**tables: Any) -> AccessSettings:  # noqa: ANN401 - as they stand in the file
    """Return settings: `admins`, and a table for each platform."""
    admins = tables.pop("admins", [])
    return AccessSettings.model_validate({"admins": admins, "platforms": tables})


@dataclass(slots=True)
class Room:
    """An open access room."""

    access: Access
    pairing: Pairing
    clock: FakeClock
    database: Database

    async def admit(self, source: SessionSource, text: str = "hello") -> Admission:
        return await self.access.admit(Inbound(source, text))

    async def code_for(self, source: SessionSource) -> str:
        """Have a stranger ask, and return the code."""
        found = CODE.search((await self.admit(source)).text or "")
        assert found is not None
        return found[1]

    async def pair(self, source: SessionSource) -> None:
        await self.pairing.approve(await self.code_for(source))


@asynccontextmanager
async def open_room(
    tmp_path: Path, rules: AccessSettings | None = None, clock: FakeClock | None = None
) -> AsyncGenerator[Room]:
    clock = clock or FakeClock()
    with anyio.fail_after(60):
        async with Database.open(tmp_path / "gateway.db", clock) as database:
            pairing = await Pairing.load(database, clock)
            access = Access(rules or AccessSettings(), pairing, clock)
            yield Room(access, pairing, clock, database)
