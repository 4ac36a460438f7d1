"""Names that nobody answers: they hold up no other name, no start of a thread each, and no end."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

from gateway.daemon.looking_up import MAX_LOOK_UPS, EventLoop
from tests.support.daemon import START_S, started_daemon
from tests.support.lacking import lack
from tests.support.webhooks import OTHER_SECRET, SECRET, Receiver

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from pathlib import Path

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))]


class Resolver:
    """Stands in for the system's: names hang, or are unknown, if they begin so; or are known."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.threads: dict[str, threading.Thread] = {}
        self.was_asked = threading.Event()
        self.let_go = threading.Event()

    def __call__(self, host: bytes, *_: object) -> list[Any]:
        name = host.decode()
        self.asked.append(name)
        self.threads[name] = threading.current_thread()
        self.was_asked.set()
        if name.startswith("hangs"):
            self.let_go.wait()
        if name.startswith("unknown"):
            raise socket.gaierror(socket.EAI_NONAME, "unknown")

        return FOUND


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Generator[Resolver]:
    resolver = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    yield resolver
    resolver.let_go.set()
    for thread in resolver.threads.values():
        thread.join()


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with anyio.fail_after(30):
            await work()

    anyio.run(bounded, backend_options={"loop_factory": EventLoop})


async def found(name: str) -> object:
    """Return what asking for a name comes to."""
    try:
        return [one[-1] for one in await anyio.getaddrinfo(name, 80)]
    except OSError as error:
        return error.errno


def test_names_that_nobody_answers_hold_up_no_other_and_no_end(resolver: Resolver) -> None:
    told: list[object] = []

    async def work() -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(MAX_LOOK_UPS - 1):
                tasks.start_soon(found, f"hangs{number}")
            await anyio.wait_all_tasks_blocked()
            told.append(await found("fine"))
            tasks.cancel_scope.cancel()

    run(work)
    resolver.threads["fine"].join()
    left = [one for one in threading.enumerate() if one.name == "look-up"]

    assert told == [[("192.0.2.1", 80)]]
    # The interpreter waits for threads at its end, but not for these.
    assert len(left) == MAX_LOOK_UPS - 1
    assert all(one.daemon for one in left)


def test_however_many_ask_a_name_is_looked_up_once_at_a_time(resolver: Resolver) -> None:
    told: list[object] = []

    async def ask(scope: anyio.CancelScope) -> None:
        with scope:
            told.append(await found("hangs"))

    async def work() -> None:
        scopes = [anyio.CancelScope() for _ in range(5)]
        async with anyio.create_task_group() as tasks:
            for scope in scopes:
                tasks.start_soon(ask, scope)
            await anyio.wait_all_tasks_blocked()
            # Who asked first gives up, and the others go on waiting.
            for scope in scopes[:2]:
                scope.cancel()
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(ask, anyio.CancelScope())
            await anyio.wait_all_tasks_blocked()
            await anyio.to_thread.run_sync(resolver.was_asked.wait)
            assert resolver.asked == ["hangs"]
            resolver.let_go.set()
        await found("hangs")

    run(work)

    assert told == [[("192.0.2.1", 80)]] * 4
    assert resolver.asked == ["hangs"] * 2


def test_too_many_look_ups_are_refused_until_one_ends(resolver: Resolver) -> None:
    told: list[object] = []

    async def work() -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(MAX_LOOK_UPS):
                tasks.start_soon(found, f"hangs{number}")
            await anyio.wait_all_tasks_blocked()
            told.append(await found("fine"))
            resolver.let_go.set()
        told.append(await found("fine"))

    run(work)

    assert told == [socket.EAI_AGAIN, [("192.0.2.1", 80)]]


def test_who_asks_for_a_name_that_is_unknown_is_told(resolver: Resolver) -> None:
    told: list[object] = []

    async def ask() -> None:
        told.append(await found("unknown"))

    async def work() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(ask)
        assert await found("fine") == [("192.0.2.1", 80)]

    run(work)

    assert told == [socket.EAI_NONAME] * 3


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_an_address_is_not_looked_up(resolver: Resolver, address: str) -> None:
    async def work() -> None:
        for host in (address, address.encode()):
            answers = await anyio.getaddrinfo(host, 80, type=socket.SOCK_STREAM)
            assert [one[-1] for one in answers] == [(address, 80)]

    run(work)

    assert resolver.asked == []


@contextmanager
def silent_name_server(folder: Path) -> Generator[tuple[socket.socket, list[str]]]:
    """Yield a name server that answers nothing, and what runs a program that asks it.

    The program's own resolver waits 30 s for it.
    """
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-m", "true"], check=False).returncode:
        lack("unshare may not give a program mounts of its own, for a name server that is silent")

    address = f"127.83.{os.getpid() // 250 % 250}.{os.getpid() % 250}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        try:
            server.bind((address, 53))
        except PermissionError:
            lack("no name server may listen here, on port 53")
        file = folder / "resolv.conf"
        file.write_text(f"nameserver {address}\noptions timeout:30 attempts:1\n")
        script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        yield server, [unshare, "-m", "sh", "-c", script, str(file)]


async def test_a_webhook_whose_name_nobody_answers_holds_up_no_other_and_no_stop(
    tmp_path: Path,
) -> None:
    well = Receiver(OTHER_SECRET)
    config = ""
    for name, secret, url, event in (
        ("dead", SECRET, "https://dead.example/in", "turn.completed"),
        ("well", OTHER_SECRET, f"http://localhost:{well.port}/in", "session.reset"),
    ):
        file = tmp_path / name
        file.write_text(secret)
        file.chmod(0o600)
        config += f'[[webhooks]]\nname = "{name}"\nurl = "{url}"\nevents = ["{event}"]\n'
        config += f'secret = {{ file = "{file}" }}\n'
    with silent_name_server(tmp_path) as (server, tracer):
        async with (
            well.serving(),
            started_daemon(tmp_path / "state", config, tracer=tracer) as started,
            started.ready() as daemon,
        ):
            keys = [(await daemon.say(text))["session_key"] for text in ("one", "two", "three")]
            with anyio.fail_after(START_S):
                await anyio.wait_readable(server)
            await daemon.post(f"/v1/sessions/{keys[0]}/reset")
            await well.until(lambda: well.posts)
            assert await daemon.terminate() == 0

    assert well.types == ["session.reset"]
