"""Tasks that wait for news; a third of the price of an event where a turn has two of them."""

from __future__ import annotations

import asyncio


class Waiters:
    """Tasks that wait, woken all at once or one at a time."""

    __slots__ = ("_futures",)

    def __init__(self) -> None:
        """Start with nobody waiting."""
        self._futures: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        """Wait to be woken; what is waited for must be looked at again then."""
        future = asyncio.get_running_loop().create_future()
        self._futures.append(future)
        await future

    def wake_one(self) -> bool:
        """Wake who has waited the shortest; False where nobody waits."""
        while self._futures:
            future = self._futures.pop()
            # A waiter that was cancelled has left its future behind.
            if not future.done():
                future.set_result(None)
                return True

        return False

    def wake_all(self) -> None:
        """Wake everybody."""
        while self.wake_one():
            pass
