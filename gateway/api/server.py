"""Serving the API on a socket, until it is told to stop.

uvicorn in a task of ours: it binds nothing, catches no signal, writes no log of its own and trusts
no proxy header. Knows nothing of what the app does.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
import uvicorn
from typing_extensions import override

from gateway.api.protocol import BoundedProtocol, ConnectionLimits
from gateway.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from starlette.types import ASGIApp

    from gateway.api.settings import HttpSettings

BACKLOG: Final = 2_048
KEEP_ALIVE_S: Final = 5
"""How long an idle connection stays open."""
DATE_INTERVAL_S: Final = 1.0
LAST_RESORT_S: Final = 5
"""How much longer than the grace time uvicorn waits before it breaks off what is left."""
_HEADERS: Final = [("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")]


class _Server(uvicorn.Server):
    """uvicorn without its hand on the signals, and without its ten looks a second."""

    def __init__(self, config: uvicorn.Config, stop: anyio.Event) -> None:
        super().__init__(config)
        self._stop = stop

    @override
    async def main_loop(self) -> None:
        # Each tick writes the Date header anew.
        while not await self.on_tick(0):
            with anyio.move_on_after(DATE_INTERVAL_S):
                await self._stop.wait()
                self.should_exit = True

    @contextmanager
    @override
    def capture_signals(self) -> Generator[None]:
        yield


def bind(settings: HttpSettings) -> socket.socket:
    """Return a listening socket; connections wait in it until `serve` runs.

    Raises:
        UnavailableError: the address or the port is not to be had.
    """
    place = f"{settings.host}:{settings.port}"
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
        # `localhost` may mean both families; IPv4 is what the other addresses here are.
        family, kind, protocol, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as exc:
        raise UnavailableError(f"{place}: no such address: {exc}") from exc

    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as exc:
        listener.close()
        raise UnavailableError(
            f"{place}: cannot listen there: {exc.strerror}; "
            "choose another place with --port and --host, or port and host of [http]"
        ) from exc

    listener.settimeout(0)
    return listener


def url_of(listener: socket.socket) -> str:
    """Return where a socket is reached."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve(
    app: ASGIApp,
    settings: HttpSettings,
    *,
    sockets: Sequence[socket.socket],
    stop: anyio.Event,
    grace_s: float = 15.0,
) -> None:
    """Serve until `stop` is set, then let running requests end.

    Args:
        app: What answers; it never sees WebSockets or a lifespan.
        settings: The bounds.
        sockets: Bound ones, which this closes.
        stop: Ends it.
        grace_s: How long running requests may go on; what is left then is cancelled, and answers
            that the gateway stops.

    Cancellation: connections are cut.
    """
    server = _Server(_config(app, settings, grace_s), stop)
    timer: asyncio.TimerHandle | None = None
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(server.serve, list(sockets))
            await stop.wait()
            timer = asyncio.get_running_loop().call_later(grace_s, _end_requests, server)
    finally:
        if timer is not None:
            timer.cancel()
        _end_requests(server)
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        for listener in sockets:
            listener.close()


def _config(app: ASGIApp, settings: HttpSettings, grace_s: float) -> uvicorn.Config:
    limits = ConnectionLimits(
        settings.max_connections,
        header_timeout_s=min(settings.header_timeout_s, settings.request_timeout_s),
    )
    return uvicorn.Config(
        app,
        interface="asgi3",
        http=partial(BoundedProtocol, limits=limits),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        headers=_HEADERS,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(grace_s) + LAST_RESORT_S,
    )


def _end_requests(server: uvicorn.Server) -> None:
    for task in list(server.server_state.tasks):
        task.cancel()
