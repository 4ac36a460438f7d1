"""HTTP on one connection, with the bounds that uvicorn's protocol lacks.

Deadlines for the head of a request, for the rest of one that was answered early, and for a client
that does not read; a bound on the size of a head; a cap on connections. All of it happens before
there is a request that the guard could refuse. Times are the event loop's own.
"""

from __future__ import annotations

import http
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import httptools
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.api.bodies import HEAD_S, WHOLE
from gateway.api.guard import MAX_HEAD_BYTES, head_too_large
from gateway.api.problems import MEDIA_TYPE, Problem, later

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, BaseTransport, TimerHandle, Transport

    from uvicorn.config import Config
    from uvicorn.server import ServerState

WRITE_TIMEOUT_S: Final = 30.0
"""How long a client may leave an answer unread."""
_REQUEST_LINE: Final = re.compile(rb"[A-Z]{1,32} /[!-~]{0,8000} HTTP/1\.[01]\r\n")
"""What the parser takes for garbage where it does not know the method."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one connection may take, and how many there may be."""

    max_connections: int
    header_timeout_s: float
    write_timeout_s: float = WRITE_TIMEOUT_S


class BoundedProtocol(HttpToolsProtocol):
    """One connection of uvicorn with bounds."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop | None = None,
        *,
        limits: ConnectionLimits,
    ) -> None:
        """Be made by uvicorn, once a connection."""
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._read_timer: TimerHandle | None = None
        self._write_timer: TimerHandle | None = None
        self._in_head = self._in_body = False
        self._head_bytes = 0
        self._head_began = 0.0

    @override
    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(cast("Transport", transport))
        if len(self.connections) > self._limits.max_connections:
            detail = "Too many connections are open."
            self._refuse(later(503, "connections", "Too busy", detail, after_s=1))
        else:
            self._expect()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self.resume_writing()
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        began_before = self._in_head
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserInvalidMethodError:
            self._give_up(_unknown_method() if _REQUEST_LINE.match(data) else _not_http())
            return
        except httptools.HttpParserError:
            self._give_up(_not_http())
            return
        except httptools.HttpParserUpgrade:
            # What follows is not HTTP/1.1 any more: answer the request and close.
            self._close_after_answer()
            return

        if self._in_head and began_before:
            # Of a head that comes whole, the guard looks at the size.
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(head_too_large())
        elif self._in_head or self._idle():
            self._expect()

    @override
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        self._head_began = self.loop.time()
        self._disarm()

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers come here as well; as headers they would arrive after the guard.
        if self._in_head:
            super().on_header(name, value)

    @override
    def on_headers_complete(self) -> None:
        self._in_head, self._in_body = False, True
        self.scope["state"][HEAD_S] = self.loop.time() - self._head_began
        self._disarm()
        super().on_headers_complete()

    @override
    def on_message_complete(self) -> None:
        self._in_body = False
        self.scope["state"][WHOLE] = True
        if self._answered():
            self._disarm()
        super().on_message_complete()

    @override
    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body and not self.transport.is_closing():
            # Answered early: the rest is read and dropped, so that the client gets to read, but
            # not for long.
            self._expect()

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(
                self._limits.write_timeout_s, self.transport.abort
            )

    @override
    def resume_writing(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def _idle(self) -> bool:
        """Return whether nothing is being read and nothing answered."""
        return self._answered() and not self._in_body and not self._in_head

    def _answered(self) -> bool:
        """Return whether no request waits for its answer or the rest of it."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is None or cycle.response_complete

    def _expect(self) -> None:
        """Give the client until a deadline to send what is due; one that runs goes on."""
        if self._read_timer is None:
            self._read_timer = self.loop.call_later(self._limits.header_timeout_s, self._overdue)

    def _overdue(self) -> None:
        self._read_timer = None
        if self.flow.read_paused or not self._answered():
            # The client waits for an answer of ours: nobody hurries it meanwhile.
            self._expect()
        else:
            self.transport.abort()

    def _disarm(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _give_up(self, problem: Problem) -> None:
        """Answer bytes that cannot be read as a request, and close."""
        if self._answered():
            self._refuse(problem)
        elif not self.cycle.more_body:
            # The request before them is whole and gets its answer.
            self._close_after_answer()
        elif self.cycle.response_started:
            self.transport.close()
        else:
            self._refuse(problem)

    def _close_after_answer(self) -> None:
        self._disarm()
        self.pipeline.clear()
        if self._answered():
            self.transport.close()
        else:
            self.cycle.keep_alive = False

    def _refuse(self, problem: Problem) -> None:
        """Answer without a request, and close."""
        body = problem.body()
        phrase = http.HTTPStatus(problem.status).phrase
        extra = "".join(f"{name}: {value}\r\n" for name, value in problem.headers.items())
        head = (
            f"HTTP/1.1 {problem.status} {phrase}\r\nContent-Type: {MEDIA_TYPE}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n{extra}\r\n"
        )
        self._disarm()
        self.transport.write(head.encode() + body)
        self.transport.close()


def _unknown_method() -> Problem:
    return Problem(501, "unknown-method", "Not implemented", "There is no such method here.")


def _not_http() -> Problem:
    return Problem(400, "not-http", "Bad request", "The bytes are not an HTTP/1.1 request.")
