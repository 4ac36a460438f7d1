"""Reads the configuration: defaults, then the file, the environment, the command line.

A later one wins, key by key. Everything is checked before anything is used, and every problem is
told at once, with the place it came from. Above it are the daemon and the command line.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gateway.config.bounds import idle_bounds
from gateway.config.channels import doubtful_channels
from gateway.config.check import LEVEL_SEPARATOR, VARIABLE_PREFIX, check
from gateway.config.days import KEY as MAX_AGE_KEY
from gateway.config.days import take_max_age
from gateway.config.doubts import idle_entries
from gateway.config.keys import printable
from gateway.config.locate import locate_keys
from gateway.config.model import GatewayConfig, broken_references
from gateway.config.places import Places
from gateway.config.schema import schema_of
from gateway.config.sound import sound_parts
from gateway.errors import ConfigurationError
from gateway.settings import SecretSource

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.config.keys import KeyPath

FILE_VARIABLE: Final = "GATEWAY_CONFIG"
"""Names the file where the command line does not."""
MAX_FILE_BYTES: Final = 1_048_576
_AT_LINE: Final = re.compile(r" ?\(at line (\d+), column (\d+)\)$")


class RefusedConfigurationError(ConfigurationError):
    """The configuration is not usable."""

    def __init__(
        self,
        problems: Sequence[str],
        *,
        warnings: Sequence[str],
        given: Mapping[str, Any],
        sound: GatewayConfig,
        places: Places,
    ) -> None:
        """Keep its values, what of it is right and where it came from, to be looked at further."""
        super().__init__(problems, warnings=warnings)
        self.given = given
        self.sound = sound
        self.places = places


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that can be used, and what people should know of it."""

    config: GatewayConfig
    warnings: tuple[str, ...]
    """Values that were mended, as `file:line: key: what was wrong, what is used`."""
    places: Places
    """Where the values came from."""
    doubts: tuple[str, ...] = ()
    """What can be used and does nothing as it stands, told in the same way."""
    warnings_if_refused: tuple[str, ...] = ()
    """The warnings where something else refuses the configuration, so that nothing is used."""


def load(path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, object]) -> Loaded:
    """Return the configuration that the file and what overrides it make.

    Args:
        path: The file; None takes the one that `GATEWAY_CONFIG` names, or the defaults alone.
        environ: The environment. `GATEWAY_HTTP__PORT` sets `http.port`; where no string is
            wanted, the value is read as JSON.
        overrides: Values of the command line by dotted key; a string is read as in the
            environment.

    Raises:
        ConfigurationError: every problem at once; a `RefusedConfigurationError` where it could be
            read.
    """
    if path is None and environ.get(FILE_VARIABLE):
        path = Path(environ[FILE_VARIABLE])
    tree, lines = _read_file(path) if path else ({}, {})
    values = _from_environment(environ, _secret_variables(tree, environ))
    values += [(tuple(key.split(".")), value, "command line") for key, value in overrides.items()]
    if any(key[0] == "agents" for key, _, _ in values):
        tree.setdefault("agents", _default_agents())
    for secret in _secrets_named_anew(tree, [key for key, _, _ in values]):
        lines = _without(tree, lines, secret)

    texts: dict[KeyPath, str] = {}
    problems: list[str] = []
    for key, value, label in values:
        wrong = _put(tree, key, value)
        if wrong:
            problems.append(Places(texts={key: label}).problem(key, wrong))
        else:
            texts[key] = label
            lines = _not_below(key, lines)
    return _checked(tree, Places(_name(path) if path else "", lines, texts), problems)


def _checked(tree: dict[str, Any], places: Places, problems: list[str]) -> Loaded:
    coercion = take_max_age(tree, text_is_plain=(MAX_AGE_KEY,) in places.texts)
    config, found = check(GatewayConfig, tree, places, broken_references)
    warnings: tuple[str, ...] = ()
    if_refused: tuple[str, ...] = ()
    if coercion:
        key = (coercion.key,)
        warnings = (places.problem(key, coercion.text),)
        if_refused = (places.problem(key, coercion.text_of_refused),)
    if config is None or problems:
        raise RefusedConfigurationError(
            (*found, *problems),
            warnings=if_refused,
            given=tree,
            sound=config or sound_parts(GatewayConfig, tree),
            places=places,
        )

    found_doubts = [*doubtful_channels(tree), *idle_bounds(tree), *idle_entries(tree)]
    doubts = tuple(places.problem(path, text) for path, text in found_doubts)
    return Loaded(config, warnings, places, doubts, if_refused)


def _read_file(path: Path) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """Return the values of a file and the line of each key."""
    text = _read_text(path)
    try:
        return tomllib.loads(text), locate_keys(text)
    except tomllib.TOMLDecodeError as exc:
        place, what = _syntax(str(exc), text)
    except RecursionError:
        place, what = "", "nests too deeply, accepted are a few levels"
    except ValueError:  # a number of thousands of digits
        place, what = "", "holds a number that is too long, accepted are at most 4300 digits"
    raise ConfigurationError([f"{_name(path)}{place}: {what}"])


def _syntax(message: str, text: str) -> tuple[str, str]:
    match = _AT_LINE.search(message)
    if match is None:
        last = text.rstrip().count("\n") + 1
        what = message.replace(" (at end of document)", "")
        return f":{last}", f"is not valid TOML at the end of the file: {what}"

    line, column = match.groups()
    return f":{line}", f"is not valid TOML at column {column}: {message[: match.start()]}"


def _read_text(path: Path) -> str:
    name = _name(path)
    content = _read_bytes(path)
    if len(content) > MAX_FILE_BYTES:
        problem = f"{name}: is too large, accepted are at most {MAX_FILE_BYTES} bytes"
        raise ConfigurationError([problem])

    try:
        text = content.decode()
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        problem = f"{name}:{line}: is not valid UTF-8, accepted is TOML in UTF-8"
        raise ConfigurationError([problem]) from None

    if text.startswith("\ufeff"):
        problem = f"{name}:1: begins with a byte order mark, accepted is UTF-8 without one"
        raise ConfigurationError([problem])

    return text


def _read_bytes(path: Path) -> bytes:
    """Return at most one byte more than is accepted."""
    try:
        # Only a regular file: a pipe would block, and SIGHUP could not read it again.
        if not path.is_file():
            missing = "is not a regular file" if path.exists() else "is not there"
            raise ConfigurationError([f"{_name(path)}: {missing}, accepted is a TOML file"])

        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the name
        why = getattr(exc, "strerror", None) or "its name holds a NUL"
        raise ConfigurationError([f"{_name(path)}: cannot be read ({why})"]) from exc


def _from_environment(
    environ: Mapping[str, str], secret_variables: set[str]
) -> list[tuple[KeyPath, object, str]]:
    """Return key, value and label of each variable that is ours, what holds others first."""
    return [
        (
            tuple(name.removeprefix(VARIABLE_PREFIX).lower().split(LEVEL_SEPARATOR)),
            environ[name],
            f"environment {printable(name)}",
        )
        for name in sorted(environ)
        if name.startswith(VARIABLE_PREFIX)
        and name != FILE_VARIABLE
        and name not in secret_variables
    ]


def _secret_variables(tree: Mapping[str, Any], environ: Mapping[str, str]) -> set[str]:
    """Return the variables that hold secrets by order of the configuration: no keys of ours."""
    marker = f"{LEVEL_SEPARATOR}ENV"
    named = {
        value
        for name, value in environ.items()
        if name.startswith(VARIABLE_PREFIX) and name.endswith(marker)
    }
    waiting: list[Any] = [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        if isinstance(value, dict):
            waiting += value.values()
            if isinstance(value.get("env"), str):
                named.add(value["env"])
    return named


def _secrets_named_anew(tree: dict[str, Any], keys: list[KeyPath]) -> set[KeyPath]:
    """Return the secrets whose place the environment or the command line names."""
    named = {key[:-1] for key in keys if key[-1] in SecretSource.model_fields}
    return {secret for secret in named if schema_of(GatewayConfig).is_secret(secret, tree)}


def _without(
    tree: dict[str, Any], lines: dict[KeyPath, int], secret: KeyPath
) -> dict[KeyPath, int]:
    """Forget what the file says of a secret, which has one place; return the lines that stay."""
    holder: object = tree
    for part in secret:
        holder = holder.get(str(part)) if isinstance(holder, dict) else None
    if not isinstance(holder, dict):
        return lines

    holder.clear()
    return _not_below(secret, lines)


def _not_below(path: KeyPath, lines: dict[KeyPath, int]) -> dict[KeyPath, int]:
    """Return the lines of the file without those of a key that holds something else now."""
    return {key: line for key, line in lines.items() if key[: len(path)] != path}


def _default_agents() -> dict[str, Any]:
    return {name: {"kind": agent.kind} for name, agent in GatewayConfig().agents.items()}


def _put(tree: dict[str, Any], path: KeyPath, value: object) -> str:
    """Set a value deep in the tree; return what is wrong with it, empty where nothing is."""
    if not all(_is_unicode(text) for text in (*path, value) if isinstance(text, str)):
        return "is not valid UTF-8, accepted is text in UTF-8"

    holder: object = tree
    table = tree
    for part in path:
        if not isinstance(holder, dict):
            return "what holds this key is no table, accepted is one"

        table, holder = holder, holder.setdefault(str(part), {})
    table[str(path[-1])] = value
    return ""


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _name(path: Path) -> str:
    return printable(str(path))
