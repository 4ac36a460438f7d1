"""An answer that grows in its chat: a message that is edited while the turn runs.

Its first part comes after a moment, so that a short answer is one message and no edit; the reply
takes its place once it is committed. A chat is edited no more often than its platform allows, all
its answers together, and no answer grows while an earlier reply to the chat waits to be sent.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

import anyio

from gateway.channels.base import NotConnectedError, Outbound, SendError
from gateway.delivery.pieces import cut
from gateway.delivery.planning import NOTE_CHARS
from gateway.errors import GatewayError
from gateway.log import get_logger
from gateway.transcripts.outbox import channel_of

if TYPE_CHECKING:
    from gateway.channels.base import Channel
    from gateway.clock import Clock
    from gateway.delivery.delivery import Delivery
    from gateway.delivery.streams import Stream
    from gateway.transcripts.inbox import InboxRow

FIRST_S: Final = 1.0
"""How long an answer is made before its first part is shown."""
PART_TIMEOUT_S: Final = 10.0
"""How long a platform may take to show a part; the reply waits for it."""
_BEYOND_CHARS: Final = 1_024
"""How much is kept beyond what the message takes: a cut goes by the line that it is in."""


class Growing:
    """What was said of an answer so far, as much of it as its first message takes."""

    def __init__(self, row: InboxRow, max_text_chars: int) -> None:
        """Begin with nothing."""
        self.row = row
        # As of the reply, so that it grows up to where that is cut.
        self._room = max_text_chars - NOTE_CHARS
        self._parts: list[str] = []
        self._chars = 0
        self.changed = anyio.Event()
        """Set once there is more, or no more."""
        self.ended = anyio.Event()

    def add(self, piece: str) -> None:
        """Take a piece of the answer."""
        if self._chars <= self._room:
            kept = piece[: self._room + _BEYOND_CHARS - self._chars]
            self._parts.append(kept)
            self._chars += len(kept)
            self.changed.set()

    def end(self) -> None:
        """Take note that the turn has ended."""
        self.ended.set()
        self.changed.set()

    def text(self) -> str:
        """Return what the message reads now; nothing where all is blank."""
        self._parts = ["".join(self._parts)]
        said = self._parts[0]
        shown = cut(said, 0, self._room).shown(said)
        return shown if shown.strip() else ""


async def grow(
    channel: Channel, growing: Growing, stream: Stream, delivery: Delivery, clock: Clock
) -> None:
    """Show an answer as it grows, until it is made, its reply is delivered, or it cannot be.

    Cancellation: what is shown stays.
    """
    streams, delivery_id = delivery.streams, growing.row.turn_id
    # A turn that runs again after a crash must not find its first run's parts known.
    run, number = secrets.token_hex(4), 0
    shown, wait_s = "", FIRST_S
    name = channel_of(channel.platform, channel.account)
    while not growing.ended.is_set():
        with clock.move_on_after(wait_s):
            await growing.ended.wait()
        await growing.changed.wait()
        growing.changed = anyio.Event()
        text, wait_s = growing.text(), streams.wait_s(stream.chat)
        if growing.ended.is_set() or not text or text == shown:
            continue

        if wait_s > 0 or await _must_wait(delivery, name, "" if shown else stream.chat):
            wait_s = wait_s or channel.edit_interval_s
            growing.changed.set()
            continue

        async with stream.lock:
            if stream.closed:
                break

            streams.take(stream.chat, channel.edit_interval_s)
            number += 1
            part = Outbound(
                target=growing.row.source,
                text=text,
                delivery_id=f"{delivery_id}.{run}.{number}",
                reply_to=growing.row.platform_id,
            )
            error = await _show(channel, part, stream, clock)
        if error is None:
            shown = text
        elif _passes(error):
            if error.retry_after_s is not None:
                streams.note_busy(name, stream.chat, error.retry_after_s)
                streams.pause(stream.chat, error.retry_after_s)
            growing.changed.set()
        else:
            _log_stopped(growing.row, error)
            break
        wait_s = streams.wait_s(stream.chat)
    if not stream.shown_id:
        streams.forget(delivery_id)


async def _must_wait(delivery: Delivery, channel: str, chat: str) -> bool:
    """Return whether owed replies go first; also where the storage cannot tell.

    `chat`: where the first part is to be shown, behind earlier replies; empty: one is shown.
    """
    try:
        return await delivery.yields(channel) or (bool(chat) and await delivery.owes(chat))
    except GatewayError:
        return True


async def _show(channel: Channel, part: Outbound, stream: Stream, clock: Clock) -> SendError | None:
    """Show a part in the message of a stream; return why it could not be."""
    with clock.move_on_after(PART_TIMEOUT_S):
        try:
            if stream.shown_id:
                await channel.edit(part, stream.shown_id)
            else:
                stream.shown_id = await channel.send(part)
        except SendError as error:
            return error
        except Exception as error:  # noqa: BLE001 - the boundary of a channel: no fault of it ends more
            return SendError(type(error).__name__, retryable=False, ambiguous=True)
        return None
    return SendError(f"no answer within {PART_TIMEOUT_S:g} seconds", retryable=True, ambiguous=True)


def _passes(error: SendError) -> bool:
    """Return whether a later part may be shown: the platform is busy or away, and took nothing."""
    known = error.retry_after_s is not None or isinstance(error, NotConnectedError)
    return error.retryable and not error.ambiguous and known


def _log_stopped(row: InboxRow, error: SendError) -> None:
    get_logger().warning(
        "channel.stream_stopped",
        platform=row.source.platform,
        account=row.source.account,
        turn_id=row.turn_id,
        reason=str(error),
    )
