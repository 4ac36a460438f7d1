"""Webhooks on a real database, with an endpoint on loopback and a clock that a test moves."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

from gateway.clock import FakeClock
from gateway.model import SessionKey
from gateway.settings import SecretSource
from gateway.webhooks.rows import EventState
from gateway.webhooks.settings import EventKind, WebhookSettings
from gateway.webhooks.webhooks import Webhooks
from tests.support.state import State, open_state
from tests.support.webhooks import SECRET

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from gateway.webhooks.line import WebhookStatistics
    from gateway.webhooks.rows import EventRow

KEY = SessionKey("agent:main:http::dm:alice::")


def settings_of(folder: Path, url: str, name: str = "ops", **settings: Any) -> WebhookSettings:  # noqa: ANN401 - keys of the table
    path = folder / f"{name}.secret"
    path.write_text(settings.pop("secret", SECRET))
    path.chmod(0o600)
    # A post that hangs is to hang for as long as the test takes.
    given = {"timeout_s": 300, **settings}
    return WebhookSettings(name=name, url=url, secret=SecretSource(file=str(path)), **given)


@dataclass(frozen=True)
class Bench:
    """Webhooks that run, or do not."""

    state: State
    clock: FakeClock
    webhooks: Webhooks

    async def tell(
        self, *numbers: int, kind: EventKind = EventKind.TURN_COMPLETED, key: SessionKey = KEY
    ) -> None:
        """Commit an event for each number."""
        for number in numbers:
            data = {"session_key": key, "number": number}
            await self.state.database.write(
                lambda tx, data=data: self.webhooks.stage(tx, kind, key, data)  # type: ignore[misc]
            )

    async def rows(self, state: EventState = EventState.QUEUED) -> list[EventRow]:
        return await self.webhooks.page(state, limit=1_000)

    async def dead(self) -> list[EventRow]:
        return await self.rows(EventState.DEAD)

    async def statistics(self, name: str = "ops") -> WebhookStatistics:
        await self.webhooks.count()
        return next(one for one in self.webhooks.statistics() if one.webhook == name)

    async def until(self, holds: Callable[[list[EventRow], list[EventRow]], object]) -> None:
        """Wait until queued and dead events are as wanted; no time passes."""
        with anyio.fail_after(30):
            while not holds(await self.rows(), await self.dead()):
                pass


@asynccontextmanager
async def webhooks_on(
    path: Path, *settings: WebhookSettings, runs: bool = True, clock: FakeClock | None = None
) -> AsyncGenerator[Bench]:
    """Open a state directory with webhooks; pauses have no jitter."""
    clock = clock or FakeClock()
    async with open_state(path, clock) as state, anyio.create_task_group() as tasks:
        webhooks = Webhooks(state.database, clock, settings, lambda: 0.0)
        if runs:
            await tasks.start(webhooks.run)
        yield Bench(state, clock, webhooks)
        tasks.cancel_scope.cancel()
