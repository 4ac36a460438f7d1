"""The door over running turns, as the daemon puts them together."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import anyio

from gateway.access.gate import Access
from gateway.access.pairing import Pairing
from gateway.access.settings import AccessSettings
from gateway.commands.backgrounds import Backgrounds
from gateway.commands.carrying_out import Commands
from gateway.commands.door import Door
from gateway.model import ChatType, Inbound, SessionSource, ToolCaller, TurnId
from gateway.processes.registry import ProcessRegistry
from gateway.processes.settings import ProcessSettings
from tests.support.turns import Bench, reply_of, running_turns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from gateway.model import SessionKey
    from gateway.turns.ticket import Reply, Ticket

ADMIN = "root"
"""The user who is an admin on `http`."""


@dataclass(frozen=True, slots=True)
class DoorBench:
    """A door, and what is behind it."""

    turns: Bench
    door: Door
    processes: ProcessRegistry
    access: Access

    async def submit(
        self, text: str, *, message_id: str = "", typed: bool = True, **source: object
    ) -> Ticket:
        """Hand a message over, from `alice` unless the source says otherwise."""
        place = source_of(**source)
        with anyio.fail_after(30):
            return await self.door.submit(Inbound(place, text, message_id, typed=typed))

    async def say(
        self, text: str, *, message_id: str = "", typed: bool = True, **source: object
    ) -> Reply:
        """Hand a message over and return its reply."""
        return await reply_of(await self.submit(text, message_id=message_id, typed=typed, **source))

    def caller(self, key: SessionKey) -> ToolCaller:
        """Return who calls a tool in a session."""
        entry = self.turns.state.store.get(key)
        assert entry is not None
        return ToolCaller(key, entry.session_id, entry.agent, entry.source, TurnId("t"))

    async def idle(self, key: SessionKey) -> None:
        """Wait until no turn of a session runs or waits."""
        with anyio.fail_after(30):
            while self.turns.turns.is_busy(key):
                await anyio.lowlevel.checkpoint()


def as_admin(**source: object) -> dict[str, object]:
    """Return the source of an admin's direct chat."""
    return {"user_id": ADMIN, "chat_id": ADMIN, "chat_type": ChatType.DM} | source


@asynccontextmanager
async def open_door(
    path: Path,
    agents: Any = None,  # noqa: ANN401 - as of `running_turns`
    *,
    access: AccessSettings | None = None,
    processes: ProcessSettings | None = None,
    **turns: Any,  # noqa: ANN401 - as of `running_turns`
) -> AsyncGenerator[DoorBench]:
    """Run turns with a door before them; see `running_turns` for the rest."""
    async with running_turns(path, agents, **turns) as bench:
        database, clock = bench.state.database, bench.clock
        settings = access or AccessSettings(admins=[f"http:{ADMIN}"])
        gate = Access(settings, await Pairing.load(database, clock), clock)
        registry = ProcessRegistry(database, clock, processes or ProcessSettings(), path)
        bench.state.store.has_active_processes = registry.has_active_for_session
        await registry.recover()
        store = bench.state.store
        backgrounds = Backgrounds(registry, store, bench.turns, clock)
        registry.on_ended = backgrounds.tell_end
        commands = Commands(database, store, bench.turns, backgrounds, clock)
        door = Door(database, store, bench.turns, gate, commands, clock)
        async with anyio.create_task_group() as tasks:
            await tasks.start(registry.run)
            yield DoorBench(bench, door, registry, gate)
            tasks.cancel_scope.cancel()


def source_of(**changes: object) -> SessionSource:
    """Return alice's direct chat, changed."""
    return replace(SessionSource("http", "alice"), **changes)  # type: ignore[arg-type]
