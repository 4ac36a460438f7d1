"""Questions of a turn that runs, shown at once where replies are only sent once they are whole.

They are not stored: one that cannot be shown goes unanswered, and the tool it is about is not used.
"""

from __future__ import annotations

import secrets
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import anyio

from gateway.channels.base import Outbound, SendError
from gateway.log import get_logger
from gateway.text import whole
from gateway.turns.ticket import Question

if TYPE_CHECKING:
    from anyio.abc import TaskGroup, TaskStatus

    from gateway.channels.base import Channel
    from gateway.channels.running import Channels
    from gateway.clock import Clock
    from gateway.model import SessionSource
    from gateway.turns.ticket import Progress

SEND_TIMEOUT_S: Final = 30.0


class Followers:
    """One task a turn of a channel."""

    def __init__(self, channels: Channels, clock: Clock) -> None:
        """Show questions in these channels."""
        self._channels = {(one.platform, one.account): one for one in channels}
        self._clock = clock
        self._tasks: TaskGroup | None = None

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Follow turns until cancelled."""
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                task_status.started()
                await anyio.sleep_forever()
        finally:
            self._tasks = None

    def follow(self, source: SessionSource, message_id: str, progress: Progress) -> None:
        """Show the questions of a turn that begins in the chat it is answered in."""
        channel = self._channels.get((source.platform, source.account))
        if channel is not None and self._tasks is not None:
            self._tasks.start_soon(self._follow, channel, source, message_id, progress)

    async def _follow(
        self, channel: Channel, source: SessionSource, message_id: str, progress: Progress
    ) -> None:
        async with aclosing(progress.deltas()) as deltas:
            async for piece in deltas:
                if isinstance(piece, Question):
                    delivery_id = f"question-{secrets.token_hex(8)}"
                    text = _fitted(piece.strip(), channel.max_text_chars)
                    question = Outbound(source, text, delivery_id, message_id)
                    await self._show(channel, question, source)

    async def _show(self, channel: Channel, question: Outbound, source: SessionSource) -> None:
        error = ""
        with self._clock.move_on_after(SEND_TIMEOUT_S) as scope:
            try:
                await channel.send(question)
            except SendError as exc:
                error = str(exc)
            except Exception as exc:  # noqa: BLE001 - the boundary of a channel: no fault of it ends more
                error = type(exc).__name__
        if scope.cancelled_caught:
            error = f"it took longer than {SEND_TIMEOUT_S:g} seconds"
        if error:
            get_logger().warning(
                "channel.question_not_shown",
                platform=source.platform,
                account=source.account,
                reason=error,
            )


def _fitted(text: str, max_chars: int) -> str:
    """Return a question that a channel takes: its last line, which says how to answer, is whole."""
    if len(text) <= max_chars:
        return text

    wish, _, how = text.rpartition("\n")
    more = f" ... ({len(wish)} characters)\n{how}"
    return wish[: whole(wish, max(0, max_chars - len(more)))] + more
