"""The same server with the same guard, answering every message with an empty object.

python -m tests.bench.empty TOKEN    prints the port
"""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import anyio
from starlette.responses import Response
from starlette.routing import Route, Router

from gateway.api.guard import Guard
from gateway.api.server import bind, serve
from gateway.api.settings import HttpSettings
from gateway.clock import SystemClock

if TYPE_CHECKING:
    from starlette.requests import Request


async def _empty(request: Request) -> Response:
    await request.body()
    return Response(b"{}", media_type="application/json")


async def main(token: str) -> None:
    """Serve until SIGTERM."""
    settings = HttpSettings(port=0)
    app = Guard(
        Router([Route("/v1/messages", _empty, methods=["POST"])]), settings, token, SystemClock()
    )
    listener, stop = bind(settings), anyio.Event()
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: serve(app, settings, sockets=[listener], stop=stop, grace_s=1))
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                stop.set()
                break


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], backend_options={"use_uvloop": True})
