"""The rules of webhooks that one table alone cannot keep: names, and secrets of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.config.keys import KeyPath, dotted
from gateway.signing.signatures import key_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def repeated_names(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Yield the name of each webhook that another one before it has.

    Takes values as they are in the file: what has a wrong type is another check's affair.
    """
    webhooks, seen = data.get("webhooks", []), set[str]()
    for index, one in enumerate(webhooks if isinstance(webhooks, list) else []):
        name = one.get("name") if isinstance(one, dict) else None
        if isinstance(name, str) and name in seen:
            yield ("webhooks", index, "name"), "is taken, accepted is a name of its own for each"
        elif isinstance(name, str):
            seen.add(name)


def unfit_secrets(values: Mapping[KeyPath, str]) -> Iterator[tuple[KeyPath, str]]:
    """Yield each secret that cannot sign, or that opens two doors.

    Args:
        values: Secrets by their keys, those of all parts.
    """
    first: dict[bytes, KeyPath] = {}
    others = {value: path for path, value in values.items() if not _opens_a_hook(path)}
    for path, value in values.items():
        if not _opens_a_hook(path):
            continue
        try:
            key = key_of(value) if _signs(path) else value.encode()
        except ValueError as error:
            yield path, str(error)
            continue
        other = first.setdefault(key, path)
        if other is path:
            other = others.get(value, path)
        # That it is the token of the API is told of all keys alike.
        if other not in {path, ("http", "token")}:
            text = f"is the same secret as {dotted(other)}, accepted is one of its own for each"
            yield path, text


def _opens_a_hook(path: KeyPath) -> bool:
    return _signs(path) or (path[0] == "channels" and path[2:] == ("webhook", "secret"))


def _signs(path: KeyPath) -> bool:
    """Return whether a key names a secret of Standard Webhooks."""
    if path[0] == "webhooks":
        return path[2:] == ("secret",)

    return path[0] == "channels" and (path[2:3] == ("secrets",) or path[2:] == ("reply_secret",))
