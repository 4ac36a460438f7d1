"""A server that can be switched off and on again from any task, each time in a task of its own."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from contextlib import AbstractAsyncContextManager

    from anyio.abc import TaskGroup, TaskStatus


class Switched:
    """Keeps a server; `on` once, `away` as often as needed."""

    def __init__(self, serving: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        self._serving = serving
        self._group: TaskGroup | None = None
        self._stop = anyio.Event()
        self._stopped = anyio.Event()

    @asynccontextmanager
    async def on(self) -> AsyncGenerator[None]:
        """Have it on, except while it is away."""
        async with anyio.create_task_group() as group:
            self._group = group
            await group.start(self._serve)
            try:
                yield
            finally:
                self._stop.set()

    @asynccontextmanager
    async def away(self) -> AsyncGenerator[None]:
        """Have it off meanwhile."""
        assert self._group is not None
        self._stop.set()
        await self._stopped.wait()
        yield
        await self._group.start(self._serve)

    async def _serve(self, *, task_status: TaskStatus[None]) -> None:
        self._stop, self._stopped = stop, stopped = anyio.Event(), anyio.Event()
        async with self._serving():
            task_status.started()
            await stop.wait()
        stopped.set()
