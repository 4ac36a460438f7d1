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
from gateway.api.openai.errors import (
    COMPLETIONS,
    MODELS,
    error_event,
    of_taken,
    refused,
    revoked,
    stopped,
)
from gateway.api.openai.sessions import SessionCalls, completed_turn
from gateway.api.openai.stateless import StatelessCalls
from gateway.api.openai.wire import MAX_VALUES, read_request
from gateway.api.problems import ProblemError, problem_of, unexpected
from gateway.api.streaming import KEEP_ALIVE_S, EventStream
from gateway.errors import GatewayError
from gateway.log import get_logger
from gateway.model import AgentId
from gateway.transcripts.open_turns import UnknownCallError
from gateway.turns.ticket import Progress, Question, Reply, Told

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from gateway.api.context import ApiContext
    from gateway.api.openai.wire import ChatRequest
    from gateway.api.problems import Problem
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


@dataclass(frozen=True, slots=True)
class _Answering:
    """An answer that is being made."""

    progress: Progress[Reply] | Progress[Completed]
    run: Callable[[], Coroutine[object, object, None]] | None = None
    """Makes it; None where that is done elsewhere, in a session."""
    keyed: bool = False
    """Whether the message came with a key."""

    def told(self, problem: Problem) -> Problem:
        """Return what the client is told of a failure."""
        return of_taken(problem, keyed=self.keyed) if self.run is None else problem

    async def completed(self) -> Completed:
        """Wait for the end and return the answer.

        Raises:
            ProblemError: there is none.
        """
        try:
            found = await self.progress.reply()
            return completed_turn(found) if isinstance(found, Reply) else found
        except GatewayError as error:
            problem = problem_of(error)
            if problem is None:
                get_logger().error("api.request_failed", exc_info=error)
                problem = unexpected()
            raise ProblemError(self.told(problem)) from error

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
        self._sessions = SessionCalls(context.door)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        context = self._context
        fields = await read_object(
            scope, receive, context.settings, context.clock, max_values=MAX_VALUES
        )
        request = read_request(fields)
        asker = Asker(scope["state"][CLIENT])
        if asker.token:
            await context.tokens.note_used(asker.token)
        if AgentId(request.model) not in context.turns.answering.agents:
            raise _no_model()

        turn_id = context.turns.new_turn_id()
        try:
            await self._answer(scope, request, asker, turn_id, receive, send)
        finally:
            self._calls.end(turn_id)

    async def _answer(
        self,
        scope: Scope,
        request: ChatRequest,
        asker: Asker,
        turn_id: TurnId,
        receive: Receive,
        send: Send,
    ) -> None:
        """Answer a request; `turn_id` is that of a call without a session."""
        answering, told_id = await self._answering(scope, request, asker, turn_id)
        options = request.stream_options
        counts = bool(options is not None and options.include_usage)
        frame = Frame(told_id, request.model, self._context.clock.now(), with_usage=counts)
        if request.stream:
            answer = partial(self._stream, answering, frame, asker, receive, send)
        else:
            answer = partial(self._while_open, asker, partial(_whole, answering, frame, send))
        try:
            await _beside(answering, receive, answer)
        except anyio.get_cancelled_exc_class():
            # The server stops, and nothing runs above this task: it may end with an answer.
            raise ProblemError(answering.told(stopped())) from None

    async def _answering(
        self, scope: Scope, request: ChatRequest, asker: Asker, turn_id: TurnId
    ) -> tuple[_Answering, str]:
        context, name = self._context, session_name(scope, request)
        if name:
            agent = context.turns.answering.agents[AgentId(request.model)]
            takes = agent.takes() if isinstance(agent, Direct) else None
            inbound, brought = message_of(scope, request, asker, name, takes)
            try:
                ticket = await self._sessions.submit(inbound, brought)
            except UnknownCallError as error:
                param = place_of_result(request.messages, error.call_id)
                raise refused(f"{param}: {error}", param) from error
            return _Answering(ticket.progress, keyed=bool(inbound.message_id)), ticket.turn_id

        call = await self._calls.prepare(request, asker, turn_id)
        return _Answering(call.progress, call.run), turn_id

    async def _stream(
        self,
        answering: _Answering,
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
        with self._context.clock.move_on_after(KEEP_ALIVE_S):
            ended = await answering.begun()
        if ended:
            await answering.completed()
        stream = EventStream(self._context.clock, receive, send, error_event=error_event)
        write = partial(self._while_open, asker, partial(_write, answering, frame, stream))
        await stream.run(write, stopped=answering.told(stopped()))

    async def _while_open(
        self, asker: Asker, answer: Callable[[], Coroutine[object, object, None]]
    ) -> None:
        """Answer as long as the client's token opens the API.

        Raises:
            ProblemError: it was revoked.
        """
        if not asker.token:
            await answer()
            return

        tokens, ended = self._context.tokens, False
        digest = tokens.digest_of(asker.token)

        async def watch() -> None:
            nonlocal ended
            while tokens.digest_of(asker.token) == digest:
                await self._context.clock.sleep(LOOK_S)
            ended = True
            group.cancel_scope.cancel()

        failed: GatewayError | None = None
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
