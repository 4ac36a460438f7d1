"""What to do about the reply that is next of a chat, and about a try that failed. Pure.

The reply tells all there is to know: how often it was tried, and whether a try ended of which
nobody knows what became. Such a try is made once more: under the same delivery id where the
platform is idempotent, else marked as a repeat, and never a third time. An edit is made as often
as it takes; where it cannot be made any more, what is sent instead is marked on every channel, for
none knows a message by an edit.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from gateway.channels.base import LONGEST_WISH_S, REPEAT, Outbound
from gateway.delivery.pieces import cut
from gateway.model import clean_name
from gateway.transcripts.outbox_rows import Repeat

if TYPE_CHECKING:
    from gateway.channels.base import Channel, SendError
    from gateway.delivery.settings import DeliverySettings
    from gateway.transcripts.outbox_rows import OutboxRow

FIRST_PAUSE_S: Final = 3.0
LONGEST_PAUSE_S: Final = 900.0
REPEAT_AFTER_S: Final = 30.0
"""How long to wait before what may have been shown is sent once more: a second doubt is the end of
a reply, and a platform whose front fails for a moment must not bring that about."""
KEPT_DAYS: Final = 30
"""After so many days nothing is sent any more, not even with a note."""
NOTE_CHARS: Final = 128
"""What the notes ahead of a text take at most."""
_GROWTH: Final = 3.0
_LEAST_WISH_S: Final = 1.0
"""How long a platform is left alone that asks for a pause of no length."""


class Reason(StrEnum):
    """Why a reply is dead."""

    REFUSED = "refused"
    """The platform will never take it."""
    ATTEMPTS = "attempts"
    """It was tried as often as it may be."""
    UNKNOWN = "unknown"
    """Nobody knows whether it was sent, nor whether its repeat was."""
    EXPIRED = "expired"
    """Its time to live is over."""
    NO_CHANNEL = "no channel"
    """Its channel is not configured any more."""
    DROPPED = "dropped"
    """The operator dropped it."""


@dataclass(frozen=True, slots=True)
class Send:
    """Try to send a piece of the text, the whole of a short one."""

    outbound: Outbound
    end: int
    """Where the piece ends in the text."""
    repeat: Repeat
    """How the piece may have been shown before this try."""
    shown_id: str = ""
    """The message that reads as the piece from now on; empty: a new one."""


@dataclass(frozen=True, slots=True)
class Skip:
    """There is nothing to show: the rest of the text is blank."""


@dataclass(frozen=True, slots=True)
class Bury:
    """Give it up."""

    reason: Reason
    error: str
    """For the operator, the reason first."""


@dataclass(frozen=True, slots=True)
class Again:
    """Try again after a pause."""

    error: str
    at_most_s: float
    """Any time up to this will do, so that not all chats try again at once."""
    at_least_s: float
    """What the platform asks for; it wins."""
    unknown: bool
    """Whether it may have been shown."""
    counts: bool = True
    """Whether it is one of the tries that a reply may have; a platform that names a pause took
    none."""


def granted_s(wish_s: float | None) -> float:
    """Return how long a platform is left alone that asks for a pause, whatever it says."""
    return min(wish_s, LONGEST_WISH_S) if wish_s is not None and wish_s > 0 else 0.0


def asks_for_pause(error: SendError) -> bool:
    """Return whether a platform has refused nothing, and only asks to be left alone."""
    return error.retryable and not error.ambiguous and error.retry_after_s is not None


def plan(
    row: OutboxRow,
    channel: Channel,
    settings: DeliverySettings,
    now: datetime,
    *,
    shown_id: str = "",
) -> Send | Skip | Bury:
    """Decide about the reply that is next of its chat.

    Args:
        row: The reply; no try of it is under way.
        channel: Where it goes.
        settings: How long it may wait, and how often it may be tried.
        now: The wall clock.
        shown_id: The message in which it grew while it was made; empty: there is none, or only the
            reply knows, of a try before the gateway was killed. To edit it once more does no harm.
    """
    if channel.edits and not row.sent_chars:
        shown_id = shown_id or row.shown_id
    if now >= row.owed_since + lifetime(settings, configured=True):
        return expired(row, configured=True)
    if row.attempts >= settings.max_attempts:
        return _worn_out(row.error, row.attempts)

    unknown = row.sending_at is not None
    # An edit was no repeat: what may have been one is sent as a message once, and says so.
    if unknown and row.repeated and not (channel.idempotent or row.shown_id):
        return _unknown(row.error)
    if not row.text[row.sent_chars :].strip():
        return Skip()

    repeat = row.repeated
    if unknown:
        repeat = max(repeat, Repeat.EDIT if row.shown_id else Repeat.MESSAGE)
    return _send(row, channel, settings, now, repeat=repeat, shown_id=shown_id)


def lifetime(settings: DeliverySettings, *, configured: bool) -> timedelta:
    """Return how long a reply to a channel, configured or not, may be owed."""
    if configured and settings.late == "note":
        return timedelta(days=KEPT_DAYS)

    return timedelta(seconds=settings.ttl_s)


def expired(row: OutboxRow, *, configured: bool) -> Bury:
    """Return what becomes of a reply whose lifetime is over."""
    if configured:
        return Bury(Reason.EXPIRED, _joined(Reason.EXPIRED, row.error))

    text = f"{Reason.NO_CHANNEL}: {row.channel} is not configured"
    return Bury(Reason.NO_CHANNEL, text)


def after_failure(
    row: OutboxRow,
    sent: Send,
    error: SendError,
    channel: Channel,
    settings: DeliverySettings,
    *,
    pauses: int = 0,
) -> Again | Bury:
    """Decide about a try that failed and that counts.

    Args:
        row: The reply, as it was before the try.
        sent: What was tried.
        error: What the channel says of it.
        channel: Where it went.
        settings: How often it may be tried.
        pauses: How often in a row, before this, its chat was answered with the wish for a pause.
    """
    said, attempts = clean_name(str(error)), row.attempts + 1
    if not error.retryable:
        return Bury(Reason.REFUSED, _joined(Reason.REFUSED, said))
    if error.ambiguous and sent.repeat and not (channel.idempotent or sent.shown_id):
        return _unknown(said)
    wish_s = granted_s(error.retry_after_s)
    if asks_for_pause(error):
        # It may ask for ever, and for no time at all.
        pause_s = longest_pause_s(attempts + pauses)
        return Again(said, pause_s, max(wish_s, _LEAST_WISH_S), unknown=False, counts=False)
    if attempts >= settings.max_attempts:
        return _worn_out(said, attempts)

    pause_s = longest_pause_s(attempts)
    if error.ambiguous and not (channel.idempotent or sent.shown_id):
        wish_s = max(wish_s, REPEAT_AFTER_S)
    return Again(said, pause_s, wish_s, unknown=error.ambiguous)


def longest_pause_s(attempts: int) -> float:
    """Return how long to wait at most after so many tries that failed, in seconds."""
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * _GROWTH ** (min(attempts, 16) - 1))


def _send(
    row: OutboxRow,
    channel: Channel,
    settings: DeliverySettings,
    now: datetime,
    *,
    repeat: Repeat,
    shown_id: str,
) -> Send:
    # The room of the notes is kept free always: the same pieces come out with and without them.
    room = channel.max_text_chars - NOTE_CHARS
    piece = cut(row.text, row.sent_chars, room)
    while not row.text[piece.start : piece.end].strip():
        piece = cut(row.text, piece.end, room)
    text, end = piece.shown(row.text), piece.end
    if not row.text[end:].strip():
        end = len(row.text)
    notes = ""
    if now >= row.created_at + timedelta(seconds=settings.ttl_s):
        notes = f"(Late: this was answered on {row.created_at:%Y-%m-%d at %H:%M} UTC.)\n\n"
    is_repeat = repeat is not Repeat.NO and not shown_id
    if is_repeat and (repeat is Repeat.EDIT or not channel.idempotent):
        notes += REPEAT
    outbound = Outbound(
        target=row.target,
        text=notes + text,
        delivery_id=f"{row.delivery_id}.{row.sent_chars}" if row.sent_chars else row.delivery_id,
        reply_to="" if row.sent_chars else row.reply_to,
        repeat=is_repeat,
        plain=row.plain,
    )
    return Send(outbound, end, repeat, shown_id)


def _worn_out(error: str, attempts: int) -> Bury:
    times = "1 try" if attempts == 1 else f"{attempts} tries"
    return Bury(Reason.ATTEMPTS, _joined(f"given up after {times}", error))


def _unknown(error: str) -> Bury:
    text = "nobody knows whether it was sent, nor whether its repeat was"
    return Bury(Reason.UNKNOWN, _joined(text, error))


def _joined(text: str, error: str) -> str:
    return f"{text}: {error}" if error else text
