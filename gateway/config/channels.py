"""The rules between channels, and between them and the tables that name them.

Takes values as they are in the file: what has a wrong type is another check's affair.
"""

from __future__ import annotations

import os
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from gateway.config.keys import KeyPath, dotted, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_OF_THE_API: Final = frozenset({"http", "openai"})
"""Platforms without a table; the accounts of `openai` are the names of tokens."""
_STATE_DIR: Final = "state"


def broken_channels(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Yield each key of or about a channel that can never work."""
    yield from _shared_sockets(data)
    yield from _shared_tokens(data)
    for path, platform, account in _named(data):
        known = _accounts(data).get(platform, set()) if platform else _all_accounts(data)
        if account and known and account not in known:
            of = f"{platform} " if platform else ""
            accepted = ", ".join(sorted(known))
            yield (
                path,
                f"no {of}channel is called {quoted(account)}, accepted is one of: {accepted}",
            )


def doubtful_channels(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Yield each key about channels that does nothing as things are, though it may be meant so."""
    for path, platform, account in _named(data):
        if platform and platform not in _accounts(data):
            text = f"there is no channel of {quoted(platform)}, so this does nothing"
            yield path, text
        elif not platform and account and not _all_accounts(data):
            yield path, f"there is no channel {quoted(account)}, so this does nothing"
    for name, table in _channels(data):
        url = _at(table, "webhook", "url")
        if isinstance(url, str) and not _path_of(url).endswith(f"/hooks/{name}"):
            text = f"does not end in /hooks/{name}: what stands in front has to lead there"
            yield ("channels", name, "webhook", "url"), text


def _named(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str, str]]:
    """Yield each key that names a channel's platform, its account or both."""
    routes = data.get("routes", [])
    for index, route in enumerate(routes if isinstance(routes, list) else []):
        platform, account = _text(route, "platform"), _text(route, "account")
        if (platform or account) and platform not in _OF_THE_API:
            key = "account" if account else "platform"
            yield ("routes", index, key), platform, account
    tables = _at(data, "access", "platforms")
    for name in tables if isinstance(tables, dict) else ():
        platform, _, account = str(name).partition("/")
        if platform not in _OF_THE_API:
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


def _accounts(data: Mapping[str, Any]) -> Mapping[str, set[str]]:
    found = defaultdict[str, set[str]](set)
    for name, table in _channels(data):
        found[str(table.get("kind"))].add(name)
    return dict(found)


def _all_accounts(data: Mapping[str, Any]) -> set[str]:
    return {name for name, _ in _channels(data)}


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


def _path_of(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError:
        return ""
