"""The channel to Matrix: one user of a homeserver, who reads by sync and writes rooms' messages.

A homeserver takes a message once for each device and delivery id, so that one sent again is shown
once (Synapse: for a day). Encrypted rooms cannot be read: nothing is answered there.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread

from gateway.channels.base import ChannelError, NotConnectedError, SendError
from gateway.channels.matrix.api import Homeserver, lost, unsent
from gateway.channels.matrix.content import MAX_TEXT_CHARS, edit, is_event_id, message
from gateway.channels.matrix.inbound import PLATFORM
from gateway.channels.matrix.place import place_path
from gateway.channels.matrix.settings import problem_of_access_token
from gateway.channels.matrix.sync import Reader
from gateway.channels.receipts import Receipts
from gateway.log import get_logger
from gateway.secret_values import secret_at

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anyio.abc import TaskGroup

    from gateway.channels.base import Outbound, Receive
    from gateway.channels.matrix.settings import MatrixSettings
    from gateway.clock import Clock
    from gateway.model import Inbound, SessionSource

TYPING_S: Final = 10.0
"""Short, so that the sign does not stay for long after a crash."""
RETRY_S: Final = 1.0
"""How long a message waits that could not be stored."""
_HELD: Final[dict[tuple[Path, str], str]] = {}
"""Which account reads for a user as long as the process lives, by the state directory and the
user: of two that did, even one after the other, each message would be two turns."""
_ASKING: Final[dict[tuple[Path, str], anyio.Lock]] = {}
"""By the state directory and the homeserver: accounts ask who they are in the order in which they
are run, so that of two of a user the first one of the configuration has it after each start."""


class MatrixChannel:
    """One user."""

    platform = PLATFORM
    idempotent = True
    max_text_chars = MAX_TEXT_CHARS

    def __init__(
        self, account: str, settings: MatrixSettings, state_dir: Path, clock: Clock
    ) -> None:
        """Take the settings of an account; nothing is asked before `run`.

        Raises:
            ConfigurationError: the token cannot be had, or is none.
        """
        self.account = account
        self._settings = settings
        self._clock = clock
        place = f"channels.{account}.token"
        token = secret_at(place, settings.token, problem_of_access_token)
        self._server = Homeserver(token, settings)
        path = place_path(state_dir, account)
        self._state_dir = state_dir
        self._reader = Reader(account, settings, path, clock, self._server)
        self._user_id = ""
        self._receipts = Receipts(
            PLATFORM, account, clock, partial(self._send, notice=True), idempotent=True
        )
        self._typing: dict[str, float] = {}
        """By room, until when it is seen that we write, monotonic."""

    @property
    def edits(self) -> bool:
        """Whether answers grow in the chat."""
        return self._settings.edits

    @property
    def edit_interval_s(self) -> float:
        """The shortest time between two edits in one chat."""
        return self._settings.edit_interval_s

    @property
    def typing_s(self) -> float:
        """For how long it is seen that an answer is being made."""
        return TYPING_S if self._settings.typing else 0.0

    async def run(self, receive: Receive, *, ready: Callable[[], None]) -> None:
        """Take messages until cancelled; see `Channel.run`."""
        failed: ChannelError | None = None
        async with self._server.connected(), anyio.create_task_group() as tasks:
            try:
                self._user_id = await self._identify()
                await self._reader.load()
                hand_over = partial(self._hand_over, receive, tasks)
                self._receipts.resume(tasks)
                await self._reader.run(self._user_id, hand_over, ready, tasks)
            except ChannelError as error:
                failed = error
            tasks.cancel_scope.cancel()
        raise failed or AssertionError

    async def send(self, outbound: Outbound) -> str:
        """Show a message; see `Channel.send`."""
        return await self._send(outbound)

    async def edit(self, outbound: Outbound, shown_id: str) -> None:
        """Let a message read otherwise; see `Channel.edit`."""
        if not is_event_id(shown_id):
            raise SendError("not the id of an event on Matrix", retryable=False)

        room_id = self._writable(outbound.target)
        # In a thread: marks without end take the parser up to a tenth of a second.
        content = await anyio.to_thread.run_sync(edit, outbound, shown_id)
        with unsent():
            await self._server.write(room_id, content, outbound.delivery_id)

    async def show_typing(self, target: SessionSource) -> None:
        """Show that an answer is being made; see `Channel.show_typing`."""
        if self._settings.typing:
            room_id = self._writable(target)
            with unsent():
                await self._server.type(room_id, self._user_id, TYPING_S)
            self._typing[room_id] = self._clock.monotonic() + TYPING_S

    async def _send(self, outbound: Outbound, *, notice: bool = False) -> str:
        room_id = self._writable(outbound.target)
        content = await anyio.to_thread.run_sync(partial(message, outbound, notice=notice))
        with unsent():
            event_id = await self._server.write(room_id, content, outbound.delivery_id)
        await self._end_typing(room_id)
        return event_id

    async def _end_typing(self, room_id: str) -> None:
        """Take the sign away that an answer is being made: a message does not do that here."""
        now = self._clock.monotonic()
        until = self._typing.pop(room_id, now)
        self._typing = {room: at for room, at in self._typing.items() if at > now}
        if until > now:
            try:
                with unsent():
                    await self._server.type(room_id, self._user_id, 0)
            except SendError as error:
                get_logger().debug("matrix.typing_stays", account=self.account, reason=str(error))

    def _writable(self, target: SessionSource) -> str:
        """Return the room of a target.

        Raises:
            SendError: it is none, or nobody but us could read what we write there.
        """
        if not self._reader.knows_rooms:
            raise NotConnectedError
        if not target.chat_id.startswith("!"):
            raise SendError("not the id of a room on Matrix", retryable=False)
        if self._reader.is_encrypted(target.chat_id):
            raise SendError("the room is encrypted; nothing is written there", retryable=False)

        return target.chat_id

    async def _identify(self) -> str:
        """Return whose token it is: somebody for whom no other account reads.

        Raises:
            ChannelError: another one does, or the homeserver does not say who it is.
        """
        asking = _ASKING.setdefault((self._state_dir, self._settings.homeserver), anyio.Lock())
        async with asking:
            with lost():
                user_id = _user_id(await self._server.whoami())
            other = _HELD.setdefault((self._state_dir, user_id), self.account)
        if other != self.account:
            raise ChannelError(
                f"its token is of the same user as that of channels.{other}; accepted is one table "
                "of a user"
            )

        return user_id

    async def _hand_over(self, receive: Receive, tasks: TaskGroup, inbound: Inbound) -> None:
        """Hand over a message, as often as it takes until it is stored or refused."""
        while (receipt := await self._receipts.hand_over(receive, inbound)) is None:
            await self._clock.sleep(RETRY_S)
        self._receipts.tell(tasks, inbound, receipt)


def _user_id(who: dict[str, Any]) -> str:
    user_id = who.get("user_id")
    if not isinstance(user_id, str) or not user_id.startswith("@"):
        raise ChannelError("the homeserver's answer cannot be read: there is no user_id")

    return user_id
