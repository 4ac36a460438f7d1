"""A homeserver over nio: the connection, and what its failures mean to the gateway.

nio makes the requests and keeps the connections. Its answers are read here and in what stands
above: its own reading drops a whole sync for one part that it does not know, keeps every member of
every room in memory, and waits by itself.

No error that leaves this module quotes what anybody wrote, or the token, which is in no address.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, quote, urlencode

import anyio
import orjson
from aiohttp import ClientConnectorError, ClientError, ClientTimeout, ConnectionTimeoutError
from nio.api import Api, MessageDirection
from nio.client.async_client import AsyncClient, AsyncClientConfig

from gateway.channels.base import ChannelError, NotConnectedError, SendError
from gateway.channels.causes import cause_of
from gateway.channels.matrix.parsing import read_json
from gateway.errors import GatewayError
from gateway.model import clean_name

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from aiohttp import ClientResponse

    from gateway.channels.matrix.settings import MatrixSettings

CONNECT_TIMEOUT_S: Final = 10.0
DEFAULT_PAUSE_S: Final = 5.0
"""How long a homeserver is left alone that does not say for how long."""
MAX_PAUSE_S: Final = 300.0
"""No homeserver is left alone for longer by who asks it what happens, whatever it asks for."""
MAX_ASKED_S: Final = 3_600.0
"""Nor by who writes there."""
FIRST_PAUSE_S: Final = 5.0
PAGE: Final = 50
"""So many events of a room are told at once."""
_OK: Final = range(200, 300)
_UNAUTHORIZED: Final = 401
_BUSY: Final = 429
_BROKEN: Final = 500
_REFUSES: Final = "the homeserver refuses the token; the account's owner is told a new one by it"
_NOT_SENT: Final = (ClientConnectorError, ConnectionTimeoutError)
"""Failures before anything was sent."""
_FILTER: Final[dict[str, Any]] = {
    "presence": {"not_types": ["*"]},
    "account_data": {"not_types": ["*"]},
    "room": {
        "account_data": {"not_types": ["*"]},
        "ephemeral": {"not_types": ["*"]},
        "state": {
            "types": ["m.room.encryption", "m.room.member", "m.room.name"],
            "lazy_load_members": True,
            "include_redundant_members": True,
        },
        "timeline": {"lazy_load_members": True, "include_redundant_members": True},
    },
}


class RefusedError(GatewayError):
    """The homeserver answers that it does not do what was asked."""

    def __init__(self, status: int, code: str, retry_after_s: float | None) -> None:
        """Take the status of HTTP, the code of Matrix and the pause that is asked for."""
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s
        super().__init__(f"{status} {code}".rstrip())

    @property
    def is_busy(self) -> bool:
        """Whether it may be asked again after a pause."""
        return self.status == _BUSY

    @property
    def is_of_the_token(self) -> bool:
        """Whether nothing is done for who asks."""
        return self.status == _UNAUTHORIZED

    @property
    def is_passing(self) -> bool:
        """Whether the same may be asked again with another outcome, once something is mended."""
        return self.is_busy or self.is_of_the_token

    @property
    def is_fault(self) -> bool:
        """Whether it failed, or something before it."""
        return self.status >= _BROKEN

    @property
    def pause_s(self) -> float:
        """How long to leave it alone, in seconds."""
        return min(self.asked_s, MAX_PAUSE_S)

    @property
    def asked_s(self) -> float:
        """How long it asks to be left alone, in seconds, an hour at most."""
        asked_s = DEFAULT_PAUSE_S if self.retry_after_s is None else self.retry_after_s
        return min(asked_s, MAX_ASKED_S)


class NoAnswerError(GatewayError):
    """No answer came that can be read."""

    def __init__(self, cause: str, *, sent: bool) -> None:
        """Take what went wrong, and whether the request may have been done."""
        self.sent = sent
        super().__init__(f"no answer that can be read ({cause})" if sent else cause)


class Homeserver:
    """What one user asks of a homeserver, while it is connected."""

    def __init__(self, token: str, settings: MatrixSettings) -> None:
        """Take who asks, and where; nothing is asked before `connected`."""
        self._token = token
        self._settings = settings
        self._client: AsyncClient | None = None
        self._calls = 0
        self._call_ended = anyio.Event()

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[None]:
        """Hold the connections; what is being asked at their end is waited for, unless cancelled.

        At the end nothing new is asked any more.
        """
        config = AsyncClientConfig(
            encryption_enabled=False, request_timeout=self._settings.request_timeout_s
        )
        client = AsyncClient(self._settings.homeserver, config=config, ssl=True)
        self._client = client
        try:
            yield
        finally:
            self._client = None
            try:
                while self._calls:
                    self._call_ended = anyio.Event()
                    await self._call_ended.wait()
            finally:
                with anyio.CancelScope(shield=True):
                    await client.close()  # type: ignore[no-untyped-call] # nio says no type of it

    async def whoami(self) -> dict[str, Any]:
        """Return `user_id` and, of most homeservers, `device_id` of the token."""
        return await self._ask(Api.whoami(""))

    async def name_of(self, user_id: str) -> str:
        """Return what a user calls themselves; empty: nothing."""
        method, path = Api.profile_get_displayname(user_id)
        try:
            name = (await self._ask((method, path))).get("displayname")
        except RefusedError as error:
            if error.is_passing or error.is_fault:
                raise
            return ""
        return name if isinstance(name, str) else ""

    async def sync(self, since: str | None, wait_s: int) -> dict[str, Any]:
        """Return what happened since a place, at once or within some seconds; None: what there is.

        Of a first sync only a little is told of each room.
        """
        limit = PAGE if since else 1
        timeline = {**_FILTER["room"]["timeline"], "limit": limit}
        asked = {**_FILTER, "room": {**_FILTER["room"], "timeline": timeline}}
        call = Api.sync("", since=since, timeout=wait_s * 1_000 or None, filter=asked)
        # A first sync of many rooms takes the homeserver a while.
        slack_s = self._settings.request_timeout_s * (1 if since else 6)
        return await self._ask(call, wait_s + slack_s)

    async def before(self, room_id: str, place: str, stop: str) -> dict[str, Any]:
        """Return events of a room, the newest first, from one place back to an older one."""
        members = {"lazy_load_members": True, "include_redundant_members": True}
        back = MessageDirection.back
        return await self._ask(
            Api.room_messages(
                "", room_id, start=place, end=stop, direction=back, limit=PAGE,
                message_filter=members,
            )
        )  # fmt: skip

    async def event(self, room_id: str, event_id: str) -> dict[str, Any]:
        """Return an event as it is now."""
        return await self._ask(Api.room_get_event("", room_id, event_id))

    async def join(self, room_id: str) -> None:
        """Join a room."""
        await self._ask(Api.join("", room_id))

    async def write(self, room_id: str, content: dict[str, Any], delivery_id: str) -> str:
        """Write a message into a room, once for each delivery id; return the event's id."""
        method, path, _ = Api.room_send("", room_id, "m.room.message", {}, delivery_id)
        answer = await self._ask((method, path, orjson.dumps(content).decode()))
        event_id = answer.get("event_id")
        if not isinstance(event_id, str):
            raise NoAnswerError("there is no event_id in it", sent=True)

        return event_id

    async def type(self, room_id: str, user_id: str, for_s: float) -> None:
        """Show for so long that the user writes; 0: not any more."""
        await self._ask(Api.room_typing("", room_id, user_id, for_s > 0, int(for_s * 1_000)))

    async def _ask(self, call: tuple[str, ...], timeout_s: float | None = None) -> dict[str, Any]:
        """Ask for something, and return the answer.

        Raises:
            NotConnectedError: there is no connection to ask over.
            RefusedError: it is not done.
            NoAnswerError: nobody knows, or it was never asked.
        """
        client = self._client
        if client is None:
            raise NotConnectedError

        method, path, *body = call
        total_s = self._settings.request_timeout_s if timeout_s is None else timeout_s
        self._calls += 1
        try:
            response = await client.send(
                method,
                _without_token(path),
                body[0] if body else None,
                {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
                None,
                ClientTimeout(total=total_s, sock_connect=CONNECT_TIMEOUT_S),
            )
            async with response:
                return _answer(response, await read_json(await response.read()))
        except _NOT_SENT as error:
            raise NoAnswerError(cause_of(error), sent=False) from None
        except (ClientError, TimeoutError, OSError) as error:
            raise NoAnswerError(cause_of(error), sent=True) from None
        finally:
            self._calls -= 1
            self._call_ended.set()


def _without_token(path: str) -> str:
    """Drop the token's place from an address: it goes in a header, where no log has it."""
    plain, _, query = path.partition("?")
    kept = [(name, value) for name, value in parse_qsl(query) if name != "access_token"]
    return f"{plain}?{urlencode(kept, quote_via=quote)}" if kept else plain


def _answer(response: ClientResponse, said: object) -> dict[str, Any]:
    if response.status in _OK:
        if not isinstance(said, dict):
            raise NoAnswerError("it is no JSON object", sent=True)
        return said

    fields = said if isinstance(said, dict) else {}
    code = fields.get("errcode")
    name = clean_name(code) if isinstance(code, str) else ""
    raise RefusedError(response.status, name, _pause_s(response, fields.get("retry_after_ms")))


def _pause_s(response: ClientResponse, pause_ms: object) -> float | None:
    """Return how long the homeserver asks to be left alone, in the old way or in the new one."""
    if isinstance(pause_ms, int | float) and pause_ms >= 0:
        return pause_ms / 1_000

    header = response.headers.get("Retry-After", "")
    return float(header) if header.isascii() and header.isdigit() else None


def pause_before_s(tried: int, asked_s: float = 0.0) -> float:
    """Return how long to wait before what has failed is tried again, in seconds.

    Args:
        tried: How often it has failed in a row, at least 1.
        asked_s: How long the homeserver asks to be left alone.
    """
    return max(asked_s, min(FIRST_PAUSE_S * (1 << min(tried - 1, 16)), MAX_PAUSE_S))


@contextmanager
def lost() -> Generator[None]:
    """Tell failures as those of a channel that is lost."""
    try:
        yield
    except (RefusedError, NoAnswerError) as error:
        raise as_lost(error) from None


def as_lost(error: RefusedError | NoAnswerError) -> ChannelError:
    """Return a failure as that of a channel that is lost."""
    if isinstance(error, NoAnswerError):
        return ChannelError(f"the homeserver cannot be reached: {error}")

    return ChannelError(
        f"{_REFUSES if error.is_of_the_token else 'the homeserver fails'} ({error})",
        retry_after_s=error.retry_after_s,
    )


@contextmanager
def unsent() -> Generator[None]:
    """Tell failures as those of a message that is not shown, or may not be."""
    try:
        yield
    except RefusedError as error:
        if error.is_of_the_token:
            raise NotConnectedError(f"{_REFUSES} ({error})") from None
        if error.is_busy:
            asked_s = error.asked_s
            raise SendError("too many requests", retryable=True, retry_after_s=asked_s) from None

        # Of a front that failed nobody knows whether all came through.
        text = f"the homeserver does not take it ({error})"
        raise SendError(text, retryable=error.is_fault, ambiguous=error.is_fault) from None
    except NoAnswerError as error:
        if not error.sent:
            raise NotConnectedError(f"the homeserver cannot be reached: {error}") from None

        raise SendError(str(error), retryable=True, ambiguous=True) from None
