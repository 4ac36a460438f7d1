"""A fixed small life of a daemon: messages, a prune with its snapshot, resets, and a clean stop."""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from tests.support.daemon import NeverReadyError
from tests.torture.clients import Caller
from tests.torture.history import Kind, Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.daemon import Started
    from tests.torture.ordeal import Ordeal

CONFIG: Final = "[store]\nsnapshot_interval_s = 3600\n[turns]\ngrace_s = 1\n"
"""Snapshots come with the start, the prune and the stop only, so each run is like the other."""


async def play(ordeal: Ordeal, started: Started, *, name: str = "c1", erasing: bool = True) -> None:
    """Live until the stop, or until the daemon is hit."""
    try:
        async with started.ready() as daemon:
            if await act(Caller(name, ordeal.history, daemon), erasing=erasing):
                # A daemon that was hit late may have ended after its last answer.
                with suppress(ProcessLookupError):
                    daemon.signal(signal.SIGTERM)
    except NeverReadyError:
        return


async def act(caller: Caller, *, erasing: bool = True) -> bool:
    """Ask for all there is to ask for; False as soon as no answer comes.

    An erasure rewrites the database: half of all writes are its.
    """
    alice, bob = f"{caller.name}-alice", f"{caller.name}-bob"
    steps: list[Callable[[], Awaitable[Outcome | None]]] = [
        lambda: caller.say(alice, "one", "m1"),
        lambda: caller.say(bob, "two"),
        lambda: caller.change(Kind.SUSPEND, bob),
        caller.prune,
        lambda: caller.say(alice, "three", "m3"),
        lambda: caller.change(Kind.RESET, alice),
        lambda: caller.change(Kind.UNDO, alice),
        lambda: caller.say(alice, "one", "m1"),
        lambda: caller.change(Kind.RESUME, bob),
        lambda: caller.say(bob, "four", "m4"),
        lambda: caller.change(Kind.REMOVE, bob),
        lambda: caller.change(Kind.ERASE if erasing else Kind.REMOVE, alice),
        lambda: caller.say(alice, "five", "m5"),
    ]
    for step in steps:
        if await step() is None:
            return False
    return True
