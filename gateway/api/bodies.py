"""Reading a JSON body: bounded in bytes, time, depth and number of values.

Stricter than the parser: no duplicate keys. Kinder in one thing: a lone surrogate becomes U+FFFD,
because some chat platforms cut an emoji in two.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import orjson

from gateway.api.form import Form
from gateway.api.problems import Problem, ProblemError, bad_request

if TYPE_CHECKING:
    from starlette.types import Receive, Scope

    from gateway.api.settings import HttpSettings
    from gateway.clock import Clock

MAX_DEPTH: Final = 32
"""How deep lists and objects of a body may go."""
MAX_NODES: Final = 10_000
"""How many values a body may hold."""
WHOLE: Final = "gateway.whole"
"""Set in a request's state once all of its body has arrived."""
HEAD_S: Final = "gateway.head_s"
"""Where the connection notes in a scope's `state` how long the head took to arrive, in seconds."""

# One that never ends is taken to the end: looked for again from each of its quotes, it would cost
# the square of its length.
_STRING = re.compile(rb'"[^"\\]*(?:\\.?[^"\\]*)*(?:"|\Z)', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_ESCAPE = re.compile(
    rb"\\(?:(?P<pair>u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?P<lone>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


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
    body = await _body(scope, receive, settings, clock)
    if not body:
        return {}

    _check_type(scope)
    return parse_object(body)


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


def parse_object(body: bytes) -> dict[str, object]:
    """Return a JSON object.

    Raises:
        ProblemError: the body is not one, or breaks a bound.
    """
    skeleton = _STRING.sub(b"", body)
    _check_bounds(skeleton)
    if _SURROGATE.search(body):
        body = _ESCAPE.sub(_without_lone_surrogate, body)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise bad_request([f"the body is not JSON: {exc}"]) from exc

    if not isinstance(value, dict):
        raise bad_request(["the body is not a JSON object, accepted is { ... }"])

    # Without its strings, every colon of a JSON text belongs to one key.
    if skeleton.count(b":") != _count_keys(value):
        raise bad_request(["the body gives a key twice, accepted is once"])

    return value


async def _body(scope: Scope, receive: Receive, settings: HttpSettings, clock: Clock) -> bytes:
    # No connection has brought a request that comes from this process.
    state = scope.get("state", {})
    if WHOLE in state:
        # Nothing to wait for, as with nearly every request: a deadline would cost more than it.
        return await _read(receive, settings.max_body_bytes)

    with clock.move_on_after(settings.request_timeout_s - state.get(HEAD_S, 0.0)):
        return await _read(receive, settings.max_body_bytes)
    raise ProblemError(_too_slow(settings.request_timeout_s))


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


def _check_bounds(skeleton: bytes) -> None:
    """Measure a JSON text without its strings, before anything is built from it."""
    openings = skeleton.count(b"[") + skeleton.count(b"{")
    if openings + skeleton.count(b",") + 1 > MAX_NODES:
        raise bad_request([f"the body holds too many values, accepted are up to {MAX_NODES}"])

    if openings > MAX_DEPTH and _depth(skeleton) > MAX_DEPTH:
        raise bad_request([f"the body is nested too deep, accepted are {MAX_DEPTH} levels"])


def _depth(skeleton: bytes) -> int:
    depth = deepest = 0
    for byte in skeleton:
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def _count_keys(value: object) -> int:
    if isinstance(value, dict):
        return len(value) + sum(map(_count_keys, value.values()))
    if isinstance(value, list):
        return sum(map(_count_keys, value))

    return 0


def _without_lone_surrogate(match: re.Match[bytes]) -> bytes:
    return match[0] if match["lone"] is None else b"\\ufffd"


def _too_large(most: int) -> ProblemError:
    detail = f"The body is too large, accepted are up to {most} bytes."
    return ProblemError(Problem(413, "too-large", "Content too large", detail))


def _too_slow(timeout_s: float) -> Problem:
    detail = f"The request did not arrive within {timeout_s:g} seconds."
    headers = {"Connection": "close"}
    return Problem(408, "too-slow", "Request timeout", detail, headers=headers)
