"""Which update Telegram calls a webhook with next: of each chat its first, at its time. Pure.

A chat whose update was not taken waits, its later updates behind that; other chats do not.

Source: WebhookActor of Telegram's own Bot API server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

Update = dict[str, Any]


@dataclass
class _Wait:
    """A chat whose next update was not taken."""

    failures: int = 0
    until: float = 0.0


class Recalls:
    """The chats that wait; instants are monotonic."""

    def __init__(self) -> None:
        self._waits: dict[int, _Wait] = {}

    def next(self, pending: Mapping[int, Update], now: float) -> tuple[float, int] | None:
        """Return when to call with which update; None: there is none."""
        firsts: dict[int, int] = {}
        for update_id, update in pending.items():
            firsts.setdefault(_chat_of(update), update_id)
        due = [(max(now, self._until(chat)), one) for chat, one in firsts.items()]
        return min(due, default=None)

    def taken(self, update: Update) -> None:
        """Take note that a call was answered well."""
        self._waits.pop(_chat_of(update), None)

    def failed(self, update: Update) -> int:
        """Take note that a call was not; return how often that was so in a row."""
        wait = self._waits.setdefault(_chat_of(update), _Wait())
        wait.failures += 1
        return wait.failures

    def hold(self, update: Update, until: float) -> None:
        """Leave the update alone for a while."""
        self._waits.setdefault(_chat_of(update), _Wait()).until = until

    def _until(self, chat: int) -> float:
        return self._waits[chat].until if chat in self._waits else 0.0


def _chat_of(update: Update) -> int:
    """Return the chat that an update is of; 0: of none."""
    parts = [one for one in update.values() if isinstance(one, dict)]
    return next((int(one["chat"]["id"]) for one in parts if "chat" in one), 0)
