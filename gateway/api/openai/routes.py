"""`/v1/models` and `/v1/chat/completions`: who can be asked, and the asking, whole or streamed.

A client that goes away ends its stream and a stateless call; the turn of a session goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
from starlette.routing import Route

from gateway.agents.direct import Direct
from gateway.api.answers import json_response, send_json
from gateway.api.bodies import read_object
from gateway.api.form import query_form
from gateway.api.guard import CLIENT
from gateway.api.openai.answers import Completed, Frame
from gateway.api.openai.asking import Asker, message_of, session_name
from gateway.api.openai.conversation import place_of_result
from gateway.api.openai.errors import COMPLETIONS, MODELS, error_event, refused
from gateway.api.openai.sessions import completed_turn
from gateway.api.openai.stateless import StatelessCalls
from gateway.api.openai.wire import read_request
from gateway.api.problems import stopping
from gateway.api.streaming import KEEP_ALIVE_S, EventStream
from gateway.errors import GatewayError
from gateway.model import AgentId
from gateway.transcripts.open_turns import UnknownCallError
from gateway.turns.ticket import Progress, Question, Reply, Told

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from gateway.api.context import ApiContext
    from gateway.api.openai.wire import ChatRequest

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


@dataclass(frozen=True, slots=True)
class _Answering:
    """An answer that is being made."""

    progress: Progress[Reply] | Progress[Completed]
    run: Callable[[], Coroutine[object, object, None]] | None = None
    """Makes it; None where that is done elsewhere."""

    async def completed(self) -> Completed:
        """Wait for the end and return the answer.

        Raises:
            ProblemError: there is none.
        """
        found = await self.progress.reply()
        return completed_turn(found) if isinstance(found, Reply) else found

    async def begun(self) -> bool:
        """Wait until there is text of an agent's, or the end; tell whether it is the end."""
        async with aclosing(self.progress.deltas()) as pieces:
            async for piece in pieces:
                if not _is_held(piece):
                    return self.progress.known_reply is not None
        return True


class Completions:
    """Takes requests for completions. An ASGI endpoint: it may stream."""

    def __init__(self, context: ApiContext) -> None:
        """Have requests answered by the context's agents."""
        self._context = context
        self._calls = StatelessCalls(context)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        context = self._context
        fields = await read_object(scope, receive, context.settings, context.clock)
        request = read_request(fields)
        asker = Asker(scope["state"][CLIENT])
        if asker.token:
            await context.tokens.note_used(asker.token)
        if AgentId(request.model) not in context.turns.answering.agents:
            raise _no_model()

        answering, turn_id = await self._answering(scope, request, asker)
        options = request.stream_options
        counts = bool(options is not None and options.include_usage)
        frame = Frame(turn_id, request.model, context.clock.now(), with_usage=counts)
        if request.stream:
            answer = partial(self._stream, answering, frame, receive, send)
        else:
            answer = partial(_whole, answering, frame, send)
        await _beside(answering, receive, answer)

    async def _answering(
        self, scope: Scope, request: ChatRequest, asker: Asker
    ) -> tuple[_Answering, str]:
        context, name = self._context, session_name(scope, request)
        if name:
            agent = context.turns.answering.agents[AgentId(request.model)]
            takes = agent.takes() if isinstance(agent, Direct) else None
            inbound, brought = message_of(scope, request, asker, name, takes)
            try:
                ticket = await context.door.submit(inbound, brought)
            except UnknownCallError as error:
                param = place_of_result(request.messages, error.call_id)
                raise refused(f"{param}: {error}", param) from error
            return _Answering(ticket.progress), ticket.turn_id

        turn_id = context.turns.new_turn_id()
        call = await self._calls.prepare(request, asker, turn_id)
        return _Answering(call.progress, call.run), turn_id

    async def _stream(
        self, answering: _Answering, frame: Frame, receive: Receive, send: Send
    ) -> None:
        """Stream an answer; what fails before it begins is an error with a status of its own.

        A model that is slow to begin is waited for so long; then the stream begins without it, so
        that nobody on the way takes the connection for dead.
        """
        ended = False
        with self._context.clock.move_on_after(KEEP_ALIVE_S):
            ended = await answering.begun()
        if ended:
            await answering.completed()
        stream = EventStream(self._context.clock, receive, send, error_event=error_event)
        await stream.run(partial(_write, answering, frame, stream), stopped=stopping())


async def _whole(answering: _Answering, frame: Frame, send: Send) -> None:
    await send_json(send, frame.whole(await answering.completed()))


async def _write(answering: _Answering, frame: Frame, stream: EventStream) -> None:
    """Write the chunks of an answer."""
    await stream.data(frame.first())
    held: list[str] = []
    async with aclosing(answering.progress.deltas()) as pieces:
        async for piece in pieces:
            if _is_held(piece):
                held.append(piece)
                continue

            for text in (*held, piece):
                await stream.data(frame.text(text))
            held.clear()
    # Of an answer that failed, what is held says why, and so does the error.
    completed = await answering.completed()
    for text in held:
        await stream.data(frame.text(text))
    for chunk in (*frame.calls(completed.calls), *frame.last(completed)):
        await stream.data(chunk)
    await stream.data(b"[DONE]")


async def _beside(
    answering: _Answering, receive: Receive, answer: Callable[[], Coroutine[object, object, None]]
) -> None:
    """Answer while the answer is made, and as long as the client is there."""
    if answering.run is None:
        await answer()
        return

    failed: GatewayError | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(answering.run)
        group.start_soon(_leave_with_client, receive, group.cancel_scope)
        try:
            await answer()
        except GatewayError as error:
            # Out of here it would come in a group of exceptions.
            failed = error
        group.cancel_scope.cancel()
    if failed is not None:
        raise failed


async def _leave_with_client(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _is_held(piece: str) -> bool:
    """Return whether a piece waits for the next: it may say no more than why there is none."""
    return isinstance(piece, Told) and not isinstance(piece, Question)


def _no_model() -> Exception:
    text = "There is no such model; GET /v1/models lists those that there are."
    return refused(text, "model", status=404, code="model_not_found")
