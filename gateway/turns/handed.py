"""Which answers this process has surely kept, and which it has handed out whole. In memory alone.

Of what is not known here, of answers before this process began or of too many since, nobody can
say whether a client got them.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.model import TurnId

MAX_TURNS: Final = 4_096
"""Turns that are remembered, the latest ones."""


class HandedOut:
    """What became of answers; changed by the event loop alone, read by the database's threads."""

    def __init__(self) -> None:
        """Know of none."""
        self._whole: OrderedDict[TurnId, bool] = OrderedDict()

    def expect(self, turn_id: TurnId) -> None:
        """Note that nobody was given a turn's answer yet."""
        self._whole.setdefault(turn_id, False)
        if len(self._whole) > MAX_TURNS:
            self._whole.popitem(last=False)

    def note_whole(self, turn_id: TurnId) -> None:
        """Note that a client was given a turn's answer to its end, as far as a server can tell."""
        self.expect(turn_id)
        self._whole[turn_id] = True
        self._whole.move_to_end(turn_id)

    def is_whole(self, turn_id: TurnId) -> bool | None:
        """Return whether a client has got a turn's answer; None: nobody knows."""
        return self._whole.get(turn_id)
