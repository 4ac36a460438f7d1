"""The rules between channels, and between them and the tables that name them.

Takes values as they are in the file: what has a wrong type is another check's affair.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, get_args
from urllib.parse import SplitResult, urlsplit

from gateway.channels.settings import ChannelSettings
from gateway.channels.telegram.settings import OFFICIAL_TELEGRAM_URL
from gateway.config.keys import KeyPath, dotted, quoted
from gateway.settings import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

OF_THE_API: Final = frozenset({"http", "openai"})
"""Platforms without a table; the accounts of `openai` are the names of tokens."""
_STATE_DIR: Final = "state"
PLATFORMS: Final = tuple(
    get_args(kind.model_fields["kind"].annotation)[0]
    for kind in get_args(get_args(ChannelSettings)[0])
)
"""All that there are channels for."""
_OFFICIAL_HOST: Final = urlsplit(OFFICIAL_TELEGRAM_URL).hostname
_CALLED_PORTS: Final = (443, 80, 88, 8443)


def broken_channels(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Yield each key of or about a channel that can never work."""
    yield from _shared_sockets(data)
    yield from _shared_tokens(data)
    yield from _uncallable(data)
    for path, platform, account in _named(data):
        known = accounts_of(data, platform) if platform else _all_accounts(data)
        if account and known and account not in known:
            of = f"{platform} " if platform else ""
            accepted = ", ".join(sorted(known))
            yield (
                path,
                f"no {of}channel is called {quoted(account)}, accepted is one of: {accepted}",
            )


def accounts_of(data: Mapping[str, Any], platform: str) -> set[str]:
    """Return the tables of a platform, and those that may be: whose own platform is unknown."""
    tables = _at(data, "channels")
    if platform not in PLATFORMS or not isinstance(tables, dict):
        return set()

    kinds = {str(name): _at(table, "kind") for name, table in tables.items()}
    return {name for name, kind in kinds.items() if kind == platform or kind not in PLATFORMS}


def doubtful_channels(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Yield each key about channels that does nothing as things are, though it may be meant so."""
    for path, platform, account in _named(data):
        if platform and not accounts_of(data, platform):
            text = f"there is no channel of {quoted(platform)}, so this does nothing"
            yield path, text
        elif not platform and account and not _all_accounts(data):
            yield path, f"there is no channel {quoted(account)}, so this does nothing"
    for name, table in _channels(data):
        url = _at(table, "webhook", "url")
        if isinstance(url, str) and not _url(url).path.endswith(f"/hooks/{name}"):
            text = f"does not end in /hooks/{name}: what stands in front has to lead there"
            yield ("channels", name, "webhook", "url"), text
        host = _url(url).hostname if isinstance(url, str) else ""
        if host and not is_loopback(host) and not _is_allowed(data, str(url)):
            text = (
                f"the host {quoted(host)} is not in http.allowed_hosts: every call is answered "
                "421, unless the front sends another host"
            )
            yield ("channels", name, "webhook", "url"), text


def _uncallable(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Yield each address on a port that Telegram calls nobody at; a Bot API of one's own may."""
    for name, table in _channels(data):
        url = _at(table, "webhook", "url")
        server = table.get("base_url", OFFICIAL_TELEGRAM_URL)
        official = isinstance(server, str) and _url(server).hostname == _OFFICIAL_HOST
        if table.get("kind") != "telegram" or not isinstance(url, str) or not official:
            continue

        port = _port(url)
        if port is not None and port not in _CALLED_PORTS:
            text = f"has port {port}, accepted are those that Telegram calls: 443, 80, 88 and 8443"
            yield ("channels", name, "webhook", "url"), text


def _named(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str, str]]:
    """Yield each key that names a channel's platform, its account or both."""
    routes = data.get("routes", [])
    for index, route in enumerate(routes if isinstance(routes, list) else []):
        platform, account = _text(route, "platform"), _text(route, "account")
        if (platform or account) and platform not in OF_THE_API:
            key = "account" if account else "platform"
            yield ("routes", index, key), platform, account
    tables = _at(data, "access", "platforms")
    for name in tables if isinstance(tables, dict) else ():
        platform, _, account = str(name).partition("/")
        if platform not in OF_THE_API:
            yield ("access", "platforms", str(name)), platform, account


def _shared_sockets(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    first: dict[str, str] = {}
    for name, table in _channels(data):
        if table.get("kind") != "loopback":
            continue

        given = table.get("path")
        path = given or os.path.join(str(data.get("state_dir", _STATE_DIR)), f"{name}.sock")  # noqa: PTH118 - as text
        other = first.setdefault(os.path.normpath(str(path)), name)
        if other != name:
            text = f"is the socket of {dotted(('channels', other))}, accepted is one for each"
            yield ("channels", name, "path") if given else ("channels", name), text


def _shared_tokens(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    first: dict[tuple[str, tuple[tuple[str, str], ...]], str] = {}
    for name, table in _channels(data):
        token = table.get("token")
        if not isinstance(token, dict):
            continue

        source = tuple(sorted((str(key), str(value)) for key, value in token.items()))
        other = first.setdefault((str(table.get("kind")), source), name)
        if other != name:
            text = f"is that of {dotted(('channels', other, 'token'))}, accepted is one for each"
            yield ("channels", name, "token"), text


def _all_accounts(data: Mapping[str, Any]) -> set[str]:
    tables = _at(data, "channels")
    return {str(name) for name in tables} if isinstance(tables, dict) else set()


def _channels(data: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    channels = data.get("channels", {})
    for name, table in channels.items() if isinstance(channels, dict) else ():
        if isinstance(table, dict):
            yield str(name), table


def _at(value: object, *path: str) -> object:
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _text(table: object, key: str) -> str:
    value = _at(table, key)
    return value if isinstance(value, str) else ""


def _is_allowed(data: Mapping[str, Any], url: str) -> bool:
    """Return whether the guard of the API takes requests for the host of an address."""
    names = _at(data, "http", "allowed_hosts")
    allowed = {str(name).lower() for name in names} if isinstance(names, list) else set[str]()
    allowed.add(_text(_at(data, "http"), "host").lower())
    parts = _url(url)
    return not allowed.isdisjoint({parts.hostname or "", parts.netloc.lower()})


def _port(url: str) -> int | None:
    try:
        return _url(url).port
    except ValueError:
        return None


def _url(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")
