"""The daemon from its start to its end.

Three task groups, each around the next: keepers (the watcher, the storage guard, the watchdog,
processes, delivery, webhooks), turns with the channels, intake. A stop goes the other way: no new
message, running turns get their grace, what they answered is sent, then the watcher drains, then
the store writes its last snapshot.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
from starlette.types import ASGIApp

from gateway import __version__
from gateway.api.server import bind, serve, url_of
from gateway.api.token import TOKEN, try_command
from gateway.clock import SystemClock
from gateway.config import changed_live, check_here, with_live
from gateway.daemon.looking_up import EventLoop
from gateway.daemon.parts import app_of, open_parts
from gateway.errors import (
    ConfigurationError,
    ExitCode,
    GatewayError,
    StorageBusyError,
    StorageFullError,
    gateway_errors,
)
from gateway.log import configure, get_logger
from gateway.systemd import Notifier

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine

    from gateway.config import GatewayConfig, Loaded
    from gateway.daemon.parts import Parts

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
REPLY_TIMEOUT_S: Final = 2.0
"""How long the server may go on sending replies once the turns have ended."""


@dataclass(frozen=True, slots=True)
class Offline:
    """The API of a state directory that no daemon runs on."""

    app: ASGIApp
    token: str


def run(loaded: Loaded, *, reload: Callable[[], Loaded]) -> ExitCode:
    """Run the daemon until a signal or a fatal error, and return how to exit.

    Args:
        loaded: The configuration to start with.
        reload: Reads the configuration anew, for SIGHUP.
    """
    os.umask(0o077)
    # Until the signals are watched, a reload has nothing to do; its default would end the process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    configure(loaded.config.log, sys.stdout.buffer)
    _tell(loaded)
    try:
        anyio.run(_main, loaded, reload, backend_options={"loop_factory": EventLoop})
    except GatewayError as error:
        return _failed(error)
    except BaseExceptionGroup as group:
        found = gateway_errors(group)
        if not found:
            raise

        return _failed(min(found, key=lambda error: error.exit_code))
    get_logger().info("gateway.stopped")
    return ExitCode.OK


@asynccontextmanager
async def offline(config: GatewayConfig) -> AsyncGenerator[Offline]:
    """Open a state directory under its lock, without turns, agents and watcher.

    Raises:
        AlreadyRunningError: a daemon, or another command, holds it.
    """
    async with AsyncExitStack() as stack:
        parts = await open_parts(stack, config, SystemClock(), answers=False)
        await parts.processes.look()
        await parts.turns.load_unanswered()
        yield Offline(app_of(parts, anyio.Event()), parts.token)


async def _main(loaded: Loaded, reload: Callable[[], Loaded]) -> None:
    config, clock, notifier = loaded.config, SystemClock(), Notifier(os.environ)
    # Closed last: a signal that comes while the last snapshot is written must not cut it, nor
    # change the exit code after it.
    with ExitStack() as last:
        last.callback(_ignore_signals)
        async with AsyncExitStack() as stack:
            _check_here(loaded)
            parts = await open_parts(stack, config, clock, answers=True)
            listener = bind(config.http)
            stack.callback(listener.close)
            parts.url = url_of(listener)
            await parts.processes.recover()
            await parts.turns.recover()
            spare_the_collector()
            async with anyio.create_task_group() as keepers:
                keepers.start_soon(_guard_storage, parts)
                await keepers.start(parts.watcher.run)
                keepers.start_soon(_feed_watchdog, parts, notifier)
                await keepers.start(parts.delivery.run)
                await keepers.start(parts.webhooks.run)
                await keepers.start(parts.processes.run)
                signals = last.enter_context(anyio.open_signal_receiver(*SIGNALS))
                await _serve(parts, listener, notifier, partial(_heed, signals, reload=reload))
                keepers.cancel_scope.cancel()


async def _serve(
    parts: Parts,
    listener: socket.socket,
    notifier: Notifier,
    heed: Callable[[Parts, Notifier, anyio.Event], Coroutine[object, object, None]],
) -> None:
    """Run turns and intake until a signal, then let them end in order."""
    stop, turns_ended = anyio.Event(), anyio.Event()
    grace_s = parts.config.turns.grace_s
    async with anyio.create_task_group() as turns:
        await turns.start(parts.turns.run)
        await turns.start(parts.followers.run)
        turns.start_soon(parts.channels.run, parts.door.receive, parts.delivery.reached)
        async with anyio.create_task_group() as intake:
            intake.start_soon(heed, parts, notifier, stop)
            intake.start_soon(_wind_down, parts, notifier, stop, turns_ended)
            _announce(parts, notifier)
            await serve(
                app_of(parts, stop),
                parts.config.http,
                sockets=[listener],
                stop=stop,
                # Turns that are cut off at the end of the grace still tell their clients.
                grace_s=grace_s + REPLY_TIMEOUT_S,
            )
            await turns_ended.wait()
            intake.cancel_scope.cancel()
        turns.cancel_scope.cancel()


async def _wind_down(
    parts: Parts, notifier: Notifier, stop: anyio.Event, turns_ended: anyio.Event
) -> None:
    """Once a stop is asked for, let running turns end within the grace, then end the rest."""
    await stop.wait()
    grace_s = parts.config.turns.grace_s
    parts.stopping = True
    notifier.send("STOPPING=1")
    statistics = parts.turns.statistics()
    get_logger().info(
        "gateway.stopping",
        running=statistics.running,
        waiting=statistics.waiting,
        grace_s=grace_s,
    )
    with parts.clock.move_on_after(grace_s):
        await parts.turns.drain()
    await parts.pruning.stop()
    # Channels take no message any more, and still send what is answered by now.
    await parts.delivery.drain()
    parts.turns.stop()
    turns_ended.set()


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


async def _heed(
    signals: AsyncIterator[signal.Signals],
    parts: Parts,
    notifier: Notifier,
    stop: anyio.Event,
    *,
    reload: Callable[[], Loaded],
) -> None:
    """End on SIGTERM and SIGINT, at once on the second; read the configuration anew on SIGHUP."""
    async for number in signals:
        if number == signal.SIGHUP:
            notifier.send("RELOADING=1", f"MONOTONIC_USEC={int(parts.clock.monotonic() * 1e6)}")
            _reload(parts, reload)
            notifier.send("READY=1")
        elif stop.is_set():
            parts.turns.stop()
        else:
            stop.set()


def _tell(loaded: Loaded) -> None:
    """Log what was mended in a configuration, and what does nothing in it."""
    for warning in loaded.warnings:
        get_logger().warning("config.coerced", problem=warning)
    for doubt in loaded.doubts:
        get_logger().warning("config.doubtful", problem=doubt)


def _reload(parts: Parts, reload: Callable[[], Loaded]) -> None:
    """Take what a new configuration can change live; keep the old one on any error."""
    try:
        loaded = reload()
        _check_here(loaded)
    except ConfigurationError as error:
        get_logger().error("config.rejected", problems=error.problems, kept="the old one")
        return

    _tell(loaded)
    live, restart = changed_live(parts.config, loaded.config)
    parts.reconfigure(with_live(parts.config, loaded.config))
    get_logger().info("config.reloaded", applied=live, needs_restart=restart)


async def _guard_storage(parts: Parts) -> None:
    """End the daemon once its storage has failed."""
    raise await parts.database.wait_failed()


async def _feed_watchdog(parts: Parts, notifier: Notifier) -> None:
    """Tell systemd that we live while the loop, the database's writer and the watcher do."""
    interval_s = notifier.watchdog_interval_s / 3
    while interval_s:
        # Without a time limit: an answer that comes late is still an answer. So is a refusal.
        with suppress(StorageBusyError, StorageFullError):
            await parts.database.ping()
        if parts.watcher.alive:
            notifier.send("WATCHDOG=1")
        await parts.clock.sleep(interval_s)


def spare_the_collector() -> None:
    """Let garbage collection pass by what lives as long as the daemon, and come less often.

    Source: `make bench`; with Python's own thresholds a turn took a fifth more time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


def _announce(parts: Parts, notifier: Notifier) -> None:
    parts.directory.announce(parts.url)
    notifier.send("READY=1", f"STATUS=Listening on {parts.url}")
    get_logger().info(
        "gateway.ready",
        version=__version__,
        pid=os.getpid(),
        url=parts.url,
        port=int(parts.url.rpartition(":")[2]),
        state_dir=str(parts.directory.path),
        sessions=len(parts.store),
        agents=sorted(parts.config.agents),
        unanswered=parts.turns.statistics().recovered,
    )
    if parts.config.http.token is None:
        token = parts.directory.path.absolute() / TOKEN
        get_logger().info("gateway.try", command=try_command(parts.url, token))


def _check_here(loaded: Loaded) -> None:
    problems = check_here(loaded.config, loaded.places)
    if problems:
        raise ConfigurationError(problems)


def _failed(error: GatewayError) -> ExitCode:
    if isinstance(error, ConfigurationError):
        get_logger().error("config.rejected", problems=error.problems)
    else:
        get_logger().error(
            "gateway.failed", error=str(error), kind=type(error).__name__, exit_code=error.exit_code
        )
    return error.exit_code
