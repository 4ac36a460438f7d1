"""What the gateway owes to a platform, read from the database alone, beside all that is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from tests.torture.stored import Stored, opened_copy, read_stored

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Delivery:
    """A reply to a channel."""

    position: int
    delivery_id: str
    chat: str
    message_id: str
    text: str
    tried: bool
    """Whether the gateway does not know, for all it has noted, whether it was shown."""
    sent: bool
    dead: bool


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a state directory that no daemon works on."""

    stored: Stored
    deliveries: Mapping[str, Delivery] = field(default_factory=dict)
    """In the order in which they were committed."""

    def has(self, message_id: str) -> bool:
        """Return whether a message is stored, answered or not."""
        owed = {one.message_id for one in self.stored.inbox}
        return message_id in owed | {one.message_id for one in self.stored.outbox}

    def replies(self, message_id: str) -> list[dict[str, Any]]:
        """Return the replies to a message."""
        return [one.reply for one in self.stored.outbox if one.message_id == message_id]

    def turns(self, text: str) -> list[str]:
        """Return the ids of the turns in which somebody says a text."""
        return [
            row.turn_id for row in self.stored.messages if (row.role, row.text) == ("user", text)
        ]


def take_look(state_dir: Path) -> Look:
    """Return what a daemon left that was ready once; nothing is changed."""
    stored = read_stored(state_dir)
    columns = "position, turn_id, source, message_id, reply, sending_at, repeated, sent_at, dead_at"
    with opened_copy(state_dir) as connection:
        rows = connection.execute(
            f"SELECT {columns} FROM outbox WHERE channel IS NOT NULL ORDER BY position"  # noqa: S608 - names of ours
        ).fetchall()
    deliveries = []
    for position, turn_id, source, message_id, reply, *state in rows:
        sending_at, repeated, sent_at, dead_at = state
        deliveries.append(
            Delivery(
                position=int(str(position)),
                delivery_id=str(turn_id),
                chat=orjson.loads(str(source))["chat_id"],
                message_id=str(message_id),
                text=orjson.loads(str(reply))["text"],
                tried=sending_at is not None or bool(repeated),
                sent=sent_at is not None,
                dead=dead_at is not None,
            )
        )
    return Look(stored, {one.delivery_id: one for one in deliveries})
