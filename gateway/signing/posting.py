"""Posting signed bodies: one request each, no redirect followed, nothing of an answer kept.

Whether to try again, and when, is decided above.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import anyio
import httpx2

from gateway.model import clean_name
from gateway.settings import is_loopback
from gateway.signing.signatures import signed_headers

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from gateway.clock import Clock

MAX_ANSWER_BYTES: Final = 16_384
"""So much of an answer is read, that the connection may serve again; more ends it."""
CONNECT_TIMEOUT_S: Final = 5.0
"""How long the look-up of a name and the connection may take, in seconds."""
_MOST_RETRY_AFTER_S: Final = 365 * 86_400.0
_NOT_SENT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
_ACCEPTED_FROM, _ACCEPTED_TO = 200, 299
GONE: Final = 410
"""The endpoint wants nothing any more."""


class PostError(Exception):
    """There is no answer; the message says why."""

    def __init__(self, message: str, *, sent: bool) -> None:
        """Keep whether the body may have arrived all the same."""
        self.sent = sent
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint said."""

    status: int
    retry_after_s: float | None = None
    """How long it asks to be left alone, in seconds; None: it does not say."""

    @property
    def accepted(self) -> bool:
        """Whether it took the body."""
        return _ACCEPTED_FROM <= self.status <= _ACCEPTED_TO


class Poster:
    """Posts to one address, while it is open."""

    def __init__(self, url: str, keys: Sequence[bytes], clock: Clock, timeout_s: float) -> None:
        """Take the address; nothing is opened before `opened`.

        Args:
            url: As `PostAddress` accepts it.
            keys: Each signs every body.
            clock: Both clocks.
            timeout_s: How long a request may take in all, in seconds.
        """
        self._url = url
        self._keys = tuple(keys)
        self._clock = clock
        self._timeout_s = timeout_s
        self._client: httpx2.AsyncClient | None = None
        self._posting = 0
        self._ended = anyio.Event()

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Hold connections; at the end requests under way are waited for, unless cancelled."""
        self._client = client = httpx2.AsyncClient(
            # The body goes to the configured address alone: neither where that redirects to, nor
            # through a proxy where it is on this machine.
            follow_redirects=False,
            trust_env=not is_loopback(urlsplit(self._url).hostname or ""),
            timeout=httpx2.Timeout(
                self._timeout_s, connect=min(CONNECT_TIMEOUT_S, self._timeout_s)
            ),
        )
        try:
            yield
        finally:
            self._client = None
            try:
                while self._posting:
                    self._ended = anyio.Event()
                    await self._ended.wait()
            finally:
                with anyio.CancelScope(shield=True):
                    await client.aclose()

    async def post(self, message_id: str, body: bytes) -> Answer:
        """Post a JSON body once.

        Raises:
            PostError: there is no answer; not `sent`: it cannot have arrived.

        Cancellation: whether it arrived is not known then.
        """
        client = self._client
        if client is None:
            raise PostError("it is not open", sent=False)

        headers = signed_headers(self._keys, message_id, self._clock.now(), body)
        headers |= {"Content-Type": "application/json", "User-Agent": "session-gateway"}
        request = client.build_request("POST", self._url, content=body, headers=headers)
        answer: Answer | None = None
        self._posting += 1
        try:
            # An answer that trickles in must not hold the next one up.
            with self._clock.move_on_after(self._timeout_s):
                response = await _asked(client, request)
                try:
                    answer = self._answer_of(response)
                    await _drain(response)
                finally:
                    with anyio.CancelScope(shield=True):
                        await response.aclose()
        finally:
            self._posting -= 1
            self._ended.set()
        if answer is None:
            raise PostError(f"no answer within {self._timeout_s:g} seconds", sent=True)

        return answer

    def _answer_of(self, response: httpx2.Response) -> Answer:
        wish = response.headers.get("retry-after", "").strip()
        return Answer(response.status_code, retry_after_s(wish, self._clock))


def retry_after_s(wish: str, clock: Clock) -> float | None:
    """Return the pause that a header `Retry-After` asks for, in seconds; None for none."""
    if wish.isascii() and wish.isdigit():
        return min(float(wish), _MOST_RETRY_AFTER_S)

    try:
        at = parsedate_to_datetime(wish)
        pause_s = (at - clock.now()).total_seconds()
    except (TypeError, ValueError, OverflowError):  # TypeError: without a time zone
        return None

    return min(max(0.0, pause_s), _MOST_RETRY_AFTER_S)


async def _asked(client: httpx2.AsyncClient, request: httpx2.Request) -> httpx2.Response:
    try:
        return await client.send(request, stream=True)
    except _NOT_SENT as error:
        raise PostError(_why(error), sent=False) from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise PostError(_why(error), sent=True) from error


async def _drain(response: httpx2.Response) -> None:
    """Read what little an answer holds, so that its connection can serve again."""
    read = 0
    try:
        async for chunk in response.aiter_raw():
            read += len(chunk)
            if read > MAX_ANSWER_BYTES:
                return
    except httpx2.HTTPError:
        # What it said is said.
        return


def _why(error: Exception) -> str:
    text = clean_name(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
