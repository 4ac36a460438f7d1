"""What a request is told when it cannot be served: `application/problem+json` (RFC 9457).

Every error becomes one here. What a caller can act on is said in full; what is broken inside the
gateway is said in the log alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import orjson
from starlette.exceptions import HTTPException
from starlette.responses import Response

from gateway.errors import (
    BusyError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    RefusedError,
    StorageBusyError,
    StorageError,
    StorageFullError,
    UnavailableError,
)

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:session-gateway:problem:"
RETRY_AFTER_S: Final = 10
"""When to come again after trouble whose end nobody knows."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem, as a client gets it."""

    status: int
    """The HTTP status."""
    kind: str
    """Last part of `type`; stays the same while the sentences may change."""
    title: str
    detail: str
    facts: Mapping[str, object] = field(default_factory=dict)
    """Further members of the object, such as `retry_after_s`."""
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        """Return the problem as its JSON object."""
        members = {
            "type": f"{TYPE_PREFIX}{self.kind}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        return orjson.dumps(members | dict(self.facts))

    def response(self) -> Response:
        """Return the problem as a response."""
        return Response(self.body(), self.status, self.headers, MEDIA_TYPE)


class ProblemError(RefusedError):
    """A request was refused for a reason of HTTP."""

    def __init__(self, problem: Problem) -> None:
        """Keep the problem."""
        self.problem = problem
        super().__init__(problem.detail)


def bad_request(problems: list[str]) -> ProblemError:
    """Return the error of a request with these faults, all told at once."""
    return ProblemError(
        Problem(400, "bad-request", "Bad request", "; ".join(problems), {"problems": problems})
    )


def later(status: int, kind: str, title: str, detail: str, *, after_s: float) -> Problem:
    """Return a problem that passes, with when to come again."""
    seconds = max(1, math.ceil(after_s))
    facts = {"retry_after_s": seconds}
    return Problem(status, kind, title, detail, facts, {"Retry-After": str(seconds)})


def problem_of(error: Exception) -> Problem | None:
    """Return what a client is told of an error; None for one that nobody foresaw."""
    if isinstance(error, ProblemError):
        return error.problem

    if isinstance(error, RefusedError):
        return _of_refusal(error)

    if isinstance(error, HTTPException):
        return _of_routing(error)

    return _of_trouble(error)


def unexpected() -> Problem:
    """Return what a client is told of an error that only the log explains."""
    detail = "Something went wrong inside the gateway; its log has the details."
    return Problem(500, "internal", "Internal error", detail)


def stopping() -> Problem:
    """Return what a client is told that waits while the gateway stops."""
    detail = (
        "The gateway stops. An accepted message is answered all the same: send it again "
        "with the same message_id to read its reply."
    )
    return later(503, "unavailable", "Not available", detail, after_s=RETRY_AFTER_S)


def _of_refusal(error: RefusedError) -> Problem:
    match error:
        case BusyError():
            status = 429 if error.caller_limit else 503
            return later(status, "busy", "Too busy", str(error), after_s=error.retry_after_s)
        case ForbiddenError():
            return Problem(403, "forbidden", "Forbidden", str(error))
        case NotFoundError():
            return Problem(404, "not-found", "Not found", str(error))
        case ConflictError():
            return Problem(409, "conflict", "Not possible now", str(error))
        case _:
            return Problem(400, "bad-request", "Bad request", str(error))


def _of_routing(error: HTTPException) -> Problem:
    headers = dict(error.headers or {})
    if error.status_code == 405:  # noqa: PLR2004 - the status itself
        allowed = ", ".join(sorted(headers.get("Allow", "").split(", ")))
        detail = f"This path does not take the method; accepted: {allowed}."
        return Problem(405, "method", "Method not allowed", detail, headers={"Allow": allowed})

    return Problem(error.status_code, "not-found", "Not found", "There is nothing at this path.")


def _of_trouble(error: Exception) -> Problem | None:
    match error:
        case StorageFullError():
            detail = (
                "The disk is full. Nothing of the request was stored; service returns by itself."
            )
            return later(503, "storage-full", "The disk is full", detail, after_s=RETRY_AFTER_S)
        case StorageBusyError():
            detail = "Another program holds the database. Nothing of the request was stored."
            return later(503, "storage-busy", "The storage is busy", detail, after_s=RETRY_AFTER_S)
        case StorageError():
            detail = "The storage failed; the gateway takes nothing until it is started again."
            return later(503, "storage", "The storage failed", detail, after_s=RETRY_AFTER_S)
        case UnavailableError():
            detail = str(error)
            return later(503, "unavailable", "Not available", detail, after_s=RETRY_AFTER_S)
        case _:
            return None
