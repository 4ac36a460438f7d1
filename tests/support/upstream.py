"""A pretended model provider on loopback that speaks both wires and has a prompt cache.

    async with upstream(clock) as fake:
        fake.answer("hello", Refusal(429, retry_after_s=1), Answer("more", then="is cut"))
        ...                       # an agent asks fake.url, or fake.url + "/v1" on the openai wire
        fake.requests[-1].read    # what it cost

It plays one answer a request, and the last one again and again; a function of the request's body
makes one as well. It counts by the rule of `tests.support.prompt_cache`, and refuses with 400 what
the real ones refuse. An error touches no cache; an answer that is cut does.
By hand: `python -m tests.support.upstream --port 4000`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, cast

import anyio
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.clock import SystemClock
from tests.support import chat_wire, messages_wire
from tests.support.answers import Answer, Json, NotTakenError, Refusal
from tests.support.prompt_cache import CacheRules, Charge, Prompt, PromptCache

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.types import Receive, Scope, Send

    from gateway.clock import Clock

WireName = Literal["anthropic", "openai"]
ANTHROPIC_RULES: Final = CacheRules()
OPENAI_RULES: Final = CacheRules(write_cost=1.0)


class _Wire(Protocol):
    def read_prompt(self, body: Json) -> Prompt: ...
    def whole_answer(self, model: str, answer: Answer, charge: Charge) -> Json: ...
    def streamed_answer(self, model: str, answer: Answer, charge: Charge) -> list[bytes]: ...
    def error_body(self, kind: str, message: str, code: str | None = None) -> Json: ...
    def error_event(self) -> bytes: ...
    def overflow(self, tokens: int, window_tokens: int) -> Refusal: ...
    def overloaded(self) -> Refusal: ...


_NO_CHARGE: Final = Charge()
_WIRES: Final[dict[WireName, _Wire]] = {"anthropic": messages_wire, "openai": chat_wire}


@dataclass(frozen=True, slots=True)
class Bytes:
    """An answer of any bytes, head and all; the connection closes behind them."""

    data: bytes
    hangs: bool = False
    """True: the connection stays open and silent after the last byte."""


Step = str | Answer | Refusal | Bytes
StepFor = Callable[[Json], Step]
"""Makes an answer from the body of a request."""


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """One request, and what it cost."""

    wire: WireName
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    blocks: tuple[bytes, ...] = ()
    """What a model reads of it, without the marks of the cache."""
    charge: Charge = _NO_CHARGE
    """Nothing but `tokens` where it was answered with an error or with `Bytes`."""

    @property
    def json(self) -> Json:
        """The body, read."""
        return cast("Json", orjson.loads(self.body))

    @property
    def path(self) -> str:
        """Where it went."""
        return _PATHS[self.wire]

    @property
    def tokens(self) -> int:
        """All input: `read`, `written` and what is neither."""
        return self.charge.tokens

    @property
    def read(self) -> int:
        """Input read from the cache, in tokens."""
        return self.charge.read

    @property
    def written(self) -> int:
        """Input written to the cache, in tokens."""
        return self.charge.written

    @property
    def cost(self) -> float:
        """What its input cost, in prices of an uncached token."""
        return self.charge.cost


_PATHS: Final[dict[WireName, str]] = {
    "anthropic": "/v1/messages",
    "openai": "/v1/chat/completions",
}


@dataclass(slots=True)
class Upstream:
    """A provider; see the module."""

    caches: dict[WireName, PromptCache]
    url: str = ""
    requests: list[UpstreamRequest] = field(default_factory=list)
    asked: anyio.Event = field(default_factory=anyio.Event)
    """Set once a request has come."""
    client_left: anyio.Event = field(default_factory=anyio.Event)
    """Set once a client has left an answer that hangs."""
    gate: anyio.Event | None = None
    """No answer goes out before it is set; None: answers go out at once."""
    told: Callable[[UpstreamRequest], None] | None = None
    """Is called with each request."""
    before: Callable[[UpstreamRequest], Awaitable[None]] | None = None
    """Is waited for before the answer of each request goes out."""
    window_tokens: int = 0
    """A larger prompt is refused in the provider's own words; 0: none is."""
    windows: dict[WireName, int] = field(default_factory=dict)
    """The same of single wires, where it is another."""
    fails_every: int = 0
    """Each n-th request that could be answered is told to try again later; 0: none is."""
    failures: Sequence[Step] = ()
    """What those are told, one after the other and then from the start again; empty: what the wire
    says of an overload."""
    _answerable: int = 0
    _steps: list[Step | StepFor] = field(default_factory=lambda: ["pong"])

    def answer(self, *steps: Step | StepFor) -> None:
        """Play these answers from now on."""
        self._steps = list(steps)

    @property
    def app(self) -> Starlette:
        """What a server serves."""
        routes = [Route(path, _Endpoint(self, wire)) for wire, path in _PATHS.items()]
        return Starlette(routes=routes)

    async def respond(self, wire: WireName, request: Request) -> _Response:
        """Record a request and return its answer."""
        body = await request.body()
        recorded = UpstreamRequest(wire, dict(request.headers), body)
        response = self._decide(recorded)
        self.asked.set()
        if self.before is not None:
            await self.before(self.requests[-1])
        if self.gate is not None:
            await self.gate.wait()
        return response

    def _decide(self, recorded: UpstreamRequest) -> _Response:
        wire = _WIRES[recorded.wire]
        try:
            body = recorded.json
            prompt = wire.read_prompt(body)
        except (NotTakenError, AttributeError, KeyError, TypeError, ValueError) as exc:
            self._record(recorded)
            refused = Refusal(400, message=str(exc), kind="invalid_request_error")
            return _refusal(wire, refused)

        cache = self.caches[recorded.wire]
        recorded = replace(recorded, blocks=tuple(block.data for block in prompt.blocks))
        step = self._failed(recorded.wire, cache.count(prompt)) or self._next_step(body)
        if isinstance(step, (Refusal, Bytes)):
            self._record(replace(recorded, charge=Charge(cache.count(prompt))))
            return _refusal(wire, step) if isinstance(step, Refusal) else _bytes(step)

        answer = Answer(step) if isinstance(step, str) else step
        charge = cache.charge(prompt, marked=recorded.wire == "anthropic")
        self._record(replace(recorded, charge=charge))
        if body.get("stream"):
            return _stream(wire, answer, wire.streamed_answer(body["model"], answer, charge))

        return _whole(200, wire.whole_answer(body["model"], answer, charge))

    def _failed(self, wire: WireName, tokens: int) -> Step | None:
        window_tokens = self.windows.get(wire, self.window_tokens)
        if 0 < window_tokens < tokens:
            return _WIRES[wire].overflow(tokens, window_tokens)

        self._answerable += 1
        if not self.fails_every or self._answerable % self.fails_every:
            return None

        if not self.failures:
            return _WIRES[wire].overloaded()

        count = self._answerable // self.fails_every
        return self.failures[(count - 1) % len(self.failures)]

    def _next_step(self, body: Json) -> Step:
        step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
        return step(body) if callable(step) else step

    def _record(self, recorded: UpstreamRequest) -> None:
        self.requests.append(recorded)
        if self.told is not None:
            self.told(recorded)


@asynccontextmanager
async def upstream(
    clock: Clock,
    *,
    port: int = 0,
    anthropic: CacheRules = ANTHROPIC_RULES,
    openai: CacheRules = OPENAI_RULES,
) -> AsyncGenerator[Upstream]:
    """Run a provider on loopback; port 0 takes a free one. Its caches are empty."""
    caches = {"anthropic": PromptCache(clock, anthropic), "openai": PromptCache(clock, openai)}
    fake = Upstream(cast("dict[WireName, PromptCache]", caches))
    config = uvicorn.Config(
        fake.app,
        interface="asgi3",
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
    )
    config.load()
    server = uvicorn.Server(config)
    # Not `serve`: its loop looks ten times a second whether to end, and tests start hundreds.
    listener = await asyncio.get_running_loop().create_server(
        lambda: _Protocol(config, server.server_state, {}), "127.0.0.1", port
    )
    fake.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield fake
    finally:
        listener.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        if tasks := server.server_state.tasks.copy():
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        await listener.wait_closed()


class _Protocol(HttpToolsProtocol):
    """One connection, which an answer may take into its own hands."""

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {"transport": transport}


@dataclass(frozen=True, slots=True)
class _Endpoint:
    fake: Upstream
    wire: WireName

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self.fake.respond(self.wire, Request(scope, receive))
        await response.play(self.fake, scope, receive, send)


@dataclass(frozen=True, slots=True)
class _Response:
    """What goes out: by HTTP's rules if there is a status, else as it stands."""

    status: int
    headers: list[tuple[bytes, bytes]]
    chunks: Sequence[bytes]
    then: str = "ends"

    async def play(self, fake: Upstream, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        transport: asyncio.Transport = scope["state"]["transport"]
        if self.status:
            await send(
                {"type": "http.response.start", "status": self.status, "headers": self.headers}
            )
            for chunk in self.chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            if self.then == "ends":
                await send({"type": "http.response.body"})
                return
        else:
            transport.write(b"".join(self.chunks))

        if self.then != "hangs":
            transport.close()
        while (await receive())["type"] != "http.disconnect":
            pass
        if self.then == "hangs":
            fake.client_left.set()


def _stream(wire: _Wire, answer: Answer, events: list[bytes]) -> _Response:
    half = events[: len(events) // 2]
    chunks = events if answer.then == "ends" else half
    if answer.then == "fails":
        chunks = [*half, wire.error_event()]
    then = "ends" if answer.then == "fails" else answer.then
    return _Response(200, [(b"content-type", b"text/event-stream")], chunks, then)


def _whole(status: int, body: Any, *headers: tuple[bytes, bytes]) -> _Response:  # noqa: ANN401 - any JSON
    content = (b"content-type", b"application/json")
    request_id = (b"request-id", b"req-7"), (b"x-request-id", b"req-7")
    return _Response(status, [content, *request_id, *headers], [orjson.dumps(body)])


def _refusal(wire: _Wire, refusal: Refusal) -> _Response:
    body = wire.error_body(refusal.kind, refusal.message, refusal.code)
    if refusal.retry_after_s is None:
        return _whole(refusal.status, body)

    return _whole(refusal.status, body, (b"retry-after", f"{refusal.retry_after_s:g}".encode()))


def _bytes(answer: Bytes) -> _Response:
    return _Response(0, [], [answer.data], "hangs" if answer.hangs else "closes")


async def _main(port: int) -> None:
    def tell(request: UpstreamRequest) -> None:
        charge = request.charge
        sys.stdout.write(
            f"{request.wire}: {charge.tokens} tokens, {charge.read} read, "
            f"{charge.written} written, cost {charge.cost:.1f}\n"
        )
        sys.stdout.flush()

    async with upstream(SystemClock(), port=port) as fake:
        fake.told = tell
        sys.stdout.write(f"{fake.url} (openai wire: {fake.url}/v1)\n")
        sys.stdout.flush()
        await anyio.sleep_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A pretended model provider on loopback.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    try:
        anyio.run(_main, parser.parse_args().port)
    except KeyboardInterrupt:
        sys.exit(0)
