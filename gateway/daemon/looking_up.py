"""The daemon's event loop: uvloop's, with names looked up in threads that nobody waits for.

uvloop looks up two names at a time at most, and its end waits for both: two names whose server does
not answer would hold up every look-up of the daemon, and its stop. All libraries ask the loop.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from ipaddress import ip_address
from typing import Final, cast

import uvloop
from typing_extensions import override

MAX_LOOK_UPS: Final = 64
"""How many look-ups may be under way; more fail at once, as those of a resolver that is busy."""

_Address = tuple[str, int] | tuple[str, int, int, int]
_Found = list[tuple[socket.AddressFamily, socket.SocketKind, int, str, _Address]]
_Host = str | bytes | None
_Port = str | bytes | int | None
_Question = tuple[_Host, _Port, int, int, int, int]


class EventLoop(uvloop.Loop):
    """Looks up a name once at a time, however many ask; none holds up another, nor the end."""

    def __init__(self) -> None:
        """Start with nothing under way."""
        super().__init__()
        self._looked_up: dict[_Question, asyncio.Future[_Found | Exception]] = {}
        """What is looked up now; the loop's thread alone touches it."""

    @override
    async def getaddrinfo(  # type: ignore[override]  # the stubs of asyncio and uvloop disagree
        self,
        host: _Host,
        port: _Port,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> _Found:
        """Look up a name as `socket.getaddrinfo` does.

        Cancellation: the look-up goes on in its thread, and who asks the same meanwhile waits for
        it. The end of the process waits for none.

        Raises:
            OSError: it has no address, nobody said so in time, or too many are asked for.
        """
        if _is_numeric(host):
            return await super().getaddrinfo(
                host, port, family=family, type=type, proto=proto, flags=flags
            )

        question = (host, port, family, type, proto, flags)
        # Shielded: it is everybody's who asks.
        found = await asyncio.shield(self._looked_up.get(question) or self._begin(question))
        if isinstance(found, Exception):
            raise found.with_traceback(None)

        return found

    def _begin(self, question: _Question) -> asyncio.Future[_Found | Exception]:
        if len(self._looked_up) >= MAX_LOOK_UPS:
            raise socket.gaierror(socket.EAI_AGAIN, "too many names are being looked up")

        # Not of a pool, which waits for its threads when the process ends.
        thread = threading.Thread(target=self._look_up, args=question, name="look-up", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise socket.gaierror(socket.EAI_AGAIN, str(error)) from error

        future = self._looked_up[question] = self.create_future()
        return future

    def _look_up(self, *question: *_Question) -> None:
        """Run in a thread of its own, for as long as the resolver takes."""
        found: _Found | Exception
        try:
            found = cast("_Found", socket.getaddrinfo(*question))
        except Exception as error:  # noqa: BLE001 - handed to those who asked
            found = error
        with suppress(RuntimeError):  # the loop has ended
            self.call_soon_threadsafe(self._tell, question, found)

    def _tell(self, question: _Question, found: _Found | Exception) -> None:
        self._looked_up.pop(question).set_result(found)


def _is_numeric(host: _Host) -> bool:
    """Return whether there is nothing to look up."""
    if host is None:
        return True

    try:
        ip_address(host if isinstance(host, str) else host.decode())
    except ValueError:
        return False

    return True
