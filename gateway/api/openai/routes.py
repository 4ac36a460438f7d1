"""`/v1/models` and `/v1/chat/completions`: who can be asked, and the asking, whole or streamed.

A client that goes away ends its stream and a stateless call; the turn of a session goes on.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
from starlette.routing import Route

from gateway.agents.direct import Direct
from gateway.api.answers import json_response
from gateway.api.bodies import read_as
from gateway.api.form import query_form
from gateway.api.guard import CLIENT
from gateway.api.openai.answering import Answering
from gateway.api.openai.answers import Frame
from gateway.api.openai.asking import Asker, message_of
from gateway.api.openai.asking import read as read_asked
from gateway.api.openai.conversation import place_of_result
from gateway.api.openai.errors import (
    COMPLETIONS,
    MODELS,
    error_event,
    refused,
    revoked,
    stopped,
)
from gateway.api.openai.sessions import SessionCalls
from gateway.api.openai.stateless import StatelessCalls
from gateway.api.openai.wire import MAX_VALUES
from gateway.api.problems import ProblemError
from gateway.api.streaming import KEEP_ALIVE_S, EventStream
from gateway.errors import GatewayError
from gateway.model import AgentId
from gateway.transcripts.open_turns import UnknownCallError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Message, Receive, Scope, Send

    from gateway.api.context import ApiContext
    from gateway.api.openai.asking import Read
    from gateway.model import TurnId

LOOK_S: Final = 4.0
"""How often it is looked whether the token of an answer under way still opens the API."""
_OWNER: Final = "session-gateway"


def openai_routes(context: ApiContext) -> list[Route]:
    """Return the routes that client tokens open."""
    models = Models(context)
    return [
        Route(MODELS, models.show, methods=["GET"]),
        Route(f"{MODELS}/{{model}}", models.one, methods=["GET"]),
        Route(COMPLETIONS, Completions(context), methods=["POST"]),
    ]


class Models:
    """Tells which agents there are, as models."""

    def __init__(self, context: ApiContext) -> None:
        """Tell of the context's agents."""
        self._context = context

    async def show(self, request: Request) -> Response:
        """Answer with all agents."""
        query_form(request).finish()
        listed = [self._object(agent) for agent in sorted(self._context.agents())]
        return json_response({"object": "list", "data": listed})

    async def one(self, request: Request) -> Response:
        """Answer with one agent."""
        query_form(request).finish()
        agent = AgentId(request.path_params["model"])
        if agent not in self._context.agents():
            raise _no_model()

        return json_response(self._object(agent))

    def _object(self, agent: AgentId) -> dict[str, object]:
        created = int(self._context.started_at.timestamp())
        return {"id": agent, "object": "model", "created": created, "owned_by": _OWNER}


class Completions:
    """Takes requests for completions. An ASGI endpoint: it may stream."""

    def __init__(self, context: ApiContext) -> None:
        """Have requests answered by the context's agents."""
        self._context = context
        self._calls = StatelessCalls(context)
        self._sessions = SessionCalls(context.door, context.turns.handed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        context, asker = self._context, Asker(scope["state"][CLIENT])
        turn_id = context.turns.new_turn_id()
        read = await read_as(
            *(scope, receive, context.settings, context.clock),
            partial(read_asked, scope, asker, turn_id),
            max_values=MAX_VALUES,
        )
        if asker.token is not None:
            await context.tokens.note_used(asker.token)
        if AgentId(read.request.model) not in context.turns.answering.agents:
            raise _no_model()

        # While the body came, or the use was noted.
        self._check_open(asker)
        try:
            await self._answer(scope, read, asker, turn_id, receive, send)
        finally:
            self._calls.end(turn_id)

    async def _answer(
        self,
        scope: Scope,
        read: Read,
        asker: Asker,
        turn_id: TurnId,
        receive: Receive,
        send: Send,
    ) -> None:
        """Answer a request; `turn_id` is that of a call without a session."""
        answering = await self._answering(scope, read, asker, turn_id)
        request, now = read.request, self._context.clock.now()
        options = request.stream_options
        counts = bool(options is not None and options.include_usage)
        frame = Frame(answering.turn_id, request.model, now, with_usage=counts)
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        if request.stream:
            answer = partial(self._stream, answering, frame, asker, receive, noted)
        else:
            whole = partial(answering.send_whole, frame, noted)
            answer = partial(self._while_open, asker, whole)
        try:
            await answering.beside(receive, answer)
        except anyio.get_cancelled_exc_class():
            # The server stops, and nothing runs above this task: it may end with an answer, unless
            # a stream has said so.
            if not begun:
                raise ProblemError(answering.told(stopped())) from None

    async def _answering(
        self, scope: Scope, read: Read, asker: Asker, turn_id: TurnId
    ) -> Answering:
        context, request = self._context, read.request
        if read.session:
            agent = context.turns.answering.agents[AgentId(request.model)]
            takes = agent.takes() if isinstance(agent, Direct) else None
            inbound, brought = message_of(scope, request, asker, read.session, takes)
            try:
                ticket = await self._sessions.submit(inbound, brought)
            except UnknownCallError as error:
                param = place_of_result(request.messages, error.call_id)
                raise refused(f"{param}: {error}", param) from error
            note_whole = partial(context.turns.handed.note_whole, ticket.turn_id)
            keyed = bool(inbound.message_id)
            return Answering(ticket.turn_id, ticket.progress, keyed=keyed, note_whole=note_whole)

        call = await self._calls.prepare(read, asker, turn_id)
        return Answering(turn_id, call.progress, call.run)

    async def _stream(
        self,
        answering: Answering,
        frame: Frame,
        asker: Asker,
        receive: Receive,
        send: Send,
    ) -> None:
        """Stream an answer; what fails before it begins is an error with a status of its own.

        A model that is slow to begin is waited for so long; then the stream begins without it, so
        that nobody on the way takes the connection for dead.
        """
        ended = False

        async def begun() -> None:
            nonlocal ended
            ended = await answering.begun()

        with self._context.clock.move_on_after(KEEP_ALIVE_S):
            await self._while_open(asker, begun)
        if ended:
            await answering.completed()
        stream = EventStream(self._context.clock, receive, send, error_event=error_event)
        write = partial(self._while_open, asker, partial(answering.write, frame, stream))
        await stream.run(write, stopped=answering.told(stopped()))

    def _check_open(self, asker: Asker) -> None:
        """Make sure that the client's token opens the API still.

        Raises:
            ProblemError: it was revoked.
        """
        if asker.token is not None and not self._context.tokens.is_open(asker.token):
            raise ProblemError(revoked())

    async def _while_open(
        self, asker: Asker, answer: Callable[[], Coroutine[object, object, None]]
    ) -> None:
        """Answer as long as the client's token opens the API.

        Raises:
            ProblemError: it was revoked.
        """
        token = asker.token
        if token is None:
            await answer()
            return

        ended, failed = False, None

        async def watch() -> None:
            nonlocal ended
            while self._context.tokens.is_open(token):
                await self._context.clock.sleep(LOOK_S)
            ended = True
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            try:
                await answer()
            except GatewayError as error:
                failed = error
            group.cancel_scope.cancel()
        if ended:
            raise ProblemError(revoked())
        if failed is not None:
            raise failed


def _no_model() -> Exception:
    text = "There is no such model; GET /v1/models lists those that there are."
    return refused(text, "model", status=404, code="model_not_found")
