"""Answers that grow: server-sent events, written while the work behind them is under way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from gateway.api.bodies import header_of
from gateway.api.problems import problem_of, unexpected
from gateway.errors import GatewayError
from gateway.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from starlette.types import Receive, Scope, Send

    from gateway.api.problems import Problem
    from gateway.clock import Clock

KEEP_ALIVE_S: Final = 15.0
"""How often a silent stream says that it lives; proxies cut after a minute or less."""
_MEDIA_TYPE: Final = "text/event-stream"


def wants_events(scope: Scope) -> bool:
    """Return whether a client asks for a stream of events."""
    return _MEDIA_TYPE in header_of(scope, b"accept")


def problem_event(problem: Problem) -> bytes:
    """Return the event of a problem."""
    return _event("error", problem.body())


def _event(name: str, data: bytes) -> bytes:
    # JSON has no line breaks of its own, so one data line is enough.
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


class EventStream:
    """The events of one response."""

    def __init__(
        self,
        clock: Clock,
        receive: Receive,
        send: Send,
        *,
        error_event: Callable[[Problem], bytes] = problem_event,
    ) -> None:
        """Answer an ASGI request whose body was read; `error_event` writes what it fails with."""
        self._error_event = error_event
        self._clock = clock
        self._receive = receive
        self._send = send

    async def run(
        self,
        work: Callable[[], Awaitable[None]],
        *beside: Callable[[], Coroutine[object, object, None]],
        stopped: Problem,
        to_the_end: bool = False,
    ) -> None:
        """Answer with the events that the work writes; an error it ends with is the last one.

        Args:
            work: Writes events.
            beside: Runs as long as the work does.
            stopped: What is told where the server stops before the work is done.
            to_the_end: Whether the work goes on where the client goes away.
        """
        headers = [(b"content-type", _MEDIA_TYPE.encode())]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            async with anyio.create_task_group() as group:
                if not to_the_end:
                    group.start_soon(self._leave_with_client, group.cancel_scope)
                group.start_soon(self._keep_alive)
                for task in beside:
                    group.start_soon(task)
                try:
                    await work()
                except GatewayError as error:
                    await self.fail(error)
                group.cancel_scope.cancel()
        except anyio.get_cancelled_exc_class():
            # The server stops, and nothing runs above this task: it may end with an answer.
            await self._write(self._error_event(stopped))
        await self._write(b"", more=False)

    async def event(self, name: str, data: bytes) -> None:
        """Write an event; nothing happens where the client is gone.

        Args:
            name: What it is.
            data: JSON.
        """
        await self._write(_event(name, data))

    async def data(self, data: bytes) -> None:
        """Write an event without a name, of one line."""
        await self._write(b"data: %b\n\n" % data)

    async def fail(self, error: GatewayError, **facts: object) -> None:
        """Write an error as the last event; the facts are for the log, where nobody foresaw it."""
        problem = problem_of(error)
        if problem is None:
            get_logger().error("api.request_failed", exc_info=error, **facts)
            problem = unexpected()
        await self._write(self._error_event(problem))

    async def _keep_alive(self) -> None:
        while True:
            await self._clock.sleep(KEEP_ALIVE_S)
            await self._write(b": still here\n\n")

    async def _leave_with_client(self, scope: anyio.CancelScope) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    async def _write(self, chunk: bytes, *, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": more})
