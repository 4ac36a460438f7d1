"""Tries every secret that the configuration names, before anything needs it."""

from __future__ import annotations

import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from gateway.api.settings import MIN_TOKEN_CHARS
from gateway.channels.matrix.settings import problem_of_access_token
from gateway.channels.telegram.settings import problem_of_token, problem_of_webhook_secret
from gateway.config.keys import KeyPath, dotted
from gateway.config.model import GatewayConfig
from gateway.config.places import NO_PLACES
from gateway.config.schema import SECRET_TITLE, schema_of
from gateway.config.webhooks import unfit_secrets
from gateway.settings import SecretError, SecretSource
from gateway.signing.signatures import SECRET_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from gateway.config.places import Places

_TOKEN: Final[KeyPath] = ("http", "token")
_ANYONE: Final = 0o006
"""Modes that let every user of the machine read or replace a file."""
_FORMS: Final[Mapping[tuple[object, ...], Callable[[str], str]]] = {
    ("matrix", "token"): problem_of_access_token,
    ("telegram", "token"): problem_of_token,
    ("telegram", "webhook", "secret"): problem_of_webhook_secret,
}
"""By the platform and the key of a secret in its table, what says why it cannot be one there."""


def resolve_secrets(tree: Mapping[str, Any], places: Places = NO_PLACES) -> tuple[str, ...]:
    """Return a problem for each secret that cannot be had, is no secret, or opens two doors.

    Takes values as they are in the file, which may be wrong otherwise. The secrets are read and
    forgotten; whoever needs one resolves it again.
    """
    problems: list[str] = []
    values: dict[KeyPath, str] = {}
    for path, source in _sources(tree):
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
    problems += [places.problem(path, text) for path, text in _misshapen(tree, values)]
    problems += [places.problem(path, text) for path, text in _shared_tokens(tree, values)]
    problems += [places.problem(path, text) for path, text in unfit_secrets(values)]
    return tuple(problems)


def same_as_token(config: GatewayConfig, token: str) -> tuple[str, ...]:
    """Return a problem for each secret that is the token that the gateway made for its API.

    Only a start knows that token; secrets that cannot be had are told of elsewhere.
    """
    problems = []
    for path, source in _sources(config.to_dict()):
        try:
            value = source.resolve()
        except SecretError:
            continue
        if path != _TOKEN and token in {value, value.removeprefix(SECRET_PREFIX)}:
            text = "is the same secret as the token of the API, accepted is one of its own for each"
            problems.append(NO_PLACES.problem(path, text))
    return tuple(problems)


def _misshapen(
    tree: Mapping[str, Any], values: Mapping[KeyPath, str]
) -> Iterator[tuple[KeyPath, str]]:
    """Yield each secret of a platform that cannot be one there."""
    for path, value in values.items():
        if path[0] == "channels":
            kind = tree["channels"][path[1]]["kind"]
            problem_of = _FORMS.get((kind, *path[2:]))
            problem = problem_of(value) if problem_of else ""
            if problem:
                yield path, problem


def _shared_tokens(
    tree: Mapping[str, Any], values: Mapping[KeyPath, str]
) -> Iterator[tuple[KeyPath, str]]:
    """Yield each account of a platform that another table has as well: it has one client only.

    What the tables themselves say, one source for two of a platform, is told without the secrets.
    """
    first: dict[str, KeyPath] = {}
    tables = tree.get("channels", {})
    for path, value in values.items():
        if path[0] == "channels" and path[2:] == ("token",):
            other = first.setdefault(value, path)
            one, two = (tables[place[1]] for place in (other, path))
            told = one["kind"] == two["kind"] and one["token"] == two["token"]
            if other is not path and not told:
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


def _sources(tree: Mapping[str, Any]) -> Iterator[tuple[KeyPath, SecretSource]]:
    """Yield where each secret comes from, in the order of the values."""
    schema = schema_of(GatewayConfig)
    waiting: list[tuple[KeyPath, object]] = [((), tree)]
    while waiting:
        path, value = waiting.pop()
        node = schema.at(path, tree)
        if node is None:
            continue

        if node.get("title") == SECRET_TITLE:
            with suppress(ValidationError):
                yield path, SecretSource.model_validate(value)
        else:
            held = [((*path, part), one) for part, one in _items(value)]
            waiting += reversed([one for one in held if isinstance(one[1], dict | list)])


def _items(value: object) -> Iterable[tuple[str | int, object]]:
    if isinstance(value, dict):
        return value.items()

    return enumerate(value) if isinstance(value, list) else ()
