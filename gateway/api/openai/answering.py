"""An answer on its way to a client: made, sent whole or in pieces, and noted once it is out."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from gateway.api.answers import to_json
from gateway.api.openai.answers import Completed, Frame
from gateway.api.openai.errors import of_taken
from gateway.api.openai.sessions import completed_turn
from gateway.api.problems import ProblemError, problem_of, unexpected
from gateway.errors import GatewayError
from gateway.log import get_logger
from gateway.turns.ticket import Progress, Question, Reply, Told

if TYPE_CHECKING:
    from starlette.types import Receive, Send

    from gateway.api.problems import Problem
    from gateway.api.streaming import EventStream


@dataclass(frozen=True, slots=True)
class Answering:
    """An answer that is being made."""

    turn_id: str
    progress: Progress[Reply] | Progress[Completed]
    run: Callable[[], Coroutine[object, object, None]] | None = None
    """Makes it; None where that is done elsewhere, in a session."""
    keyed: bool = False
    """Whether the message came with a key."""
    note_whole: Callable[[], None] = lambda: None
    """Called once the client has been sent all of it."""

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
        except GatewayError as error:
            problem = problem_of(error)
            if problem is None:
                get_logger().error("api.request_failed", exc_info=error)
                problem = unexpected()
            raise ProblemError(self.told(problem)) from error

        if isinstance(found, Completed):
            return found

        try:
            return completed_turn(found)
        except ProblemError:
            # It is all that there is of the turn.
            self.note_whole()
            raise

    async def begun(self) -> bool:
        """Wait until there is text of an agent's, or the end; tell whether it is the end."""
        async with aclosing(self.progress.deltas()) as pieces:
            async for piece in pieces:
                if not _is_held(piece):
                    return self.progress.known_reply is not None
        return True

    async def send_whole(self, frame: Frame, send: Send) -> None:
        """Send the answer as one object.

        Raises:
            ProblemError: there is none; nothing was sent.
        """
        body = to_json(frame.whole(await self.completed()))
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await self._sent()
        await send({"type": "http.response.body", "body": b""})

    async def write(self, frame: Frame, stream: EventStream) -> None:
        """Write the answer's chunks.

        Raises:
            ProblemError: there is none; what was written stays.
        """
        await stream.data(frame.first())
        held: list[str] = []
        async with aclosing(self.progress.deltas()) as pieces:
            async for piece in pieces:
                if _is_held(piece):
                    held.append(piece)
                    continue

                for text in (*held, piece):
                    await stream.data(frame.text(text))
                held.clear()
        # Of an answer that failed, what is held says why, and so does the error.
        completed = await self.completed()
        for text in held:
            await stream.data(frame.text(text))
        for chunk in (*frame.calls(completed.calls), *frame.last(completed)):
            await stream.data(chunk)
        await stream.data(b"[DONE]")
        await self._sent()

    async def beside(
        self, receive: Receive, answer: Callable[[], Coroutine[object, object, None]]
    ) -> None:
        """Answer while the answer is made, and as long as the client is there.

        Raises:
            GatewayError: what the answering raises.
        """
        failed: GatewayError | None = None
        async with anyio.create_task_group() as group:
            if self.run is not None:
                group.start_soon(self.run)
            group.start_soon(_leave_with_client, receive, group.cancel_scope)
            try:
                await answer()
            except GatewayError as error:
                # Out of here it would come in a group of exceptions.
                failed = error
            group.cancel_scope.cancel()
        if failed is not None:
            raise failed

    async def _sent(self) -> None:
        """Note that all of it was sent, unless the client is gone, which ends this task here."""
        await anyio.lowlevel.checkpoint()
        self.note_whole()


async def _leave_with_client(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _is_held(piece: str) -> bool:
    """Return whether a piece waits for the next: it may say no more than why there is none."""
    return isinstance(piece, Told) and not isinstance(piece, Question)
