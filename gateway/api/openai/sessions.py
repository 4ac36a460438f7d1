"""A request to a session: one message and its turn, as from any other channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.api.openai.answers import Completed
from gateway.api.openai.errors import NOT_AGAIN, agent_problem
from gateway.api.problems import Problem, ProblemError
from gateway.turns.records import PAUSED

if TYPE_CHECKING:
    from gateway.turns.ticket import Reply


def completed_turn(reply: Reply) -> Completed:
    """Return what a turn came to.

    Raises:
        ProblemError: it has no answer; the message is in the session all the same, unless that is
            paused.
    """
    text = reply.text
    match reply.status:
        case "failed":
            problem = agent_problem(reply.failure, text)
        case "deadline":
            problem = Problem(504, "deadline_exceeded", "Too late", text)
        case "interrupted":
            problem = Problem(409, "interrupted", "Interrupted", text)
        case status if status == PAUSED:
            text = (
                "This session is paused, and the message was not kept. "
                "The operator can let it go on."
            )
            problem = Problem(409, "session_paused", "Paused", text)
        case _:
            return Completed(text, reply.agent, reply.usage, reply.calls, reply.cut)
    # Sent again, it would stand in the session twice.
    headers = {**problem.headers, **NOT_AGAIN}
    raise ProblemError(
        Problem(problem.status, problem.kind, problem.title, text, problem.facts, headers)
    )
