"""The API on real parts and a real loopback socket, and the clients that tests talk to it with."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import httpx2
import orjson
from anyio.abc import SocketStream
from starlette.types import ASGIApp

from gateway.access.gate import Access
from gateway.access.pairing import Pairing
from gateway.access.settings import AccessSettings
from gateway.access.tokens import ClientTokens
from gateway.agents.base import (
    AgentFacts,
    Completion,
    MessageFinished,
    ModelCallFinished,
    TextDelta,
)
from gateway.agents.scripted import Reply
from gateway.api.app import build_app
from gateway.api.context import ApiContext
from gateway.api.server import bind, serve, url_of
from gateway.api.settings import HttpSettings
from gateway.clock import FakeClock
from gateway.commands.backgrounds import Backgrounds
from gateway.commands.carrying_out import Commands
from gateway.commands.door import Door
from gateway.delivery.delivery import Delivery
from gateway.delivery.settings import DeliverySettings
from gateway.errors import AgentError
from gateway.model import AgentId, Message, ModelCall, Role, Usage
from gateway.processes.registry import ProcessRegistry
from gateway.processes.settings import ProcessSettings
from gateway.retention.discarding import discard_old
from gateway.retention.pruning import ItemPruning
from gateway.retention.settings import ItemPruningSettings
from gateway.sessions.settings import SessionSettings
from gateway.turns.pipeline import Turns
from gateway.turns.settings import TurnSettings
from gateway.watcher import ExpiryWatcher, RetentionLimits
from gateway.webhooks.webhooks import Webhooks
from tests.support.state import State, open_state
from tests.support.turns import scripted

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence
    from pathlib import Path

    from gateway.agents.base import Agent, AgentEvent, Conversation
    from gateway.channels.hooks import HookedChannel
    from gateway.channels.running import ChannelStatistics
    from gateway.pruning import Summarizer
    from gateway.webhooks.settings import WebhookSettings

TOKEN: Final = "a-token-made-for-the-tests"
KEY: Final = "agent:main:http::dm:alice::"
"""The session that `message()` goes to."""


class GatedAgent:
    """Says `working`, and repeats what it got once its gate is open; `fail` makes it fail."""

    def __init__(self, clock: FakeClock) -> None:
        self.gate = anyio.Event()
        self.started = anyio.Event()
        self.summary = "They talked."
        """What it answers to the gateway's own questions."""
        self._clock = clock

    def facts(self) -> AgentFacts:
        return AgentFacts("gated", window_tokens=100_000, reserve_tokens=1_000, completes=True)

    async def run(self, conversation: Conversation) -> AsyncGenerator[AgentEvent]:
        asked = (await conversation.messages())[-1].text
        yield TextDelta("working ")
        self.started.set()
        await self.gate.wait()
        if asked == "fail":
            raise AgentError("as asked", user_text="I cannot.")

        yield TextDelta(asked)
        usage = Usage(input_tokens=7, output_tokens=3)
        yield ModelCallFinished(ModelCall("gated", self._clock.now(), usage))
        yield MessageFinished(Message(Role.ASSISTANT, f"working {asked}"))

    async def complete(self, messages: Sequence[Message], *, cache_key: str = "") -> Completion:
        usage = Usage(input_tokens=len(messages), output_tokens=3)
        return Completion(self.summary, ModelCall("gated", self._clock.now(), usage))

    async def aclose(self) -> None:
        return


@dataclass(slots=True)
class RunningApi:
    """A served API and what is behind it."""

    state: State
    turns: Turns
    pairing: Pairing
    processes: ProcessRegistry
    pruning: ItemPruning
    clock: FakeClock
    agent: GatedAgent
    app: ASGIApp
    url: str
    client: httpx2.AsyncClient
    """Sends the right token."""
    stop: anyio.Event
    webhooks: Webhooks
    """Not running."""
    door: Door
    served: anyio.Event = field(default_factory=anyio.Event)
    """Set once the server has ended."""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def connect(self, sent: bytes = b"") -> SocketStream:
        """Open a raw connection; what is sent is there before the server sees it."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.sendall(sent)
        return await SocketStream.from_socket(connection)

    async def post(self, path: str, body: object = None, *, accept: str = "*/*") -> httpx2.Response:
        """Post JSON, or nothing at all."""
        content = None if body is None else orjson.dumps(body)
        headers = {"Content-Type": "application/json", "Accept": accept}
        return await self.client.post(path, content=content, headers=headers)

    def head(self, method: str, path: str, *more: str) -> bytes:
        """Return the head of a request with the right token, to be sent raw."""
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: 127.0.0.1:{self.port}",
            f"Authorization: Bearer {TOKEN}",
            *more,
        ]
        return "\r\n".join([*lines, "", ""]).encode()


@asynccontextmanager
async def running_api(
    tmp_path: Path,
    *,
    http: Mapping[str, object] | None = None,
    turns: Mapping[str, object] | None = None,
    limits: RetentionLimits | None = None,
    processes: Mapping[str, object] | None = None,
    pruning: Mapping[str, object] | None = None,
    summarizer: Summarizer | None = None,
    grace_s: float = 5.0,
    gate_open: bool = True,
    channels: Sequence[ChannelStatistics] = (),
    agents: Mapping[AgentId, Agent] | None = None,
    hooks: Sequence[HookedChannel] = (),
    webhooks: Sequence[WebhookSettings] = (),
) -> AsyncGenerator[RunningApi]:
    """Serve the API of a state directory on a free port.

    Agents: `main` is a `GatedAgent`, `chunks` answers in three pieces; `agents` are more.
    """
    clock = FakeClock()
    settings = HttpSettings.model_validate({"port": 0, **(http or {})})
    agent = GatedAgent(clock)
    if gate_open:
        agent.gate.set()
    async with open_state(tmp_path / "state", clock) as state, anyio.create_task_group() as group:
        pipeline = _turns(state, {AgentId("main"): agent, **(agents or {})}, clock, turns or {})
        await group.start(pipeline.run)
        stop, listener = anyio.Event(), bind(settings)
        kept = limits or RetentionLimits(90.0, 0)
        pairing = await Pairing.load(state.database, clock)
        discard = partial(discard_old, state.database, clock, pairing)
        delivery = Delivery(state.database, clock, DeliverySettings(), [])
        chosen = ProcessSettings.model_validate(processes or {})
        registry = ProcessRegistry(state.database, clock, chosen, state.path)
        await registry.recover()
        await group.start(registry.run)
        items = _pruning(state, clock, pruning or {}, summarizer)
        access = Access(AccessSettings(), pairing, clock)
        backgrounds = Backgrounds(registry, state.store, pipeline, clock)
        commands = Commands(state.database, state.store, pipeline, backgrounds, clock)
        context = ApiContext(
            door=Door(state.database, state.store, pipeline, access, commands, clock),
            turns=pipeline,
            store=state.store,
            database=state.database,
            watcher=ExpiryWatcher(state.store, state.database, clock, kept, discard),
            pairing=pairing,
            delivery=delivery,
            webhooks=Webhooks(state.database, clock, webhooks),
            hooks=lambda: hooks,
            clock=clock,
            settings=settings,
            token=TOKEN,
            tokens=await ClientTokens.load(state.database, clock),
            turn_settings=lambda: TurnSettings.model_validate(turns or {}),
            version="1.2.3",
            started_at=clock.now(),
            stop=stop,
            agents=partial(_facts_of, {AgentId("main"): agent, **(agents or {})}),
            channels=lambda: channels,
            servers=lambda: (),
            live=lambda: kept,
            processes=registry,
            pruning=items,
            extra_status=lambda: {"processes": 0},
        )
        app, url = build_app(context), url_of(listener)
        async with httpx2.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30
        ) as client:
            parts = (state, pipeline, pairing, registry, items, clock, agent)
            api = RunningApi(*parts, app, url, client, stop, context.webhooks, context.door)

            async def run() -> None:
                await serve(app, settings, sockets=[listener], stop=stop, grace_s=grace_s)
                api.served.set()

            group.start_soon(run)
            try:
                yield api
            finally:
                stop.set()
                with anyio.move_on_after(grace_s + 5, shield=True):
                    await client.aclose()
                    await api.served.wait()
                group.cancel_scope.cancel()


def _pruning(
    state: State,
    clock: FakeClock,
    settings: Mapping[str, object],
    summarizer: Summarizer | None,
) -> ItemPruning:
    chosen = ItemPruningSettings.model_validate(settings)
    return ItemPruning(state.database, clock, chosen, state.path / "archive", summarizer=summarizer)


def _facts_of(agents: Mapping[AgentId, Agent]) -> dict[AgentId, AgentFacts]:
    return {name: one.facts() for name, one in agents.items()}


def _turns(
    state: State, agents: Mapping[AgentId, Agent], clock: FakeClock, settings: Mapping[str, object]
) -> Turns:
    chunks = scripted(Reply(("one ", "two ", "three")))
    pipeline = Turns(
        state.database,
        state.store,
        {AgentId("chunks"): chunks, **agents},
        lambda _: AgentId("main"),
        clock,
        TurnSettings.model_validate(settings),
        SessionSettings(),
    )
    state.store.is_busy = pipeline.is_busy
    return pipeline


def message(**fields: object) -> dict[str, object]:
    """Return the body of a message."""
    return {"chat_id": "alice", "text": "hello", **fields}


async def read_until_closed(stream: SocketStream) -> bytes:
    """Return all that comes until the peer closes, or resets."""
    received = b""
    with anyio.fail_after(30):
        while True:
            try:
                received += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return received


async def read_answer(stream: SocketStream) -> tuple[int, dict[str, str], bytes]:
    """Read one response with a content length; return status, headers in lower case, and body."""
    received = b""
    with anyio.fail_after(30):
        while b"\r\n\r\n" not in received:
            received += await stream.receive()
        head, _, body = received.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        while len(body) < int(headers.get("content-length", "0")):
            body += await stream.receive()
    return int(status.split()[1]), headers, body


def events_of(text: str) -> list[tuple[str, Any]]:
    """Return the events of a stream with their data; comments are left out."""
    events = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            events.append((lines["event"], orjson.loads(lines["data"])))
    return events
