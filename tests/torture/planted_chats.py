"""Daemons that kill themselves at a place once, with a bug on purpose or without one.

    python -m tests.torture.planted_chats NAME PYTHON -m gateway ARGUMENTS...

`NAME` is one of `PLACES`, or one of `BUGS`, each of which the laws of chats must find.
"""

from __future__ import annotations

import asyncio
import os
import runpy
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.channels.base import Receipt
from gateway.channels.loopback.channel import LoopbackChannel
from gateway.commands.carrying_out import Effect
from gateway.commands.door import Door
from gateway.model import TurnId
from gateway.transcripts import inbox, outbox_changes, outbox_rows
from gateway.transcripts.outbox_rows import OutboxState, Repeat
from gateway.turns import commit, runner
from gateway.turns.pipeline import Turns
from tests.torture.laws import Law

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from gateway.channels.base import Outbound
    from gateway.durable.batch import Queries, Transaction
    from gateway.durable.database import Database
    from gateway.model import Inbound, SessionKey
    from gateway.sessions.entry import SessionEntry
    from gateway.sessions.store import SessionStore
    from gateway.transcripts.outbox_rows import OutboxRow
    from gateway.turns.commit import Committed, OnCommit, TurnCommit
    from gateway.turns.ticket import Reply, Ticket

HIT: Final = Path("hit")
"""There once a daemon has killed itself, beside its state directory."""


def die_once() -> None:
    """End this process as a power cut would, unless one of its state directory has before."""
    if not HIT.exists():
        HIT.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def before_the_stop() -> None:
    """Die where `/stop` was received, while a turn runs and others wait."""
    take = Door._take  # noqa: SLF001 - a step of its own

    async def dying(self: Door, inbound: Inbound, *rest: object) -> Ticket:
        if inbound.text == "/stop":
            die_once()
        return await take(self, inbound, *rest)  # type: ignore[arg-type]

    Door._take = dying  # type: ignore[method-assign,assignment]  # noqa: SLF001


def before_the_send() -> None:
    """Die between the note of a try and the try."""
    send = LoopbackChannel.send

    async def dying(self: LoopbackChannel, outbound: Outbound) -> str:
        die_once()
        return await send(self, outbound)

    LoopbackChannel.send = dying  # type: ignore[method-assign]


def after_the_send() -> None:
    """Die between a try and the note of what became of it."""
    send = LoopbackChannel.send

    async def dying(self: LoopbackChannel, outbound: Outbound) -> str:
        shown_as = await send(self, outbound)
        die_once()
        return shown_as

    LoopbackChannel.send = dying  # type: ignore[method-assign]


def before_the_commit() -> None:
    """Die between the end of a turn of the HTTP API and its commit."""
    commit_turn = commit.commit_turn

    async def dying(
        database: Database, store: SessionStore, turn: TurnCommit, on_commit: OnCommit | None = None
    ) -> Committed:
        if turn.row.source.platform == "http":
            die_once()
        return await commit_turn(database, store, turn, on_commit)

    runner.commit_turn = dying  # type: ignore[attr-defined]


def amid_the_command() -> None:
    """Die between the decision what `/new` does and its commit."""
    _around_commands(apart=False)


def acknowledges_first() -> None:
    """A message is acknowledged, and stored a moment later."""
    receive = Door.receive
    running: set[object] = set()

    async def wrong(self: Door, inbound: Inbound) -> Receipt:
        loop = asyncio.get_running_loop()

        def later() -> None:
            die_once()
            running.add(loop.create_task(receive(self, inbound)))

        loop.call_later(0.1, later)
        return Receipt()

    Door.receive = wrong  # type: ignore[method-assign]


def marks_first() -> None:
    """A reply is marked as sent, and then sent."""

    def wrong(
        transaction: Transaction,
        row: OutboxRow,
        *,
        repeat: Repeat,
        at: datetime,
        shown_id: str = "",
    ) -> None:
        del repeat, shown_id
        chars = len(row.text)
        outbox_changes.note_sent(transaction, row, chars=chars, platform_id="", at=at)

    outbox_changes.note_sending = wrong
    before_the_send()


def forgets_tries() -> None:
    """That a reply is about to be sent is not noted."""

    def wrong(
        transaction: Transaction,
        row: OutboxRow,
        *,
        repeat: Repeat,
        at: datetime,
        shown_id: str = "",
    ) -> None:
        del transaction, row, repeat, at, shown_id

    outbox_changes.note_sending = wrong
    after_the_send()


def sends_the_latest_first() -> None:
    """Of what is owed to a chat the latest goes first."""
    before_the_send()
    first_owed = outbox_rows.first_owed

    def wrong(place: Queries, chat: str) -> OutboxRow | None:
        if first_owed(place, chat) is None:
            return None

        owed = outbox_rows.page(place, OutboxState.OWED, limit=99)
        return [row for row in owed if row.chat == chat][-1]

    outbox_rows.first_owed = wrong


def runs_twice() -> None:
    """What is found unanswered at a start is run, and once more as a message of its own."""
    before_the_stop()
    load = Turns.load_unanswered

    async def wrong(self: Turns) -> None:
        await load(self)
        for row in await self._database.read(inbox.unfinished):
            again = f"again-{row.turn_id}"
            if row.source.chat_id == "bob":  # nobody would end Ann's
                self._owed.admit(replace(row, turn_id=TurnId(again), message_id=again))

    Turns.load_unanswered = wrong  # type: ignore[method-assign]


def commands_apart() -> None:
    """What a command does is committed, and then its answer."""
    _around_commands(apart=True)


def touches() -> None:
    """A turn counts as a use of its session when it ends."""
    before_the_commit()

    def wrong(entry: SessionEntry, turn: TurnCommit) -> datetime:
        del entry
        return turn.at

    commit._used_at = wrong  # noqa: SLF001 - a step of its own


def _around_commands(*, apart: bool) -> None:
    stored = Door._stored  # noqa: SLF001 - a step of its own

    async def dying(
        self: Door, inbound: Inbound, agent: str, key: SessionKey, turn_id: TurnId, effect: Effect
    ) -> Reply | None:
        if apart:
            text = await self._database.write_through(effect.stage)
            effect = Effect(lambda _: text, effect.after)
        if inbound.text == "/new":
            die_once()
        return await stored(self, inbound, agent, key, turn_id, effect)  # type: ignore[arg-type]

    Door._stored = dying  # type: ignore[method-assign]  # noqa: SLF001


PLACES: Final[Mapping[str, Callable[[], None]]] = {
    one.__name__: one
    for one in (
        *(before_the_stop, before_the_send, after_the_send),
        *(before_the_commit, amid_the_command),
    )
}
BUGS: Final[Mapping[str, tuple[Callable[[], None], Law]]] = {
    one.__name__: (one, law)
    for one, law in (
        (acknowledges_first, Law.LOST),
        (marks_first, Law.UNSHOWN),
        (forgets_tries, Law.REPEATED),
        (sends_the_latest_first, Law.ORDER),
        (runs_twice, Law.TWICE),
        (commands_apart, Law.COMMAND),
        (touches, Law.TOUCHED),
    )
}
"""Each with the law that it breaks."""


def plant(name: str) -> tuple[str, ...]:
    """Return what stands before the command of a daemon."""
    return (sys.executable, "-m", "tests.torture.planted_chats", name)


if __name__ == "__main__":
    name, _python, _option, *sys.argv = sys.argv[1:]
    (PLACES[name] if name in PLACES else BUGS[name][0])()
    runpy.run_module("gateway", run_name="__main__", alter_sys=True)
