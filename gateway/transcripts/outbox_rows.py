"""What is read of the replies to channels: one, pages, numbers, and what is to be sent next."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from gateway.errors import DamagedDataError
from gateway.model import ChatType, SessionKey, SessionSource, TurnId
from gateway.transcripts.outbox import OWED, WITHOUT_TURN, sortable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gateway.durable.batch import Queries

_COLUMNS: Final = (
    "position, turn_id, session_key, channel, chat, source, reply_to, reply, created_at, "
    "owed_since, attempts, sent_chars, repeated, sending_at, sent_at, dead_at, error, platform_id, "
    "shown_id"
)


class OutboxState(StrEnum):
    """What a reply to a channel is."""

    OWED = "owed"
    """To be sent."""
    DEAD = "dead"
    """Given up; `error` says why."""
    SENT = "sent"


class Repeat(IntEnum):
    """How what is next of a reply may have been shown before; the higher one lasts."""

    NO = 0
    """It was not."""
    MESSAGE = 1
    """As a message, which an idempotent channel knows by its delivery id."""
    EDIT = 2
    """As the last edit of a message, which no channel knows a message by."""


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A reply to a channel."""

    position: int
    delivery_id: TurnId
    """The id of the turn that it ends."""
    session_key: SessionKey
    channel: str
    chat: str
    """What is sent to it is sent in order."""
    target: SessionSource
    reply_to: str
    """The platform's id of the message; empty: of none."""
    text: str
    created_at: datetime
    owed_since: datetime
    """When its time to live began: with its commit, or when it was last asked for again."""
    attempts: int
    """How often the platform was asked to take it; of one in pieces, the piece that is next."""
    sent_chars: int
    """So much of the text was sent, in pieces."""
    repeated: Repeat
    """Whether what is next of it was sent, or may have been, before the last noted try."""
    sending_at: datetime | None
    """When a try began of which nobody knows yet, or ever, what became of it."""
    sent_at: datetime | None
    dead_at: datetime | None
    error: str
    """Why the last try failed, or why it is dead."""
    platform_id: str
    """The platform's id of what was shown, of pieces the last."""
    shown_id: str = ""
    """The platform's id of the message that a noted try edits; empty: of none."""
    plain: bool = False
    """Whether the gateway says it, in plain text, and no agent."""
    status: str = ""
    """How the turn ended, or what it is instead of one, such as `retracted`: then it is empty, and
    nothing of it is sent."""

    @property
    def state(self) -> OutboxState:
        """What it is."""
        if self.sent_at is not None:
            return OutboxState.SENT
        return OutboxState.OWED if self.dead_at is None else OutboxState.DEAD


@dataclass(frozen=True, slots=True)
class OutboxCounts:
    """How many replies to channels there are."""

    owed: int
    dead: int
    oldest_owed_at: datetime | None


@dataclass(frozen=True, slots=True)
class DueChats:
    """Chats of a channel that are to be looked at."""

    chats: tuple[str, ...]
    """Those that are due, the one that waits longest first."""
    next_at: datetime | None
    """When the next one is due of those that are not; None: there is none."""
    oldest_since: datetime | None
    """Since when the channel's oldest reply is owed; None: it is owed nothing."""


def find(place: Queries, delivery_id: str) -> OutboxRow | None:
    """Return a reply to a channel."""
    rows = place.execute(
        f"SELECT {_COLUMNS} FROM outbox WHERE turn_id = ? AND channel IS NOT NULL",  # noqa: S608 - constant column names
        (delivery_id,),
    ).fetchall()
    return _row(rows[0]) if rows else None


def page(
    place: Queries, state: OutboxState, *, key: str = "", cursor: int = 0, limit: int
) -> list[OutboxRow]:
    """Return replies to channels: what is owed or dead the oldest first, what was sent the newest.

    Args:
        place: Where to read.
        state: Which replies.
        key: Of one session key; empty: of all.
        cursor: The position of the last one of the page before; 0: there is none.
        limit: How many at most.
    """
    newest_first = state is OutboxState.SENT
    conditions = {
        OutboxState.OWED: OWED,
        OutboxState.DEAD: "dead_at IS NOT NULL AND channel IS NOT NULL",
        OutboxState.SENT: "sent_at IS NOT NULL AND channel IS NOT NULL",
    }
    where = [conditions[state]]
    where += ["session_key = :key"] if key else []
    where += [f"position {'<' if newest_first else '>'} :cursor"] if cursor else []
    order = "DESC" if newest_first else "ASC"
    rows = place.execute(
        f"SELECT {_COLUMNS} FROM outbox WHERE {' AND '.join(where)} "  # noqa: S608 - texts of ours
        f"ORDER BY position {order} LIMIT :limit",
        {"key": key, "cursor": cursor, "limit": limit},
    )
    return [_row(row) for row in rows]


def unreadable(place: Queries) -> Iterator[str]:
    """Yield the id of each reply to a channel that cannot be read."""
    for row in place.execute(f"SELECT {_COLUMNS} FROM outbox WHERE channel IS NOT NULL"):  # noqa: S608 - constant column names
        try:
            _row(row)
        except DamagedDataError:
            yield str(row[1])


def counts(place: Queries) -> OutboxCounts:
    """Return how many replies are owed and dead."""
    owed, oldest = place.execute(
        f"SELECT count(*), min(position) FROM outbox WHERE {OWED}"  # noqa: S608 - a text of ours
    ).fetchall()[0]
    ((dead,),) = place.execute("SELECT count(*) FROM outbox WHERE dead_at IS NOT NULL").fetchall()
    stamps = place.execute("SELECT created_at FROM outbox WHERE position = ?", (oldest,)).fetchall()
    return OutboxCounts(int(str(owed)), int(str(dead)), _instant(stamps[0][0]) if stamps else None)


def channels_owed(place: Queries) -> list[str]:
    """Return the channels that something is owed to."""
    found: list[str] = []
    while True:
        # One step of the index a channel, however much is owed to it.
        rows = place.execute(
            f"SELECT min(channel) FROM outbox WHERE {OWED} AND channel > ?",  # noqa: S608 - a text of ours
            (found[-1] if found else "",),
        ).fetchall()
        if rows[0][0] is None:
            return found

        found.append(str(rows[0][0]))


def due(place: Queries, channel: str, *, now: datetime, limit: int, horizon: datetime) -> DueChats:
    """Return which chats of a channel are to be looked at, `limit` at most.

    A chat that is due only after the `horizon` is due now: the wall clock was set back.
    """
    chats: list[str] = []
    for condition, instant in (("due_at > ?", horizon), ("due_at <= ?", now)):
        rows = place.execute(
            f"SELECT chat FROM outbox_chats WHERE channel = ? AND {condition} "  # noqa: S608 - a text of ours
            "ORDER BY due_at, position LIMIT ?",
            (channel, sortable(instant), limit - len(chats)),
        )
        chats += [str(row[0]) for row in rows]
    ((next_at,),) = place.execute(
        "SELECT min(due_at) FROM outbox_chats WHERE channel = ? AND due_at > ?",
        (channel, sortable(now)),
    ).fetchall()
    oldest = place.execute(
        f"SELECT owed_since FROM outbox WHERE {OWED} AND channel = ? ORDER BY owed_since LIMIT 1",  # noqa: S608 - a text of ours
        (channel,),
    ).fetchall()
    return DueChats(
        tuple(chats),
        None if next_at is None else _instant(next_at),
        _instant(oldest[0][0]) if oldest else None,
    )


def first_owed(place: Queries, chat: str) -> OutboxRow | None:
    """Return the reply of a chat that is sent next."""
    rows = place.execute(
        f"SELECT {_COLUMNS} FROM outbox WHERE {OWED} AND chat = ? ORDER BY position LIMIT 1",  # noqa: S608 - a text of ours
        (chat,),
    ).fetchall()
    return _row(rows[0]) if rows else None


def oldest_owed(place: Queries, channel: str, *, limit: int) -> list[OutboxRow]:
    """Return the replies that are owed to a channel for the longest time."""
    rows = place.execute(
        f"SELECT {_COLUMNS} FROM outbox WHERE {OWED} AND channel = ? ORDER BY owed_since LIMIT ?",  # noqa: S608 - a text of ours
        (channel, limit),
    )
    return [_row(row) for row in rows]


def _instant(text: object) -> datetime:
    return datetime.fromisoformat(str(text))


def _maybe_instant(text: object) -> datetime | None:
    return None if text is None else _instant(text)


def _row(row: Sequence[object]) -> OutboxRow:
    try:
        return _decoded(row)
    except (KeyError, TypeError, ValueError) as exc:
        place = f"the outbox is damaged (turn {row[1]}); `gateway store check` says more"
        raise DamagedDataError(Path("gateway.db"), place) from exc


def is_sound(fields: Mapping[str, object]) -> bool:
    """Return whether the columns of a reply to a channel can be read."""
    try:
        _decoded([fields.get(name, 0) for name in _COLUMNS.split(", ")])
    except (KeyError, TypeError, ValueError):
        return False

    return True


def _decoded(row: Sequence[object]) -> OutboxRow:
    position, turn_id, key, channel, chat, source, reply_id, reply, created_at, since = row[:10]
    attempts, sent_chars, repeated, sending_at, sent_at, dead_at, error = row[10:17]
    platform_id, shown_id = row[17:]
    if not chat:
        raise ValueError("no chat")

    fields = orjson.loads(str(source))
    fields["chat_type"] = ChatType(fields["chat_type"])
    said = orjson.loads(str(reply))
    return OutboxRow(
        position=int(str(position)),
        delivery_id=TurnId(str(turn_id)),
        session_key=SessionKey(str(key)),
        channel=str(channel),
        chat=str(chat),
        target=SessionSource(**fields),
        reply_to=str(reply_id or ""),
        text=str(said["text"]),
        created_at=_instant(created_at),
        owed_since=_instant(since or created_at),
        attempts=int(str(attempts)),
        sent_chars=int(str(sent_chars)),
        repeated=Repeat(int(str(repeated))),
        sending_at=_maybe_instant(sending_at),
        sent_at=_maybe_instant(sent_at),
        dead_at=_maybe_instant(dead_at),
        error=str(error or ""),
        platform_id=str(platform_id or ""),
        shown_id=str(shown_id or ""),
        plain=said.get("status") in WITHOUT_TURN,
        status=str(said.get("status", "")),
    )
