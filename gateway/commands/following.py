"""What is shown of a turn while it runs: that it does, its questions, and its answer as it grows.

Nothing of it is stored. A question that cannot be shown goes unanswered, and the tool it is about
is not used; an answer that cannot grow in its chat is sent once it is whole, as it is on platforms
that cannot edit.
"""

from __future__ import annotations

import secrets
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import anyio

from gateway.channels.base import Outbound, SendError
from gateway.commands.growing import Growing, grow
from gateway.log import get_logger
from gateway.text import whole
from gateway.transcripts.outbox import chat_of
from gateway.turns.ticket import Question

if TYPE_CHECKING:
    from anyio.abc import TaskGroup, TaskStatus

    from gateway.channels.base import Channel
    from gateway.channels.running import Channels
    from gateway.clock import Clock
    from gateway.delivery.delivery import Delivery
    from gateway.model import SessionSource
    from gateway.transcripts.inbox import InboxRow
    from gateway.turns.ticket import Progress

SEND_TIMEOUT_S: Final = 30.0
TYPING_TIMEOUT_S: Final = 10.0
_OVERLAP_S: Final = 1.0
"""So long before it would end, it is shown again that an answer is being made."""


class Followers:
    """One task a turn of a channel."""

    def __init__(self, channels: Channels, clock: Clock, delivery: Delivery) -> None:
        """Show turns in these channels, until their replies are delivered."""
        self._channels = {(one.platform, one.account): one for one in channels}
        self._clock = clock
        self._delivery = delivery
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

    def follow(self, row: InboxRow, progress: Progress) -> None:
        """Show the turn of a message, which begins, in the chat it is answered in."""
        channel = self._channels.get((row.source.platform, row.source.account))
        if channel is not None and self._tasks is not None:
            self._tasks.start_soon(self._follow, channel, row, progress)

    async def _follow(self, channel: Channel, row: InboxRow, progress: Progress) -> None:
        growing = Growing(row, channel.max_text_chars)
        async with anyio.create_task_group() as tasks:
            if channel.typing_s > 0:
                tasks.start_soon(self._type, channel, row.source, growing)
            if channel.edits:
                stream = self._delivery.streams.open(row.turn_id, chat_of(row.source))
                tasks.start_soon(grow, channel, growing, stream, self._delivery, self._clock)
            async with aclosing(progress.deltas()) as deltas:
                async for piece in deltas:
                    if isinstance(piece, Question):
                        await self._ask(channel, row, piece)
                    else:
                        growing.add(piece)
            growing.end()

    async def _type(self, channel: Channel, target: SessionSource, growing: Growing) -> None:
        """Show that an answer is being made, until it is."""
        while not growing.ended.is_set():
            with self._clock.move_on_after(TYPING_TIMEOUT_S):
                try:
                    await channel.show_typing(target)
                except SendError:
                    pass
                except Exception:  # noqa: BLE001 - the boundary of a channel: no fault of it ends more
                    get_logger().exception("channel.typing_crashed", channel=channel.platform)
                    return
            with self._clock.move_on_after(max(_OVERLAP_S, channel.typing_s - _OVERLAP_S)):
                await growing.ended.wait()

    async def _ask(self, channel: Channel, row: InboxRow, question: Question) -> None:
        """Show a question, in a message of its own: people are told of new ones, not of edits."""
        error = ""
        outbound = Outbound(
            target=row.source,
            text=_fitted(question.strip(), channel.max_text_chars),
            delivery_id=f"question-{secrets.token_hex(8)}",
            reply_to=row.platform_id,
            plain=True,
        )
        with self._clock.move_on_after(SEND_TIMEOUT_S) as scope:
            try:
                await channel.send(outbound)
            except SendError as exc:
                error = str(exc)
            except Exception as exc:  # noqa: BLE001 - the boundary of a channel: no fault of it ends more
                error = type(exc).__name__
        if scope.cancelled_caught:
            error = f"it took longer than {SEND_TIMEOUT_S:g} seconds"
        if error:
            get_logger().warning(
                "channel.question_not_shown",
                platform=row.source.platform,
                account=row.source.account,
                reason=error,
            )


def _fitted(text: str, max_chars: int) -> str:
    """Return a question that a channel takes: its last line, which says how to answer, is whole."""
    if len(text) <= max_chars:
        return text

    wish, _, how = text.rpartition("\n")
    more = f" ... ({len(wish)} characters)\n{how}"
    return wish[: whole(wish, max(0, max_chars - len(more)))] + more
