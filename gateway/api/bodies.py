"""Reading a JSON body: bounded in bytes and time; what it may hold, `gateway.strict_json` says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import anyio

from gateway.api.form import Form
from gateway.api.problems import Problem, ProblemError, bad_request
from gateway.strict_json import MAX_NODES, StrictJsonError, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope

    from gateway.api.settings import HttpSettings
    from gateway.clock import Clock

T = TypeVar("T")

WHOLE: Final = "gateway.whole"
"""Set in a request's state once all of its body has arrived."""
AT_ONCE_BYTES: Final = 65_536
"""A larger body is parsed in a thread: it would hold up everybody else."""
HEAD_S: Final = "gateway.head_s"
"""Where the connection notes in a scope's `state` how long the head took to arrive, in seconds."""


async def read_form(scope: Scope, receive: Receive, settings: HttpSettings, clock: Clock) -> Form:
    """Return the fields of the request's JSON object; no body at all has none.

    Raises:
        ProblemError: it is not JSON, too large, too slow, or not an object.
    """
    return Form(await read_object(scope, receive, settings, clock), "field")


async def read_object(
    scope: Scope, receive: Receive, settings: HttpSettings, clock: Clock
) -> dict[str, object]:
    """Return the request's JSON object as it is; see `read_form`."""
    return await read_as(scope, receive, settings, clock, lambda fields: fields)


async def read_as(
    scope: Scope,
    receive: Receive,
    settings: HttpSettings,
    clock: Clock,
    read: Callable[[dict[str, object]], T],
    *,
    max_values: int = MAX_NODES,
) -> T:
    """Return what `read` makes of the request's JSON object of at most so many values.

    Of a large body that is done in a thread.

    Raises:
        ProblemError: see `read_form`; or `read` raises it.
    """
    most, timeout_s = settings.max_body_bytes, settings.request_timeout_s
    body = await read_body(scope, receive, clock, most=most, timeout_s=timeout_s)
    if not body:
        return read({})

    _check_type(scope)

    def work() -> T:
        return read(parse_object(body, max_values=max_values))

    return await anyio.to_thread.run_sync(work) if len(body) > AT_ONCE_BYTES else work()


def header_of(scope: Scope, name: bytes) -> str:
    """Return a header of a request, empty where it is not there; its name is in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return ""


def check_length(content_length: str | None, most: int) -> None:
    """Refuse a body that says beforehand that it is too large.

    Raises:
        ProblemError: it is.
    """
    # The parser below has made sure that it is a number.
    if content_length is not None and int(content_length) > most:
        raise _too_large(most)


def parse_object(body: bytes, *, max_values: int = MAX_NODES) -> dict[str, object]:
    """Return a JSON object of at most so many values.

    Raises:
        ProblemError: the body is not one, or breaks a bound.
    """
    try:
        value = parse(body, max_nodes=max_values)
    except StrictJsonError as exc:
        raise bad_request([str(exc)]) from exc

    if not isinstance(value, dict):
        raise bad_request(["the body is not a JSON object, accepted is { ... }"])

    return value


async def read_body(
    scope: Scope, receive: Receive, clock: Clock, *, most: int, timeout_s: float
) -> bytes:
    """Return the bytes of a request's body.

    Args:
        scope: The request.
        receive: Its stream.
        clock: Measures the time.
        most: How many bytes it may have.
        timeout_s: How long the whole request, its head included, may take to arrive, in seconds.

    Raises:
        ProblemError: it is too large or too slow, or ends early.
    """
    # No connection has brought a request that comes from this process.
    state = scope.get("state", {})
    if WHOLE in state:
        # Nothing to wait for, as with nearly every request: a deadline would cost more than it.
        return await _read(receive, most)

    with clock.move_on_after(timeout_s - state.get(HEAD_S, 0.0)):
        return await _read(receive, most)
    raise ProblemError(_too_slow(timeout_s))


async def _read(receive: Receive, most: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise bad_request(["the request ended before its body was complete"])

        chunk = message.get("body", b"")
        size += len(chunk)
        if size > most:
            raise _too_large(most)

        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def _check_type(scope: Scope) -> None:
    media_type, _, parameters = header_of(scope, b"content-type").partition(";")
    charset = parameters.strip().lower()
    plain = header_of(scope, b"content-encoding").lower() in {"", "identity"}
    json = media_type.strip().lower() == "application/json"
    if not json or charset not in {"", "charset=utf-8", 'charset="utf-8"'} or not plain:
        raise ProblemError(
            Problem(
                415,
                "media-type",
                "Unsupported media type",
                "Accepted is a body with the header 'Content-Type: application/json', "
                "in UTF-8 and not compressed.",
            )
        )


def _too_large(most: int) -> ProblemError:
    detail = f"The body is too large, accepted are up to {most} bytes."
    return ProblemError(Problem(413, "too-large", "Content too large", detail))


def _too_slow(timeout_s: float) -> Problem:
    detail = f"The request did not arrive within {timeout_s:g} seconds."
    headers = {"Connection": "close"}
    return Problem(408, "too-slow", "Request timeout", detail, headers=headers)
