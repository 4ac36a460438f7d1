"""`POST /hooks/NAME`: requests of platforms, handed to the channels they are for.

No bearer token opens these: each channel proves its requests itself. What is done before that is
cheap: what the head says, a body within its own bound and deadline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.bodies import check_length, header_of, read_body
from gateway.api.guard import HOOKS
from gateway.api.lockout import Lockout
from gateway.api.problems import RETRY_AFTER_S, Problem, ProblemError, later
from gateway.channels.hooks import HookAnswer, HookRequest, JudgesHeads
from gateway.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.requests import Request
    from starlette.types import Scope

    from gateway.api.context import ApiContext
    from gateway.channels.hooks import HookedChannel

MAX_BODY_BYTES: Final = 262_144
"""The largest body that is read of a request that nothing proves yet."""
MAX_FAILURES: Final = 20
WINDOW_S: Final = 60.0
LOCKOUT_S: Final = 60.0
_UNPROVEN: Final = 401
_TOO_MANY: Final = 429
_LOCKED_OUT: Final = "Too many requests that nothing proves came from this address."
_REFUSED: Final = "The gateway does not take this."
_KINDS: Final = {400: "bad-request", 401: "unproven", 422: "refused"}
_TITLES: Final = {400: "Bad request", 401: "Unauthorized", 422: "Refused"}
_FIRST_ERROR, _FIRST_BROKEN = 400, 500


def hook_routes(context: ApiContext) -> list[Route]:
    """Return the route of hooks."""
    return [Route(f"{HOOKS}{{name}}", Hooks(context).call, methods=["POST"])]


class Hooks:
    """Hands requests to the channels that are called."""

    def __init__(self, context: ApiContext) -> None:
        """Take calls for the context's channels."""
        self._context = context
        self._lockout = Lockout(MAX_FAILURES, WINDOW_S, LOCKOUT_S)

    async def call(self, request: Request) -> Response:
        """Hand a request over, and answer with what the channel makes of it."""
        scope, context = request.scope, self._context
        channel = _named(context.hooks(), request.path_params["name"])
        headers = _headers(scope)
        answer = channel.refusal(headers) if isinstance(channel, JudgesHeads) else None
        if answer is None:
            check_length(header_of(scope, b"content-length") or None, MAX_BODY_BYTES)
            body = await read_body(
                scope,
                request.receive,
                context.clock,
                most=MAX_BODY_BYTES,
                timeout_s=context.settings.request_timeout_s,
            )
            answer = await channel.call(HookRequest(headers, body))
        if answer.status == _UNPROVEN:
            self._note_failure(_address(scope), channel.account)
        return _response(answer)

    def _note_failure(self, address: str, account: str) -> None:
        """Count what nothing proves; what is proven always comes in, as with the bearer token.

        Behind a front all have one address, where a stranger must not lock the platform out.

        Raises:
            ProblemError: too many of them came from this address.
        """
        # One hook that is set up wrong, or attacked, must not close the others.
        place, now = f"{address} {account}", self._context.clock.monotonic()
        locked_s = self._lockout.remaining_s(place, now)
        if locked_s:
            raise ProblemError(
                later(429, "locked-out", "Locked out", _LOCKED_OUT, after_s=locked_s)
            )

        if self._lockout.note_failure(place, now):
            get_logger().warning(
                "hook.client_locked_out", account=account, client=address, lockout_s=LOCKOUT_S
            )


def _named(channels: Iterable[HookedChannel], name: str) -> HookedChannel:
    for channel in channels:
        if channel.account == name and channel.called:
            return channel

    raise HTTPException(404)


def _address(scope: Scope) -> str:
    client = scope["client"]
    return str(client[0]) if client else ""


def _headers(scope: Scope) -> dict[str, str]:
    found: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = str(raw_name, "latin-1").lower(), str(raw_value, "latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _response(answer: HookAnswer) -> Response:
    status, text = answer.status, answer.text
    if status < _FIRST_ERROR:
        return Response(text or None, status, media_type="text/plain" if text else None)

    after_s = RETRY_AFTER_S if answer.retry_after_s is None else answer.retry_after_s
    if status >= _FIRST_BROKEN:
        problem = later(status, "unavailable", "Not available", text, after_s=after_s)
    elif status == _TOO_MANY:
        problem = later(status, "busy", "Too busy", text, after_s=after_s)
    else:
        kind, title = _KINDS.get(status, "refused"), _TITLES.get(status, "Refused")
        problem = Problem(status, kind, title, text or _REFUSED)
    return problem.response()
