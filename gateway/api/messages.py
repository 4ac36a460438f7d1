"""`POST /v1/messages`: a message in, its reply out, whole or as it grows.

A client that goes away ends the answer, never the turn. How a turn runs is the pipeline's matter.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Final

from starlette.routing import Route

from gateway.api.answers import send_json, to_json
from gateway.api.bodies import read_form
from gateway.api.problems import stopping
from gateway.api.streaming import EventStream, wants_events
from gateway.errors import GatewayError
from gateway.model import AgentId, ChatType, Inbound, SessionSource, clean_name
from gateway.turns.ticket import Question

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from gateway.api.context import ApiContext
    from gateway.api.form import Form
    from gateway.turns.ticket import Reply, Ticket

PLATFORM: Final = "http"


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
        if wants_events(scope):
            stream = EventStream(context.clock, receive, send)
            await stream.run(partial(_stream, ticket, stream), stopped=stopping())
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


async def _stream(ticket: Ticket, stream: EventStream) -> None:
    """Write a reply: `queued` where others are answered first, `delta` as it grows, `done`."""
    if ticket.ahead:
        await stream.event("queued", to_json({"ahead": ticket.ahead}))
    async with aclosing(ticket.progress.deltas()) as deltas:
        async for text in deltas:
            event: dict[str, object] = {"text": text}
            if isinstance(text, Question):
                # Who streams can ask the user at once, and send the answer as a message.
                event |= {"question": True, "number": text.number}
            await stream.event("delta", to_json(event))
    try:
        reply = await ticket.progress.reply()
    except GatewayError as error:
        await stream.fail(error, turn_id=ticket.turn_id)
    else:
        done = reply_object(reply, duplicate=ticket.duplicate)
        await stream.event("done", to_json(done))
