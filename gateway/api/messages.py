"""`POST /v1/messages`: a message in, its reply out, whole or as it grows.

A client that goes away ends the answer, never the turn. How a turn runs is the pipeline's matter.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import anyio
from starlette.routing import Route

from gateway.api.answers import send_json, to_json
from gateway.api.bodies import header_of, read_form
from gateway.api.problems import problem_of, stopping, unexpected
from gateway.errors import GatewayError
from gateway.log import get_logger
from gateway.model import AgentId, ChatType, Inbound, SessionSource, clean_name
from gateway.turns.ticket import Question

if TYPE_CHECKING:
    from anyio import CancelScope
    from starlette.types import Receive, Scope, Send

    from gateway.api.context import ApiContext
    from gateway.api.form import Form
    from gateway.clock import Clock
    from gateway.turns.ticket import Reply, Ticket

PLATFORM: Final = "http"
KEEP_ALIVE_S: Final = 15.0
"""How often a silent stream says that it lives; proxies cut after a minute or less."""
EVENT_STREAM: Final = "text/event-stream"


def message_routes(context: ApiContext) -> list[Route]:
    """Return the routes of messages."""
    return [Route("/v1/messages", Messages(context), methods=["POST"])]


class Messages:
    """Takes messages over HTTP. An ASGI endpoint: it may stream."""

    def __init__(self, context: ApiContext) -> None:
        """Take messages for the context's turns."""
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Accept one message and answer with its reply."""
        context = self._context
        inbound = inbound_of(await read_form(scope, receive, context.settings, context.clock))
        ticket = await context.door.submit(inbound)
        if EVENT_STREAM in header_of(scope, b"accept"):
            await _Stream(ticket, context.clock, receive, send).run()
        else:
            reply = await ticket.progress.reply()
            await send_json(send, reply_object(reply, duplicate=ticket.duplicate))


def inbound_of(form: Form) -> Inbound:
    """Return the message that a form holds.

    Raises:
        ProblemError: a field is missing, wrong or unknown.
    """
    source = SessionSource(
        platform=PLATFORM,
        chat_id=form.identifier("chat_id", required=True),
        chat_type=form.choice("chat_type", ChatType.DM),
        thread_id=form.identifier("thread_id"),
        user_id=form.identifier("user_id"),
        user_name=clean_name(form.text("user_name")),
    )
    text = form.text("text", required=True)
    message_id = form.identifier("message_id")
    agent = form.identifier("agent")
    forwarded = form.flag("forwarded")
    form.finish()
    chosen = AgentId(agent) if agent else None
    return Inbound(source, text, message_id, chosen, typed=not forwarded)


def reply_object(reply: Reply, *, duplicate: bool) -> dict[str, object]:
    """Return a reply as clients get it."""
    reset = None
    if reply.reset is not None:
        undo = f"POST /v1/sessions/{reply.session_key}/undo"
        reset = asdict(reply.reset) | {"undo": undo}
    return {
        "session_key": reply.session_key,
        "session_id": reply.session_id,
        "turn_id": reply.turn_id,
        "reply": reply.text,
        "duplicate": duplicate,
        "reset": reset,
        "usage": reply.usage,
        "context": reply.context,
        "status": reply.status,
        "agent": reply.agent or None,
        "fallbacks": reply.fallbacks,
    }


class _Stream:
    """One reply as server-sent events.

    `queued` where others are answered first, `delta` as it grows, then `done` or `error`.
    """

    def __init__(self, ticket: Ticket, clock: Clock, receive: Receive, send: Send) -> None:
        self._ticket = ticket
        self._clock = clock
        self._receive = receive
        self._send = send

    async def run(self) -> None:
        """Stream until the reply is complete or the client is gone."""
        headers = [(b"content-type", EVENT_STREAM.encode())]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._leave_with_client, group.cancel_scope)
                group.start_soon(self._keep_alive)
                await self._events()
                group.cancel_scope.cancel()
        except anyio.get_cancelled_exc_class():
            # The server stops, and nothing runs above this task: it may end with an answer.
            await self._event("error", stopping().body())
        await self._write(b"", more=False)

    async def _events(self) -> None:
        if self._ticket.ahead:
            await self._event("queued", to_json({"ahead": self._ticket.ahead}))
        async with aclosing(self._ticket.progress.deltas()) as deltas:
            async for text in deltas:
                event: dict[str, object] = {"text": text}
                if isinstance(text, Question):
                    # Who streams can ask the user at once, and send the answer as a message.
                    event |= {"question": True, "number": text.number}
                await self._event("delta", to_json(event))
        try:
            reply = await self._ticket.progress.reply()
        except GatewayError as error:
            problem = problem_of(error)
            if problem is None:
                get_logger().exception("api.request_failed", turn_id=self._ticket.turn_id)
                problem = unexpected()
            await self._event("error", problem.body())
        else:
            done = reply_object(reply, duplicate=self._ticket.duplicate)
            await self._event("done", to_json(done))

    async def _keep_alive(self) -> None:
        while True:
            await self._clock.sleep(KEEP_ALIVE_S)
            await self._write(b": still here\n\n")

    async def _leave_with_client(self, scope: CancelScope) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    async def _event(self, name: str, data: bytes) -> None:
        # JSON has no line breaks of its own, so one data line is enough.
        await self._write(b"event: %b\ndata: %b\n\n" % (name.encode(), data))

    async def _write(self, chunk: bytes, *, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": more})
