"""The loopback channel: a Unix socket that speaks JSON lines.

A bridge or a script of one's own is the platform: any client hands messages in, and one of them,
the one that said `{"serve": true}`, shows what is sent. Whoever can open the socket speaks for
every user: its mode is 0600, and it stands in the state directory unless told otherwise.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

from gateway.channels.base import ChannelError, NotConnectedError, SendError
from gateway.channels.fields import FieldError
from gateway.channels.loopback.wire import (
    Delivered,
    Failed,
    Serve,
    delivery_line,
    edit_line,
    error_line,
    message_id_of,
    read_line,
    receipt_line,
    retry_line,
    typing_line,
)
from gateway.errors import GatewayError, UnavailableError
from gateway.log import get_logger
from gateway.model import Inbound

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from anyio.abc import SocketListener, SocketStream
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from gateway.channels.base import Outbound, Receive
    from gateway.channels.loopback.wire import Line
    from gateway.channels.settings import LoopbackSettings
    from gateway.clock import Clock
    from gateway.model import SessionSource

PLATFORM: Final = "loopback"
MAX_PATH_BYTES: Final = 107
"""The longest path that Linux takes for a socket."""
TYPING_S: Final = 5.0
"""For how long a client shows that an answer is being made."""
MAX_WAITING: Final = 32
"""Messages of a client that wait to be handed over; while there are as many, none is read."""
_NOT_STORED: Final = "the gateway cannot store it at the moment"
_CLOSED: Final = "the gateway is stopping, and takes no messages"
_GONE: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError)
_MODE: Final = 0o600


@dataclass(slots=True)
class _Answer:
    """What becomes of a delivery that a client has got."""

    outcome: Delivered | SendError | None = None
    came: anyio.Event = field(default_factory=anyio.Event)

    def settle(self, outcome: Delivered | SendError) -> None:
        self.outcome = self.outcome or outcome
        self.came.set()


class _Client:
    """One connection."""

    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream
        self._writing = anyio.Lock()
        self._broken = False
        self.answers: dict[str, _Answer] = {}
        """Deliveries that it has not answered, by id."""

    async def write(self, line: bytes) -> None:
        """Write a line whole, or never another one.

        Raises:
            BrokenResourceError: the client is gone, or has got a part of a line.
        """
        async with self._writing:
            if self._broken:
                raise anyio.BrokenResourceError

            self._broken = True
            try:
                await self._stream.send(line)
                self._broken = False
            finally:
                if self._broken:
                    with anyio.CancelScope(shield=True):
                        await anyio.aclose_forcefully(self._stream)

    async def deliver(self, delivery_id: str, line: bytes) -> _Answer:
        """Hand over a delivery, or a change of one."""
        answer = self.answers[delivery_id] = _Answer()
        await self.write(line)
        return answer

    def gone(self) -> None:
        """Settle what it will not answer any more."""
        for answer in self.answers.values():
            answer.settle(SendError("the client is gone", retryable=True, ambiguous=True))


class LoopbackChannel:
    """One socket."""

    platform = PLATFORM

    def __init__(
        self, account: str, settings: LoopbackSettings, state_dir: Path, clock: Clock
    ) -> None:
        """Take the settings of an account; nothing is opened before `run`."""
        self.account = account
        self.path = settings.path or state_dir / f"{account}.sock"
        self._settings = settings
        self._clock = clock
        self._clients: set[_Client] = set()
        self._server: _Client | None = None
        """The client that shows what is sent."""

    @property
    def idempotent(self) -> bool:
        """Whether its client shows the same delivery id once."""
        return self._settings.idempotent

    @property
    def max_text_chars(self) -> int:
        """The longest text of one delivery."""
        return self._settings.max_text_chars

    @property
    def edits(self) -> bool:
        """Whether its client changes what it shows."""
        return self._settings.edits

    @property
    def edit_interval_s(self) -> float:
        """The shortest time between two changes in one chat."""
        return self._settings.edit_interval_s

    @property
    def typing_s(self) -> float:
        """For how long its client is to show that an answer is being made."""
        return TYPING_S if self._settings.typing else 0.0

    async def run(self, receive: Receive, *, ready: Callable[[], None]) -> None:
        """Take messages from clients until cancelled; see `Channel.run`."""
        async with _listening(self.path) as listener:
            ready()
            await listener.serve(partial(self._serve, receive, ready))

    async def send(self, outbound: Outbound) -> str:
        """Have the serving client show a message; see `Channel.send`."""
        return await self._delivered(outbound.delivery_id, delivery_line(outbound))

    async def edit(self, outbound: Outbound, shown_id: str) -> None:
        """Have the serving client change what it shows; see `Channel.edit`."""
        await self._delivered(outbound.delivery_id, edit_line(outbound, shown_id))

    async def show_typing(self, target: SessionSource) -> None:
        """Tell the serving client, if there is one; see `Channel.show_typing`."""
        client = self._server
        if client is not None and self._settings.typing:
            with suppress(*_GONE), self._clock.move_on_after(self._settings.answer_timeout_s):
                await client.write(typing_line(target))

    async def _delivered(self, delivery_id: str, line: bytes) -> str:
        """Hand a line to the serving client; return the id it answers with."""
        client = self._server
        if client is None:
            raise NotConnectedError("no client serves")

        try:
            with self._clock.move_on_after(self._settings.answer_timeout_s):
                try:
                    answer = await client.deliver(delivery_id, line)
                except _GONE:
                    # Its line has not got its end: it was not read.
                    raise NotConnectedError("the client is gone") from None
                await answer.came.wait()
                return _platform_id(answer)
        finally:
            client.answers.pop(delivery_id, None)
        raise SendError(
            f"the client gave no answer within {self._settings.answer_timeout_s:g} seconds",
            retryable=True,
            ambiguous=True,
        )

    async def _serve(
        self, receive: Receive, ready: Callable[[], None], stream: SocketStream
    ) -> None:
        """Read a client's lines until it is gone; no line of it ends more than its connection."""
        client = _Client(stream)
        try:
            async with stream:
                if len(self._clients) >= self._settings.max_connections:
                    await client.write(error_line("too many clients are connected"))
                    return

                self._clients.add(client)
                await self._serve_client(receive, ready, client, stream)
        except _GONE:
            return
        finally:
            self._clients.discard(client)

    async def _serve_client(
        self, receive: Receive, ready: Callable[[], None], client: _Client, stream: SocketStream
    ) -> None:
        handing, waiting = anyio.create_memory_object_stream[Inbound](MAX_WAITING)
        async with anyio.create_task_group() as tasks:
            # Beside the reading, so that a message that takes long holds up no answer.
            tasks.start_soon(_hand_over_all, receive, client, waiting)
            try:
                async with handing:
                    lines = BufferedByteReceiveStream(stream)
                    await self._read(ready, client, lines, handing)
            except _GONE:
                return  # what waits is handed over still; that nobody hears of it ends it
            finally:
                self._stop_serving(client)
                client.gone()

    async def _read(
        self,
        ready: Callable[[], None],
        client: _Client,
        lines: BufferedByteReceiveStream,
        handing: MemoryObjectSendStream[Inbound],
    ) -> None:
        most = self._settings.max_line_bytes
        while True:
            try:
                line = await lines.receive_until(b"\n", most)
            except anyio.DelimiterNotFound:
                await client.write(error_line(f"longer than {most} bytes; the connection ends"))
                return
            except (anyio.IncompleteRead, anyio.EndOfStream):
                return

            if line.strip():
                await self._take(ready, client, line, handing)

    async def _take(
        self,
        ready: Callable[[], None],
        client: _Client,
        line: bytes,
        handing: MemoryObjectSendStream[Inbound],
    ) -> None:
        try:
            said: Line = read_line(line, platform=self.platform, account=self.account)
        except FieldError as error:
            await client.write(error_line(str(error), message_id_of(line)))
            return

        match said:
            case Serve():
                await self._change_server(client, ready, wanted=said.wanted)
            case Delivered():
                _settle(client, said.delivery_id, said)
            case Failed():
                _settle(client, said.delivery_id, _failure(said))
            case _:
                await handing.send(said)

    async def _change_server(
        self, client: _Client, ready: Callable[[], None], *, wanted: bool
    ) -> None:
        if not wanted:
            self._stop_serving(client)
            await client.write(b'{"serving":false}\n')
        elif self._server in (None, client):
            await client.write(b'{"serving":true}\n')
            self._server = client
            ready()
        else:
            await client.write(error_line("another client serves"))

    def _stop_serving(self, client: _Client) -> None:
        if self._server is client:
            self._server = None


async def _hand_over_all(
    receive: Receive, client: _Client, waiting: MemoryObjectReceiveStream[Inbound]
) -> None:
    """Hand over the messages of a client in their order, until there are no more or it is gone."""
    async with waiting:
        async for message in waiting:
            try:
                await client.write(await _handed_over(receive, message))
            except _GONE:
                return


async def _handed_over(receive: Receive, message: Inbound) -> bytes:
    """Hand a message to the gateway; return what its client is told."""
    try:
        receipt = await receive(message)
    except GatewayError as error:
        get_logger().warning(
            "channel.message_not_stored", platform=PLATFORM, kind=type(error).__name__
        )
        stops = isinstance(error, UnavailableError)
        return retry_line(message.message_id, _CLOSED if stops else _NOT_STORED)
    return receipt_line(message.message_id, receipt)


def _settle(client: _Client, delivery_id: str, outcome: Delivered | SendError) -> None:
    # One that comes too late, or twice, says nothing new.
    answer = client.answers.get(delivery_id)
    if answer is not None:
        answer.settle(outcome)


def _failure(said: Failed) -> SendError:
    return SendError(
        said.error or "the client gave no reason",
        retryable=said.retryable,
        retry_after_s=said.retry_after_s,
    )


def _platform_id(answer: _Answer) -> str:
    if isinstance(answer.outcome, Delivered):
        return answer.outcome.platform_id

    raise answer.outcome or AssertionError


@asynccontextmanager
async def _listening(path: Path) -> AsyncGenerator[SocketListener]:
    """Listen at a path, which is there for that long.

    Raises:
        ChannelError: the path cannot be used, or somebody listens there.
    """
    async with AsyncExitStack() as stack:
        try:
            _clear(path)
            listener = await anyio.create_unix_listener(path, mode=_MODE)
        except OSError as error:
            raise ChannelError(f"{path}: {error.strerror or error}") from error
        stack.callback(_remove, path)
        await stack.enter_async_context(listener)
        yield listener


def _clear(path: Path) -> None:
    """Make room for a socket: one that nobody listens on any more goes."""
    length = len(os.fsencode(path))
    if length > MAX_PATH_BYTES:
        raise ChannelError(
            f"{path}: has {length} bytes, a socket takes {MAX_PATH_BYTES}; give a shorter path"
        )

    try:
        mode = path.stat(follow_symlinks=False).st_mode
    except FileNotFoundError:
        return

    if not stat.S_ISSOCK(mode):
        raise ChannelError(f"{path}: is there and is no socket")

    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # noqa: FBT003 - as the standard library has it
        with suppress(ConnectionRefusedError):
            probe.connect(str(path))
            raise ChannelError(f"{path}: another program listens there")


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
