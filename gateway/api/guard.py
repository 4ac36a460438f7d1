"""The door of the API: every request passes here, and every error leaves here as a problem.

In this order: size of the head, Host, Origin, bearer token, declared size of the body. Decisions
are made on what arrived (`scope["path"]`, raw headers), never on a rebuilt URL. Below it are the
routes, which may raise any error of the gateway.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Final

import anyio

from gateway.api.bodies import check_length
from gateway.api.lockout import LOCKOUT_S, Lockout
from gateway.api.openai.errors import error_response, is_openai
from gateway.api.problems import (
    Problem,
    ProblemError,
    bad_request,
    later,
    problem_of,
    stopping,
    unexpected,
)
from gateway.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from gateway.access.tokens import ClientToken
    from gateway.api.settings import HttpSettings
    from gateway.clock import Clock

MAX_URL_BYTES: Final = 4_096
MAX_HEADERS: Final = 64
MAX_HEAD_BYTES: Final = 16_384
"""The largest head of a request: names and values of all headers."""
PUBLIC_PATHS: Final = frozenset({"/livez", "/readyz"})
"""What needs no token."""
HOOKS: Final = "/hooks/"
"""What the paths begin with whose channels prove their requests themselves."""
CLIENT: Final = "gateway.client"
"""Where a scope's `state` holds the client's token that a request came with; None: our own."""

_SINGLE: Final = frozenset(
    {b"host", b"origin", b"authorization", b"content-length", b"content-type"}
)
_HTTP_PORT: Final = 80


class Guard:
    """Lets requests in that may come in; pure ASGI, HTTP only."""

    def __init__(
        self,
        app: ASGIApp,
        settings: HttpSettings,
        token: str,
        clock: Clock,
        owner: Callable[[bytes], ClientToken | None] = lambda _: None,
    ) -> None:
        """Guard an app with a bearer token.

        Args:
            app: What is guarded.
            settings: Which hosts and how large bodies.
            token: Opens everything.
            clock: Both clocks.
            owner: Returns the client's token that has another secret, which opens the
                OpenAI-compatible routes alone; None: nobody has it. Asked for each request.
        """
        self._app = app
        self._settings = settings
        self._token = _digest(token.encode())
        self._owner = owner
        self._clock = clock
        self._lockout = Lockout()
        self._names = frozenset(name.lower() for name in settings.allowed_hosts)
        self._hosts: dict[int, frozenset[str]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; whatever it ends with, the client gets an answer."""
        started = False

        async def tracked(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        # The router below answers 404 and 405 by exceptions where it finds an application.
        scope["app"] = self
        try:
            self._admit(scope)
            await self._app(scope, receive, tracked)
        except anyio.get_cancelled_exc_class():
            if started:
                raise
            # The server ends what is left when it stops, and nothing runs above this task: it may
            # end with an answer instead.
            await _response(stopping(), scope)(scope, receive, send)
        except Exception as error:
            # Boundary of a request: whatever it raised, the client gets an answer.
            if started:
                raise
            problem = problem_of(error)
            if problem is None:
                get_logger().exception("api.request_failed", method=scope["method"])
                problem = unexpected()
            await _response(problem, scope)(scope, receive, send)

    def _admit(self, scope: Scope) -> None:
        """Let a request pass.

        Raises:
            ProblemError: it may not come in.
        """
        headers = _read_head(scope)
        # No port is named where an app is called in this process, without a socket.
        hosts = self._hosts_of(scope["server"][1] or _HTTP_PORT)
        self._check_host(headers.get(b"host", b""), hosts)
        origin = headers.get(b"origin")
        if origin is not None:
            self._check_origin(origin, hosts)
        if scope["path"] in PUBLIC_PATHS or scope["path"].startswith(HOOKS):
            return

        client = scope["client"]
        token = self._check_token(headers.get(b"authorization", b""), client[0] if client else "")
        if token is not None and not is_openai(scope["path"]):
            detail = "This token opens /v1/models and /v1/chat/completions alone."
            raise ProblemError(Problem(403, "forbidden", "Forbidden", detail))

        scope.setdefault("state", {})[CLIENT] = token
        length = headers.get(b"content-length")
        check_length(None if length is None else length.decode(), self._settings.max_body_bytes)

    def _hosts_of(self, port: int) -> frozenset[str]:
        """Return what Host may say of this machine, exactly."""
        hosts = self._hosts.get(port)
        if hosts is None:
            names = ["127.0.0.1", "[::1]", "localhost"]
            if self._settings.loopback:
                host = self._settings.host.lower()
                names.append(f"[{host}]" if ":" in host else host)
            hosts = frozenset(f"{name}:{port}" for name in names)
            if port == _HTTP_PORT:
                hosts |= frozenset(names)
            self._hosts[port] = hosts
        return hosts

    def _is_ours(self, host: str, hosts: frozenset[str]) -> bool:
        host = host.lower()
        if host in hosts or host in self._names:
            return True

        name, _, port = host.rpartition(":")
        return port.isdigit() and name in self._names

    def _check_host(self, raw: bytes, hosts: frozenset[str]) -> None:
        if not self._is_ours(raw.decode("latin-1"), hosts):
            accepted = ", ".join(sorted(hosts | self._names))
            detail = f"The Host header is none of this gateway's; accepted: {accepted}."
            raise ProblemError(Problem(421, "host", "Misdirected request", detail))

    def _check_origin(self, raw: bytes, hosts: frozenset[str]) -> None:
        """Turn pages of other sites away, `null` among them: no browser may be their tool."""
        scheme, _, host = raw.decode("latin-1").partition("://")
        if scheme not in {"http", "https"} or not self._is_ours(host, hosts):
            detail = "Pages of other origins may not use this gateway."
            raise ProblemError(Problem(403, "origin", "Forbidden", detail))

    def _check_token(self, authorization: bytes, address: str) -> ClientToken | None:
        """Compare in constant time, and lock out who keeps failing.

        Returns the client's token; None for the gateway's own.

        The right token always opens: behind a front all clients have one address, where a stranger,
        or one whose token is revoked, must not lock out the others.
        """
        scheme, _, token = authorization.partition(b" ")
        ours = hmac.compare_digest(_digest(token.strip()), self._token)
        client = None if ours else self._owner(token.strip())
        if scheme.lower() == b"bearer" and (ours or client is not None):
            return client

        now = self._clock.monotonic()
        locked_s = self._lockout.remaining_s(address, now)
        if locked_s:
            detail = "Too many requests with a wrong token came from this address."
            raise ProblemError(later(429, "locked-out", "Locked out", detail, after_s=locked_s))

        if self._lockout.note_failure(address, now):
            get_logger().warning("api.client_locked_out", client=address, lockout_s=LOCKOUT_S)
        raise ProblemError(_unauthorized(present=bool(authorization)))


def _read_head(scope: Scope) -> dict[bytes, bytes]:
    """Return the headers that may stand only once.

    Raises:
        ProblemError: the head is too large, or one of them stands twice.
    """
    url_bytes = len(scope["raw_path"]) + len(scope["query_string"])
    if url_bytes > MAX_URL_BYTES:
        detail = f"The URL is too long, accepted are up to {MAX_URL_BYTES} bytes."
        raise ProblemError(Problem(414, "url-too-long", "URI too long", detail))

    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    found: dict[bytes, bytes] = {}
    count = size = 0
    for name, value in headers:
        count += 1
        size += len(name) + len(value)
        if name in _SINGLE:
            if name in found:
                raise bad_request([f"the header {name.decode()} is given twice, accepted is once"])
            found[name] = value
    if count > MAX_HEADERS or size > MAX_HEAD_BYTES:
        raise ProblemError(head_too_large())

    return found


def head_too_large() -> Problem:
    """Return the problem of a request whose head breaks a bound."""
    detail = f"Accepted are up to {MAX_HEADERS} headers and {MAX_HEAD_BYTES} bytes of them."
    return Problem(431, "head-too-large", "Request header fields too large", detail)


def _response(problem: Problem, scope: Scope) -> Response:
    """Return a problem as the clients of a path read it."""
    return error_response(problem) if is_openai(scope["path"]) else problem.response()


def _unauthorized(*, present: bool) -> Problem:
    wrong = "The token is wrong" if present else "A token is needed"
    detail = f"{wrong}: send 'Authorization: Bearer <token>'."
    headers = {"WWW-Authenticate": 'Bearer realm="session-gateway"'}
    return Problem(401, "token", "Unauthorized", detail, headers=headers)


def _digest(token: bytes) -> bytes:
    # Hashed first, so that the comparison takes the same time for tokens of any length.
    return hashlib.sha256(token).digest()
