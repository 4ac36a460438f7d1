"""Tries every secret that the configuration names, before anything needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel

from gateway.config.keys import dotted
from gateway.config.places import NO_PLACES
from gateway.settings import SecretError, SecretSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.config.keys import KeyPath
    from gateway.config.model import GatewayConfig
    from gateway.config.places import Places


def resolve_secrets(config: GatewayConfig, places: Places = NO_PLACES) -> tuple[str, ...]:
    """Return a problem for each secret that cannot be had or that opens two doors.

    The values are read and forgotten; whoever needs one resolves it again.
    """
    problems: list[str] = []
    values: dict[KeyPath, str] = {}
    for path, source in _sources(config, ()):
        try:
            values[path] = source.resolve()
        except SecretError as exc:
            problems.append(places.problem(path, f"{exc}, accepted is a secret of your own"))
    token = ("http", "token")
    for path, value in values.items():
        if path != token and value == values.get(token):
            text = f"is the same secret as {dotted(token)}, accepted is one of its own for each"
            problems.append(places.problem(path, text))
    return tuple(problems)


def _sources(value: object, path: KeyPath) -> Iterator[tuple[KeyPath, SecretSource]]:
    if isinstance(value, SecretSource):
        yield path, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _sources(getattr(value, name), (*path, name))
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _sources(item, (*path, str(name)))
