"""Errors as OpenAI's clients read them: `{"error": {message, type, param, code}}`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import orjson
from starlette.responses import Response

from gateway.api.problems import RETRY_AFTER_S, Problem, ProblemError, later
from gateway.errors import AgentFailure

if TYPE_CHECKING:
    from gateway.errors import AgentError

ROOT: Final = "/v1/"
MODELS: Final = "/v1/models"
COMPLETIONS: Final = "/v1/chat/completions"
CONTEXT_TOO_LONG: Final = "context_length_exceeded"
SHOULD_RETRY: Final = "x-should-retry"
NOT_AGAIN: Final = {SHOULD_RETRY: "false"}
"""Keeps the SDK from sending a message again that was taken."""
_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES: Final = {"bad-request": None, "token": "invalid_api_key"}
_SERVER_ERRORS: Final = 500
_TAKEN: Final = "The message was taken, and is answered in its session."


def is_openai(path: str) -> bool:
    """Return whether a path is one of these routes."""
    return path in {MODELS, COMPLETIONS} or path.startswith(f"{MODELS}/")


def error_object(problem: Problem) -> dict[str, object]:
    """Return a problem as clients get it."""
    kind = "server_error" if problem.status >= _SERVER_ERRORS else "invalid_request_error"
    return {
        "error": {
            "message": problem.detail,
            "type": _TYPES.get(problem.status, kind),
            "param": problem.facts.get("param"),
            "code": _CODES.get(problem.kind, problem.kind.replace("-", "_")),
        }
    }


def error_response(problem: Problem) -> Response:
    """Return a problem as a response."""
    body = orjson.dumps(error_object(problem))
    return Response(body, problem.status, problem.headers, "application/json")


def error_event(problem: Problem) -> bytes:
    """Return a problem as the last event of a stream."""
    return b"data: %b\n\n" % orjson.dumps(error_object(problem))


def refused(message: str, param: str, *, status: int = 400, code: str = "") -> ProblemError:
    """Return the error of a request that is not served; `param` is what of it is wrong."""
    kind = code or "bad-request"
    return ProblemError(Problem(status, kind, "Not accepted", message, {"param": param}))


def of_agent(error: AgentError) -> ProblemError:
    """Return what a client is told of an agent that could not answer a stateless call."""
    after_s = RETRY_AFTER_S if error.retry_after_s is None else error.retry_after_s
    return ProblemError(agent_problem(error.failure.value, error.user_text, after_s))


def agent_problem(failure: str, text: str, after_s: float = RETRY_AFTER_S) -> Problem:
    """Return the problem of an agent that could not answer.

    Args:
        failure: Why, as `AgentFailure` names it.
        text: What its user reads.
        after_s: When to come again where it is a matter of rates.
    """
    match failure:
        case AgentFailure.RATE_LIMIT:
            return later(429, "rate_limit_exceeded", "Too busy", text, after_s=after_s)
        case AgentFailure.OVERFLOW:
            facts = {"param": "messages"}
            return Problem(400, CONTEXT_TOO_LONG, "Too long", text, facts)
        case AgentFailure.BUDGET:
            return Problem(429, "insufficient_quota", "Used up", text, headers=NOT_AGAIN)
        case AgentFailure.OUTAGE:
            return Problem(502, "agent_unavailable", "Not available", text)
        case _:
            return Problem(502, "agent_failed", "Failed", text, headers=NOT_AGAIN)


def of_taken(problem: Problem, *, keyed: bool) -> Problem:
    """Return what a client is told whose message is in a session, but not answered here.

    Args:
        problem: Why.
        keyed: Whether it came with an Idempotency-Key: sent again it is the same message then.
    """
    if problem.headers.get(SHOULD_RETRY):
        return problem
    if keyed:
        detail = f"{_TAKEN} Send it again with the same Idempotency-Key to read its answer."
        return replace(problem, detail=detail)

    detail = f"{_TAKEN} Do not send it again: it would be said twice."
    headers = {name: text for name, text in problem.headers.items() if name != "Retry-After"}
    return replace(problem, detail=detail, headers=headers | NOT_AGAIN)


def stopped() -> Problem:
    """Return what a client is told whose call the gateway ended as it stopped."""
    text = "The gateway stops. Please try again in a moment."
    return later(503, "unavailable", "Not available", text, after_s=RETRY_AFTER_S)


def revoked() -> Problem:
    """Return what a client is told whose token ended while it was answered."""
    return Problem(401, "token", "Unauthorized", "This token was revoked.", headers=NOT_AGAIN)


def too_late(deadline_s: float) -> Problem:
    """Return the problem of an answer that took too long."""
    detail = f"This took longer than {deadline_s:g} seconds and was stopped."
    return Problem(504, "deadline_exceeded", "Too late", detail, headers=NOT_AGAIN)
