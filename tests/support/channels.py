"""A channel that a test directs, delivery to it on a real database, and replies to deliver."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import orjson

from gateway.channels.base import Outbound, SendError
from gateway.clock import FakeClock
from gateway.delivery.delivery import Delivery
from gateway.delivery.settings import DeliverySettings
from gateway.durable.database import Database
from gateway.model import AgentId, ChatType, SessionKey, SessionSource, TurnId
from gateway.sessions.history import stamp
from gateway.sessions.key import session_key
from gateway.sessions.settings import SessionSettings
from gateway.transcripts import outbox, outbox_rows
from gateway.transcripts.inbox import InboxRow
from tests.support.state import START

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from datetime import datetime
    from pathlib import Path

    from gateway.channels.base import Receive
    from gateway.transcripts.outbox_rows import OutboxRow, OutboxState

PLATFORM = "played"


@dataclass
class PlayedChannel:
    """Shows what it is given, unless the next play says otherwise.

    A play is an error to raise, or a function that is awaited before the message is shown.
    """

    idempotent: bool = False
    account: str = "one"
    platform: str = PLATFORM
    max_text_chars: int = 4_096
    plays: list[Any] = field(default_factory=list)
    """What happens at each call, in order; then everything goes well."""
    asked: list[Outbound] = field(default_factory=list)
    shown: list[Outbound] = field(default_factory=list)
    """What people see; of an idempotent channel each delivery id once."""
    edits: bool = False
    edit_interval_s: float = 2.0
    typing_s: float = 0.0
    edited: list[tuple[float, str, str]] = field(default_factory=list)
    """When, which message, and how it reads since."""
    reads: dict[str, str] = field(default_factory=dict)
    """How each message that is shown reads now, by its id."""
    typed: list[SessionSource] = field(default_factory=list)
    """Where it was shown that an answer is made, each time."""
    now: Callable[[], float] = lambda: 0.0
    hung: anyio.Event = field(default_factory=anyio.Event)
    """Set while `hang` or `hang_shown` holds a message."""
    hanging: int = 0

    async def run(self, receive: Receive, *, ready: Callable[[], None]) -> None:
        ready()
        await anyio.sleep_forever()

    async def send(self, outbound: Outbound) -> str:
        await anyio.lowlevel.checkpoint()
        self.asked.append(outbound)
        play = self.plays.pop(0) if self.plays else None
        if isinstance(play, Exception):
            raise play
        if play is not None:
            await play(outbound)
        self.show(outbound)
        shown_id = f"id-{len(self.shown)}"
        self.reads[shown_id] = outbound.text
        return shown_id

    async def edit(self, outbound: Outbound, shown_id: str) -> None:
        await anyio.lowlevel.checkpoint()
        self.asked.append(outbound)
        play = self.plays.pop(0) if self.plays else None
        if isinstance(play, Exception):
            raise play
        if play is not None:
            await play(outbound)
        assert shown_id in self.reads
        self.edited.append((self.now(), shown_id, outbound.text))
        self.reads[shown_id] = outbound.text

    async def show_typing(self, target: SessionSource) -> None:
        await anyio.lowlevel.checkpoint()
        self.typed.append(target)

    def show(self, outbound: Outbound) -> None:
        if not self.idempotent or outbound.delivery_id not in self.ids():
            self.shown.append(outbound)

    def ids(self) -> list[str]:
        return [one.delivery_id for one in self.shown]

    def texts(self, chat: str = "") -> list[str]:
        return [one.text for one in self.shown if chat in ("", one.target.chat_id)]

    async def hang(self, _outbound: Outbound) -> None:
        """Never come back, and show nothing."""
        self.hanging += 1
        self.hung.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.hanging -= 1
            if not self.hanging:
                self.hung = anyio.Event()

    async def hang_shown(self, outbound: Outbound) -> None:
        """Show it, and never come back."""
        self.show(outbound)
        await self.hang(outbound)

    async def doubtful(self, _outbound: Outbound) -> None:
        """Show nothing, and do not know."""
        raise SendError("connection reset", retryable=True, ambiguous=True)

    async def doubtful_shown(self, outbound: Outbound) -> None:
        """Show it, and do not know."""
        self.show(outbound)
        await self.doubtful(outbound)


def busy(retry_after_s: float | None = None) -> SendError:
    return SendError("too many requests", retryable=True, retry_after_s=retry_after_s)


def refusal() -> SendError:
    return SendError("chat not found", retryable=False)


def place(chat: str = "ann", *, account: str = "one", platform: str = PLATFORM) -> SessionSource:
    return SessionSource(platform, chat, ChatType.DM, account)


def asked_in(source: SessionSource, number: int) -> InboxRow:
    """Return the row of a message whose turn is `<chat>-t<number>`."""
    key: SessionKey = session_key(source, AgentId("main"), SessionSettings())
    return InboxRow(
        turn_id=TurnId(f"{source.chat_id}-t{number}"),
        session_key=key,
        message_id=f"m{number}",
        agent=AgentId("main"),
        source=source,
        text="hello",
        reset=None,
        accepted_at=stamp(START),
    )


async def owe(
    database: Database,
    number: int,
    *,
    chat: str = "ann",
    text: str | None = None,
    at: datetime = START,
    source: SessionSource | None = None,
) -> None:
    """Commit a reply, `<chat> <number>` where no other text is given."""
    source = source or place(chat)
    row = asked_in(source, number)
    said = f"{source.chat_id} {number}" if text is None else text
    reply = orjson.dumps({"text": said}).decode()
    await database.write(lambda tx: outbox.add(tx, row, reply=reply, at=stamp(at)))


@dataclass(frozen=True)
class DeliveryBench:
    """Running delivery and what is below it."""

    database: Database
    clock: FakeClock
    delivery: Delivery
    channel: PlayedChannel

    async def owe(self, number: int, chat: str = "ann", *, text: str | None = None) -> None:
        """Commit a reply now, and tell of it as the gateway does."""
        await owe(self.database, number, chat=chat, text=text, at=self.clock.now())
        self.delivery.wake(place(chat))

    async def settle(self) -> None:
        """Wait until everything that is due is done and noted."""
        with anyio.fail_after(30):
            await self.delivery.drain()

    async def later(self, seconds: float) -> None:
        """Let time pass, and everything be done that is due then."""
        await self.clock.advance(seconds)
        await self.settle()

    async def hung(self) -> None:
        with anyio.fail_after(30):
            await self.channel.hung.wait()

    async def rows(self, state: OutboxState, **of: Any) -> list[OutboxRow]:  # noqa: ANN401 - as `page`
        return await self.database.read(lambda db: outbox_rows.page(db, state, limit=10_000, **of))

    async def ids(self, state: OutboxState) -> list[str]:
        return [row.delivery_id for row in await self.rows(state)]

    async def row(self, delivery_id: str) -> OutboxRow:
        found = await self.database.read(lambda db: outbox_rows.find(db, delivery_id))
        assert found is not None
        return found


@asynccontextmanager
async def delivering(
    path: Path,
    channel: PlayedChannel | None = None,
    *,
    clock: FakeClock | None = None,
    share: float = 1.0,
    others: Sequence[PlayedChannel] = (),
    configured: bool = True,
    kind: type[Database] = Database,
    **settings: object,
) -> AsyncGenerator[DeliveryBench]:
    """Deliver from a database; leaving is as sudden as a crash: nothing more is noted.

    Args:
        path: The database.
        channel: What is sent to.
        clock: Moves by hand.
        share: What random numbers come out.
        others: More channels.
        configured: Whether `channel` is there.
        kind: Of the database.
        settings: Of the delivery.
    """
    clock, channel = clock or FakeClock(), channel or PlayedChannel()
    async with kind.open(path, clock) as database:
        delivery = Delivery(
            database,
            clock,
            DeliverySettings.model_validate(settings),
            [*([channel] if configured else []), *others],
            lambda: share,
        )
        async with anyio.create_task_group() as tasks:
            await tasks.start(delivery.run)
            yield DeliveryBench(database, clock, delivery, channel)
            tasks.cancel_scope.cancel()
