"""One try of the reply that is next of a chat: noted, made, and its outcome noted.

The note before the try is what tells a gateway that was killed in between that nobody knows what
became of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import anyio.lowlevel

from gateway.channels.base import Channel, NotConnectedError, Probed, SendError
from gateway.delivery.desk import Desk
from gateway.delivery.planning import Bury, Send, Skip, after_failure, asks_for_pause, plan
from gateway.log import get_logger
from gateway.model import clean_name
from gateway.transcripts import outbox_changes, outbox_rows
from gateway.transcripts.outbox import channel_of
from gateway.transcripts.outbox_rows import OutboxRow

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.durable.batch import Transaction

LONGEST_WAIT_S: Final = 5.0
"""How long a place of the channel is held by a chat that may not be edited yet."""
_MAX_ID_CHARS: Final = 512


@dataclass(frozen=True, slots=True)
class _Begun:
    """A try that is noted."""

    row: OutboxRow
    """As it was before."""
    send: Send


@dataclass(frozen=True, slots=True)
class _Grown:
    """A reply of which a part is shown."""

    row: OutboxRow
    shown_id: str


@dataclass(frozen=True, slots=True)
class _Dead:
    """A reply that was given up instead."""

    row: OutboxRow
    why: Bury


@dataclass(frozen=True, slots=True)
class _LastTry:
    """A reply of which nobody knows whether it was shown, to be sent once more and no more."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A try to send to a chat."""

    desk: Desk
    channel: Channel
    chat: str

    async def make(self) -> bool | None:
        """Send what is next, and note what became of it.

        Returns whether the channel could be reached; None where it was not asked.

        Durability: on return the outcome survives power loss.

        Cancellation: where the platform was asked, it counts as a try of unknown outcome.
        """
        # A try that is noted and never made would count as one of unknown outcome.
        await anyio.lowlevel.checkpoint_if_cancelled()
        grown = await self._grown()
        if await (self._is_paused() if grown is None else self._is_put_off(grown)):
            return None

        now = self.desk.clock.now()
        begun = await self.desk.stored(lambda tx: self._begin(tx, now, grown, last=False))
        if isinstance(begun, _LastTry):
            if not await self._is_there():
                return False

            now = self.desk.clock.now()
            begun = await self.desk.stored(lambda tx: self._begin(tx, now, grown, last=True))
        if isinstance(begun, _Dead):
            self.desk.note_dead(begun.row, begun.why)
        if not isinstance(begun, _Begun):
            return None

        self.desk.counts["retried"] += begun.row.attempts > 0
        outcome = await self._send(begun.send)
        reached = not isinstance(outcome, NotConnectedError)
        asked = isinstance(outcome, SendError) and asks_for_pause(outcome)
        pauses = self.desk.note_pause(self.chat, asked=asked)
        if isinstance(outcome, SendError) and begun.send.shown_id and not outcome.retryable:
            # The message can be edited no more, and does not hold the reply: that is sent anew.
            self.desk.streams.forget(begun.row.delivery_id)
            await self._take_back(begun, anew=True)
        elif not reached:
            await self._take_back(begun)
        elif isinstance(outcome, SendError):
            await self._note_failed(begun, outcome, pauses)
        else:
            await self._note_sent(begun, outcome)
        return reached

    async def _grown(self) -> _Grown | None:
        """Return what is shown already of the reply that is next, which grows no more from now."""
        desk = self.desk
        if not len(desk.streams):
            return None

        row = await desk.database.read(lambda place: outbox_rows.first_owed(place, self.chat))
        stream = None if row is None or row.sent_chars else desk.streams.find(row.delivery_id)
        if row is None or stream is None:
            return None

        shown_id = await stream.close()
        return _Grown(row, shown_id) if shown_id else None

    async def _is_paused(self) -> bool:
        """Put the chat off where a part was answered with the wish for a pause; True: it was."""
        desk = self.desk
        wait_s = desk.streams.pause_s(self.chat)
        if wait_s <= 0:
            return False

        due_at = desk.clock.now() + timedelta(seconds=wait_s)

        def work(transaction: Transaction) -> None:
            row = outbox_rows.first_owed(transaction, self.chat)
            if row is not None:
                outbox_changes.put_off(transaction, row, due_at=due_at)

        await desk.stored(work)
        return True

    async def _is_put_off(self, grown: _Grown) -> bool:
        """Wait until the chat may be edited; True: that takes long, and the chat is put off."""
        desk = self.desk
        wait_s = desk.streams.wait_s(self.chat)
        if wait_s > LONGEST_WAIT_S:
            due_at = desk.clock.now() + timedelta(seconds=wait_s)
            await desk.stored(lambda tx: outbox_changes.put_off(tx, grown.row, due_at=due_at))
            return True

        wait_s = desk.streams.take(self.chat, self.channel.edit_interval_s)
        if wait_s > 0:
            await desk.clock.sleep(wait_s)
        return False

    async def _take_back(self, begun: _Begun, *, anew: bool = False) -> None:
        now = self.desk.clock.now()
        await self.desk.stored(
            lambda tx: outbox_changes.note_not_tried(tx, begun.row, due_at=now, anew=anew)
        )

    def _begin(
        self, transaction: Transaction, now: datetime, grown: _Grown | None, *, last: bool
    ) -> _Begun | _Dead | _LastTry | None:
        """Note a try of what is next, in the writer thread; None where there is none to make.

        `last`: whether a repeat that is the last try is to be made.
        """
        row = outbox_rows.first_owed(transaction, self.chat)
        if row is None:
            outbox_changes.leave(transaction, self.chat)
            return None

        same = grown is not None and grown.row.delivery_id == row.delivery_id
        shown_id = grown.shown_id if grown is not None and same else ""
        match plan(row, self.channel, self.desk.settings, now, shown_id=shown_id):
            case Send() as send:
                if send.outbound.repeat and not (last or self.channel.idempotent):
                    return _LastTry()

                outbox_changes.note_sending(
                    transaction, row, repeat=send.repeat, at=now, shown_id=send.shown_id
                )
                return _Begun(row, send)
            case Skip():
                chars = len(row.text)
                outbox_changes.note_sent(
                    transaction, row, chars=chars, platform_id=row.platform_id, at=now
                )
                return None
            case Bury() as why:
                outbox_changes.bury(transaction, row, error=why.error, at=now)
                return _Dead(row, why)

    async def _is_there(self) -> bool:
        """Return whether the platform is well enough for a last try, as far as it can be asked."""
        channel = self.channel
        if not isinstance(channel, Probed):
            return True

        try:
            with self.desk.clock.move_on_after(self.desk.settings.send_timeout_s):
                await channel.probe()
                return True
        except SendError as error:
            self._note_wish(error)
            if error.retry_after_s is not None:
                self.desk.streams.pause(self.chat, error.retry_after_s)
            # What it refuses for good tells that it is there.
            return not error.retryable
        except Exception:  # noqa: BLE001 - the boundary of a channel: no fault of it ends more
            get_logger().exception("outbox.channel_crashed", channel=self.channel.platform)
        return False

    def _note_wish(self, error: SendError) -> None:
        """Leave the platform alone for as long as it asks for, if it does."""
        if error.retry_after_s is not None:
            name = channel_of(self.channel.platform, self.channel.account)
            self.desk.streams.note_busy(name, self.chat, error.retry_after_s)

    async def _send(self, send: Send) -> str | SendError:
        """Return the platform's id of what was sent, or why it was not."""
        limit_s = self.desk.settings.send_timeout_s
        try:
            with self.desk.clock.move_on_after(limit_s):
                if not send.shown_id:
                    return await self.channel.send(send.outbound)

                await self.channel.edit(send.outbound, send.shown_id)
                return send.shown_id
        except SendError as error:
            self._note_wish(error)
            return error
        except Exception as error:  # noqa: BLE001 - the boundary of a channel: no fault of it ends more
            get_logger().exception("outbox.channel_crashed", channel=self.channel.platform)
            return SendError(type(error).__name__, retryable=True, ambiguous=True)
        return SendError(f"no answer within {limit_s:g} seconds", retryable=True, ambiguous=True)

    async def _note_sent(self, begun: _Begun, platform_id: str) -> None:
        row, end, now = begun.row, begun.send.end, self.desk.clock.now()
        shown_as = clean_name(platform_id)[:_MAX_ID_CHARS]
        await self.desk.stored(
            lambda tx: outbox_changes.note_sent(tx, row, chars=end, platform_id=shown_as, at=now)
        )
        self.desk.streams.forget(row.delivery_id)
        self.desk.counts["sent"] += end == len(row.text)

    async def _note_failed(self, begun: _Begun, error: SendError, pauses: int) -> None:
        row, desk, now = begun.row, self.desk, self.desk.clock.now()
        decision = after_failure(row, begun.send, error, self.channel, desk.settings, pauses=pauses)
        if isinstance(decision, Bury):
            why = decision
            await desk.stored(
                lambda tx: outbox_changes.bury(
                    tx, row, error=why.error, at=now, unknown=error.ambiguous
                )
            )
            desk.note_dead(replace(row, attempts=row.attempts + 1), why)
            return

        again = decision
        pause_s = max(desk.share() * again.at_most_s, again.at_least_s)
        due_at = now + timedelta(seconds=pause_s)
        await desk.stored(
            lambda tx: outbox_changes.note_failed(
                tx,
                row,
                error=again.error,
                unknown=again.unknown,
                counts=again.counts,
                due_at=due_at,
            )
        )
        get_logger().info(
            "outbox.send_failed",
            turn_id=row.delivery_id,
            channel=row.channel,
            attempt=row.attempts + 1,
            may_have_been_sent=again.unknown,
            pause_s=round(pause_s, 3),
        )
