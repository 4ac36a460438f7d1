"""Finds the gateway of a state directory and calls its HTTP API.

A running daemon is called over loopback. Where none runs, the state directory is opened under its
lock and the very same API is called in this process, so both ways give the same answers.
"""

from __future__ import annotations

import os
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

import anyio
import httpx2
import orjson

from gateway.cli.output import ProblemError
from gateway.durable.directory import read_holder
from gateway.durable.files import storage_errors
from gateway.errors import AlreadyRunningError, ConfigurationError, GatewayError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
    from pathlib import Path

    from gateway.cli.options import Where
    from gateway.config import GatewayConfig, Places
    from gateway.durable.directory import LockHolder
    from gateway.settings import SecretSource

T = TypeVar("T")

PAGE: Final = 1_000
"""How much is asked for at once; the API gives no more."""
_TIMEOUT: Final = httpx2.Timeout(60.0, connect=5.0)
"""In seconds. A stream says at least every 15 s that it lives."""
_LONG_TIMEOUT: Final = httpx2.Timeout(600.0, connect=5.0)
"""For what walks the whole store."""
_HTTP_ERRORS: Final = 400
_TOKEN_VARIABLES: Final = "GATEWAY_HTTP__TOKEN__"  # noqa: S105 - names of variables
_SIGNS_OF_STATE: Final = ("lock", "sessions.json", "gateway.db")
"""Where none of these is, nothing is opened: opening would make a state directory of any place."""


@dataclass(frozen=True, slots=True)
class Found:
    """The state directory that a command means, and who holds it."""

    state_dir: Path
    holder: LockHolder | None
    config: GatewayConfig | None
    """None where the directory was named without a configuration."""
    places: Places | None


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a streamed answer."""

    name: str
    data: dict[str, Any]


class Api:
    """The HTTP API of one gateway."""

    def __init__(self, http: httpx2.AsyncClient, where: str) -> None:
        """Call through `http`; `where` names the gateway in messages."""
        self._http = http
        self._where = where

    async def get(self, path: str, **params: str | int) -> Any:  # noqa: ANN401 - JSON
        """Return what the API has at a path."""
        return await self._call("GET", path, params=params)

    async def post(self, path: str, body: Mapping[str, object] | None = None) -> Any:  # noqa: ANN401 - JSON
        """Have the API do something; return what it says of it."""
        return await self._call("POST", path, body=body)

    async def delete(self, path: str, **params: str) -> Any:  # noqa: ANN401 - JSON
        """Have the API remove something; return what it says of it."""
        return await self._call("DELETE", path, params=params)

    async def stream(self, path: str, body: Mapping[str, object]) -> AsyncGenerator[Event]:
        """Yield the events that answer a request, to the last.

        Raises:
            ProblemError: the request was refused or failed on its way.
            UnavailableError: the stream broke off.
        """
        headers = {"accept": "text/event-stream", "content-type": "application/json"}
        request = self._http.build_request("POST", path, content=_dumps(body), headers=headers)
        response = await self._send(request, stream=True)
        try:
            if response.status_code >= _HTTP_ERRORS:
                await response.aread()
                raise _problem(response)

            async for event in httpx2.EventSource(response, max_event_size=None):
                data = orjson.loads(event.data)
                if event.event == "error":
                    raise ProblemError(int(data.get("status") or 500), data)

                yield Event(event.event, data)
        except httpx2.HTTPError as exc:
            raise self._unavailable(exc) from exc
        finally:
            await response.aclose()

    async def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> Any:  # noqa: ANN401 - JSON
        request = self._http.build_request(
            method,
            path,
            params=params or None,
            content=None if body is None else _dumps(body),
            headers=None if body is None else {"content-type": "application/json"},
            timeout=_TIMEOUT if method == "GET" else _LONG_TIMEOUT,
        )
        response = await self._send(request, stream=False)
        if response.status_code >= _HTTP_ERRORS:
            raise _problem(response)

        try:
            return orjson.loads(response.content)
        except orjson.JSONDecodeError as exc:
            raise UnavailableError(
                f"{self._where}: answered with something else than JSON"
            ) from exc

    async def _send(self, request: httpx2.Request, *, stream: bool) -> httpx2.Response:
        try:
            return await self._http.send(request, stream=stream)
        except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
            raise self._unavailable(exc) from exc

    def _unavailable(self, error: Exception) -> UnavailableError:
        what = str(error) or type(error).__name__
        return UnavailableError(f"{self._where}: the gateway does not answer ({what})")


def find(where: Where) -> Found:
    """Return the state directory that is meant, and who holds it now.

    Raises:
        ConfigurationError: the configuration that names it is not usable.
        StorageError: it cannot be read.
    """
    config = places = None
    if where.names_directory_alone and where.state_dir is not None:
        state_dir = where.state_dir
    else:
        loaded = where.load()
        config, places = loaded.config, loaded.places
        state_dir = config.state_dir
    state_dir = state_dir.absolute()
    with storage_errors(state_dir):
        holder = read_holder(state_dir)

    return Found(state_dir, holder, config, places)


def call(where: Where, work: Callable[[Api], Awaitable[T]], *, offline: bool = True) -> T:
    """Return what `work` makes of the API of a gateway.

    Args:
        where: Which gateway.
        work: What to ask of it.
        offline: Whether the state directory will do where no daemon runs.

    Raises:
        GatewayError: the gateway is not to be had, or refused.
    """
    found = find(where)

    async def run() -> T:
        async with _connect(where, found, offline=offline) as api:
            try:
                return await work(api)
            except (GatewayError, OSError) as exc:
                # Out of here it would come in a group of exceptions.
                failed = exc
        raise failed

    return anyio.run(run)


@asynccontextmanager
async def _connect(where: Where, found: Found, *, offline: bool) -> AsyncGenerator[Api]:
    if found.holder is not None:
        url = running_url(found)
        # The daemon may listen on an address that is no name it answers to; this one always is.
        host = {"host": f"127.0.0.1:{urlsplit(url).port}"}
        async with _client(url, _token(found), headers=host) as http:
            yield Api(http, url)
        return

    if not offline:
        raise UnavailableError(
            f"no gateway is running with the state directory {found.state_dir}; "
            "start it with: gateway run"
        )

    check_is_state(found.state_dir)
    from gateway.daemon import offline as opened
    from gateway.log import LogSettings, configure

    configure(LogSettings(level="warning"), sys.stderr.buffer)  # standard output is the result's
    async with opened(found.config or where.load().config) as gateway:
        transport = httpx2.ASGITransport(app=gateway.app, raise_app_exceptions=False)
        async with _client("http://127.0.0.1", gateway.token, transport=transport) as http:
            yield Api(http, str(found.state_dir))


def check_is_state(path: Path) -> None:
    """Refuse a place that no gateway has kept anything in.

    Raises:
        UnavailableError: it is no state directory.
    """
    if not any((path / name).exists() for name in _SIGNS_OF_STATE):
        raise UnavailableError(
            f"{path}: is no state directory of a gateway; "
            "name it with --state-dir or --config, or start a gateway with: gateway run"
        )


def running_url(found: Found) -> str:
    """Return where the daemon's API listens.

    Raises:
        AlreadyRunningError: the directory is held, but by nobody that listens.
    """
    if found.holder is None or not found.holder.url:
        raise AlreadyRunningError(
            found.state_dir / "lock",
            "a gateway that is starting or ending, or another command; try again",
        )

    return found.holder.url


def _client(
    url: str,
    token: str,
    *,
    headers: Mapping[str, str] | None = None,
    transport: httpx2.AsyncBaseTransport | None = None,
) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        base_url=url,
        headers={"authorization": f"Bearer {token}", **(headers or {})},
        timeout=_TIMEOUT,
        transport=transport,
        trust_env=False,  # a proxy must never see the token
    )


def _token(found: Found) -> str:
    """Return the bearer token of the daemon.

    Raises:
        ConfigurationError: it is not to be had; the message says where it was looked for.
    """
    from gateway.settings import SecretError, SecretSource

    named, places = _named_token(found)
    source = named or SecretSource(file=str(found.state_dir / "token"))
    try:
        return source.resolve()
    except SecretError as exc:
        text = f"{exc}, accepted is the token of the running gateway"
        if named is not None:
            text = places.problem(("http", "token"), text)
        elif found.config is None:
            text += " (where its configuration names one, give that with --config)"
        if named is None or named.credential:
            text += f"; a file that holds it: {_TOKEN_VARIABLES}FILE=/path gateway ..."
        raise ConfigurationError([text]) from None


def _named_token(found: Found) -> tuple[SecretSource | None, Places]:
    """Return where the configuration, or for a directory alone the environment, has the token."""
    from gateway.config import load

    if found.config is not None and found.places is not None:
        return found.config.http.token, found.places

    # Nothing else of the environment matters here, so nothing else of it is checked.
    ours = {name: text for name, text in os.environ.items() if name.startswith(_TOKEN_VARIABLES)}
    loaded = load(None, ours, {})
    return loaded.config.http.token, loaded.places


def _dumps(body: Mapping[str, object]) -> bytes:
    from gateway.model import clean_text

    clean = {
        name: clean_text(value) if isinstance(value, str) else value for name, value in body.items()
    }
    return orjson.dumps(clean)


def _problem(response: httpx2.Response) -> ProblemError:
    try:
        document = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        document = None
    return ProblemError(response.status_code, document if isinstance(document, dict) else {})
