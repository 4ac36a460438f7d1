"""The servers that turns are measured on: the gateway itself, and two with its HTTP side alone.

    python -m tests.bench.servers TOKEN            answers every message with an empty object
    python -m tests.bench.servers TOKEN FOLDER N   keeps N sessions in one file, written whole

Both print their port.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread
import orjson
from starlette.responses import Response
from starlette.routing import Route, Router

from gateway.api.guard import Guard
from gateway.api.server import bind, serve
from gateway.api.settings import HttpSettings
from gateway.clock import SystemClock
from gateway.model import AgentId, SessionSource
from gateway.sessions.key import session_key
from gateway.sessions.settings import SessionSettings
from tests.bench.baselines import WholeFile

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from starlette.requests import Request

TOKEN: Final = "bench-token-bench-token"
STOP_S: Final = 60.0


@contextmanager
def gateway(state: Path) -> Generator[int]:
    """Run the daemon on a state directory and yield its port once it is ready."""
    token = state / "token"
    token.write_text(TOKEN, encoding="ascii")
    token.chmod(0o600)
    command = [sys.executable, "-m", "gateway", "run", "--state-dir", str(state), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        log = process.stdout
        with _stopped(process):
            for line in log:
                if b'"gateway.ready"' in line:
                    break
            else:
                raise RuntimeError("the gateway did not start")
            # Its log must not fill the pipe; journald would take it as well.
            drain = threading.Thread(target=lambda: sum(map(len, log)))
            drain.start()
            yield int(orjson.loads(line)["port"])
        drain.join()


@contextmanager
def plain(*arguments: str) -> Generator[int]:
    """Run a server of this module and yield its port once it is ready."""
    command = [sys.executable, "-m", "tests.bench.servers", TOKEN, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process, _stopped(process):
        assert process.stdout is not None
        yield int(process.stdout.readline())


@contextmanager
def _stopped(process: subprocess.Popen[bytes]) -> Generator[None]:
    try:
        yield
    finally:
        process.terminate()
        process.wait(STOP_S)


async def _empty(request: Request) -> Response:
    await request.body()
    return Response(b"{}", media_type="application/json")


def _whole_file(folder: Path, entries: int) -> Callable[[Request], Awaitable[Response]]:
    """Return a handler that takes a turn in memory and then writes all sessions to their file."""
    sessions, writing = WholeFile(folder, entries), anyio.Lock()

    async def handle(request: Request) -> Response:
        message = orjson.loads(await request.body())
        source = SessionSource("http", message["chat_id"])
        key = session_key(source, AgentId("main"), SessionSettings())
        async with writing:
            await anyio.to_thread.run_sync(sessions.add, key)
        reply = {"session_key": key, "text": message["text"], "status": "ok"}
        return Response(orjson.dumps(reply), media_type="application/json")

    return handle


async def main(*arguments: str) -> None:
    """Serve until the process is ended."""
    token, *kept = arguments
    handler = _whole_file(Path(kept[0]), int(kept[1])) if kept else _empty
    settings = HttpSettings(port=0)
    router = Router([Route("/v1/messages", handler, methods=["POST"])])
    app = Guard(router, settings, token, SystemClock())
    listener = bind(settings)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    await serve(app, settings, sockets=[listener], stop=anyio.Event(), grace_s=1)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:], backend_options={"use_uvloop": True})
