"""Tries every secret that the configuration names, before anything needs it."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel

from gateway.api.settings import MIN_TOKEN_CHARS
from gateway.channels.matrix_settings import MatrixSettings, problem_of_access_token
from gateway.channels.telegram_settings import (
    TelegramSettings,
    problem_of_token,
    problem_of_webhook_secret,
)
from gateway.config.keys import KeyPath, dotted
from gateway.config.places import NO_PLACES
from gateway.config.webhooks import unfit_secrets
from gateway.settings import SecretError, SecretSource
from gateway.signing.signatures import SECRET_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from gateway.channels.settings import ChannelSettings
    from gateway.config.model import GatewayConfig
    from gateway.config.places import Places

_TOKEN: Final[KeyPath] = ("http", "token")
_ANYONE: Final = 0o006
"""Modes that let every user of the machine read or replace a file."""


def resolve_secrets(config: GatewayConfig, places: Places = NO_PLACES) -> tuple[str, ...]:
    """Return a problem for each secret that cannot be had, is no secret, or opens two doors.

    The values are read and forgotten; whoever needs one resolves it again.
    """
    problems: list[str] = []
    values: dict[KeyPath, str] = {}
    for path, source in _sources(config, ()):
        try:
            values[path] = source.resolve()
        except SecretError as exc:
            problems.append(places.problem(path, f"{exc}, accepted is a secret of your own"))
            continue
        problems += [places.problem(path, text) for text in _exposed(source)]
    token = values.get(_TOKEN)
    if token is not None and len(token) < MIN_TOKEN_CHARS:
        text = f"is too short, accepted are {MIN_TOKEN_CHARS} characters or more"
        problems.append(places.problem(_TOKEN, text))
    for path, value in values.items():
        if path != _TOKEN and value == token:
            text = f"is the same secret as {dotted(_TOKEN)}, accepted is one of its own for each"
            problems.append(places.problem(path, text))
    problems += [places.problem(path, text) for path, text in _misshapen(config, values)]
    problems += [places.problem(path, text) for path, text in _shared_tokens(values)]
    problems += [places.problem(path, text) for path, text in unfit_secrets(values)]
    return tuple(problems)


def same_as_token(config: GatewayConfig, token: str) -> tuple[str, ...]:
    """Return a problem for each secret that is the token that the gateway made for its API.

    Only a start knows that token; secrets that cannot be had are told of elsewhere.
    """
    problems = []
    for path, source in _sources(config, ()):
        try:
            value = source.resolve()
        except SecretError:
            continue
        if path != _TOKEN and token in {value, value.removeprefix(SECRET_PREFIX)}:
            text = "is the same secret as the token of the API, accepted is one of its own for each"
            problems.append(NO_PLACES.problem(path, text))
    return tuple(problems)


def _misshapen(
    config: GatewayConfig, values: Mapping[KeyPath, str]
) -> Iterator[tuple[KeyPath, str]]:
    """Yield each secret of a platform that cannot be one there."""
    for name, channel in config.channels.items():
        for keys, problem_of in _forms(channel):
            path = ("channels", name, *keys)
            problem = problem_of(values[path]) if path in values else ""
            if problem:
                yield path, problem


def _forms(channel: ChannelSettings) -> Iterator[tuple[tuple[str, ...], Callable[[str], str]]]:
    """Yield what says why a secret cannot be one on its platform, by its key."""
    match channel:
        case MatrixSettings():
            yield ("token",), problem_of_access_token
        case TelegramSettings():
            yield ("token",), problem_of_token
            yield ("webhook", "secret"), problem_of_webhook_secret


def _shared_tokens(values: Mapping[KeyPath, str]) -> Iterator[tuple[KeyPath, str]]:
    """Yield each account of a platform that another table has as well: it has one client only."""
    first: dict[str, KeyPath] = {}
    for path, value in values.items():
        if path[0] == "channels" and path[2:] == ("token",):
            other = first.setdefault(value, path)
            if other is not path:
                yield path, f"is the same as {dotted(other)}, accepted is one table for each token"


def _exposed(source: SecretSource) -> Iterator[str]:
    """Yield what is wrong with the mode of a secret's file."""
    if not source.file:
        return

    path = Path(source.file)
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as exc:
        yield f"file {path} cannot be looked at ({exc.strerror}), accepted is one that can"
        return

    if mode & _ANYONE:
        yield f"file {path} is open to everyone (mode {mode:04o}), accepted are 0600 and 0640"


def _sources(value: object, path: KeyPath) -> Iterator[tuple[KeyPath, SecretSource]]:
    if isinstance(value, SecretSource):
        yield path, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _sources(getattr(value, name), (*path, name))
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _sources(item, (*path, str(name)))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _sources(item, (*path, index))
