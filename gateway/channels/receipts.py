"""What a sender is told at once of a message, for platforms where that is a message of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.channels.base import Outbound, SendError
from gateway.errors import GatewayError
from gateway.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskGroup

    from gateway.channels.base import Receipt, Receive
    from gateway.model import Inbound

MAX_TELLING: Final = 32
"""Receipts that are being shown; while there are as many, no more are."""


class Receipts:
    """Hands messages of an account over, and shows what the gateway says of them at once."""

    def __init__(
        self, platform: str, account: str, show: Callable[[Outbound], Awaitable[object]]
    ) -> None:
        """Take the account; `show` shows a message, or raises SendError."""
        self._names = {"platform": platform, "account": account}
        self._show = show
        self._telling = 0

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
        if receipt.text and self._telling < MAX_TELLING:
            self._telling += 1
            tasks.start_soon(self._tell, inbound, receipt.text)

    async def _tell(self, inbound: Inbound, text: str) -> None:
        told = Outbound(
            target=inbound.source,
            text=text,
            delivery_id=f"receipt-{inbound.message_id}",
            reply_to=inbound.message_id,
            plain=True,
        )
        try:
            await self._show(told)
        except SendError as error:
            get_logger().info("channel.receipt_not_shown", **self._names, reason=str(error))
        finally:
            self._telling -= 1
