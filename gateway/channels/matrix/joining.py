"""Rooms that an account is to join, each in a task of its own: none that hangs stops anybody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from gateway.channels.matrix.api import NoAnswerError, RefusedError, pause_before_s
from gateway.model import clean_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import TaskGroup

    from gateway.channels.matrix.api import Homeserver
    from gateway.clock import Clock

TRIES: Final = 40
"""So often a room is tried that cannot be joined now, over some three hours."""
AT_ONCE: Final = 4
"""So many rooms are joined at the same time."""


class Joining:
    """Joins the rooms of a list, which others add to; a room that is done with leaves it."""

    def __init__(
        self,
        server: Homeserver,
        clock: Clock,
        invitations: dict[str, str],
        accepts: Callable[[str], bool],
        tell: Callable[..., None],
    ) -> None:
        """Take the list, with who has invited us, who may do so, and what logs of a room."""
        self._server = server
        self._clock = clock
        self._invitations = invitations
        self._accepts = accepts
        self._tell = tell
        self._at_work: set[str] = set()
        self._limit = anyio.Semaphore(AT_ONCE)

    def begin(self, tasks: TaskGroup) -> None:
        """Begin to join the rooms that are on the list and not begun with."""
        for room_id in self._invitations.keys() - self._at_work:
            self._at_work.add(room_id)
            tasks.start_soon(self._join, room_id)

    async def _join(self, room_id: str) -> None:
        """Try until it is joined, refused for good, tried often, or off the list."""
        tried = 0
        try:
            while room_id in self._invitations:
                # Of who was listed once, in a file of before the settings were changed.
                if not all(map(self._accepts, self._invitations[room_id].split(" "))):
                    self._end(room_id, "matrix.invite_ignored")
                    return

                failure, pause_s = await self._try(room_id)
                tried += 1
                if not failure:
                    self._end(room_id, "matrix.joined")
                elif pause_s is None or tried == TRIES:
                    self._end(room_id, "matrix.join_failed", reason=failure)
                else:
                    await self._clock.sleep(pause_before_s(tried, pause_s))
        finally:
            self._at_work.discard(room_id)

    async def _try(self, room_id: str) -> tuple[str, float | None]:
        """Return why a room could not be joined, and after how long it may be tried again."""
        async with self._limit:
            try:
                await self._server.join(room_id)
            except RefusedError as error:
                again = error.is_passing or error.is_fault
                return str(error), error.pause_s if again else None
            except NoAnswerError as error:
                return str(error), 0.0
        return "", None

    def _end(self, room_id: str, event: str, **facts: str) -> None:
        inviter = self._invitations.pop(room_id, "")
        self._tell(event, room_id, inviter=clean_name(inviter), **facts)
