"""What a sender is told at once of a message, for platforms where that is a message of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from gateway.channels.base import REPEAT, Outbound, SendError
from gateway.errors import GatewayError
from gateway.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskGroup

    from gateway.channels.base import Receipt, Receive
    from gateway.clock import Clock
    from gateway.model import Inbound

MAX_TELLING: Final = 32
"""Receipts that are being shown; while there are as many, no more are."""
MAX_TRIES: Final = 2
AGAIN_S: Final = 10.0
"""How long one that could not be shown waits, where the platform asks for no pause."""
LONGEST_WAIT_S: Final = 300.0
"""One for which the platform asks for a longer pause is not shown."""


@dataclass(slots=True, eq=False)
class _Untold:
    outbound: Outbound
    since: float
    """When it was to be shown first, monotonic."""
    tries: int = 0


class Receipts:
    """Hands messages of an account over, and shows what the gateway says of them at once."""

    def __init__(
        self,
        platform: str,
        account: str,
        clock: Clock,
        show: Callable[[Outbound], Awaitable[object]],
        *,
        idempotent: bool = False,
    ) -> None:
        """Take the account, and whether its platform shows the same receipt once.

        `show` shows a message, or raises SendError.
        """
        self._names = {"platform": platform, "account": account}
        self._clock = clock
        self._show = show
        self._idempotent = idempotent
        self._untold: list[_Untold] = []
        """What is being shown, and what was as a run ended."""

    def resume(self, tasks: TaskGroup) -> None:
        """Show what was left as the run before ended, now that the platform can be reached.

        What is no longer at once would be wrong by now: a place in a queue, a code that has ended.
        """
        latest = self._clock.monotonic() - LONGEST_WAIT_S
        for untold in list(self._untold):
            if untold.tries < MAX_TRIES and untold.since >= latest:
                tasks.start_soon(self._tell, untold)
            else:
                self._untold.remove(untold)
                self._log("the channel was lost")

    async def hand_over(self, receive: Receive, inbound: Inbound) -> Receipt | None:
        """Return what became of a message; None: it could not be stored, which is logged."""
        try:
            return await receive(inbound)
        except GatewayError as error:
            kind = type(error).__name__
            get_logger().warning("channel.message_not_stored", **self._names, kind=kind)
        return None

    def tell(self, tasks: TaskGroup, inbound: Inbound, receipt: Receipt) -> None:
        """Have the sender told, if there is something to tell; no harm is done where it fails."""
        if not receipt.text:
            return
        if len(self._untold) >= MAX_TELLING:
            self._log("too many wait")
            return

        told = Outbound(
            target=inbound.source,
            text=receipt.text,
            delivery_id=f"receipt-{inbound.message_id}",
            reply_to=inbound.message_id,
            plain=True,
        )
        self._untold.append(_Untold(told, self._clock.monotonic()))
        tasks.start_soon(self._tell, self._untold[-1])

    async def _tell(self, untold: _Untold) -> None:
        """Show a receipt; what is cancelled here waits for the next run."""
        while (wait_s := await self._try(untold)) is not None:
            await self._clock.sleep(wait_s)
        self._untold.remove(untold)

    async def _try(self, untold: _Untold) -> float | None:
        """Try to show a receipt; return after what time to try again; None: that is all."""
        untold.tries += 1
        said = untold.outbound
        if not self._idempotent:
            # Of a try that is cancelled nobody knows what became.
            untold.outbound = replace(said, text=f"{REPEAT}{said.text}", repeat=True)
        try:
            await self._show(said)
        except SendError as error:
            if not error.ambiguous:
                untold.outbound = said
            wait_s = AGAIN_S if error.retry_after_s is None else error.retry_after_s
            if error.retryable and untold.tries < MAX_TRIES and wait_s <= LONGEST_WAIT_S:
                return wait_s

            self._log(str(error))
        return None

    def _log(self, reason: str) -> None:
        get_logger().info("channel.receipt_not_shown", **self._names, reason=reason)
