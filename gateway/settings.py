"""The base of every settings class, and secrets that live outside the configuration file.

Each part of the gateway owns its settings class; `gateway.config` only puts them together.
"""

from __future__ import annotations

import os
import re
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

if TYPE_CHECKING:
    from collections.abc import Iterable

_PLACEHOLDER_WORDS: Final = (
    "api bot change enter example goes here insert key me my none null password placeholder please "
    "put random replace secret the this token undefined webhook with x your"
)
# A word once taken is not taken otherwise: the time goes by the length alone.
_PLACEHOLDER: Final = re.compile(
    rf"[\W_]*+(?>(?>{_PLACEHOLDER_WORDS.replace(' ', '|')})[\W_]*+)++", re.IGNORECASE
)


class Settings(BaseModel):
    """Frozen settings that take neither unknown keys nor values of a wrong type."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,  # the input may be a secret
    )


def broken_rule(key: str, text: str, *more: str | int) -> ValidationError:
    """Make the error of a rule between keys, so that it names the key at fault.

    Args:
        key: The key, seen from the class that validates itself; `more` leads further down.
        text: What is wrong and what is accepted, in one sentence of ours.
    """
    return broken_rules([((key, *more), text)])


def broken_rules(found: Iterable[tuple[tuple[str | int, ...], str]]) -> ValidationError:
    """Make one error of several; each has its path, seen from what validates itself, and text."""
    return ValidationError.from_exception_data(
        "settings",
        [
            InitErrorDetails(
                type=PydanticCustomError("broken_rule", "{text}", {"text": text}),
                loc=path,
                input=None,
            )
            for path, text in found
        ],
    )


def _path(value: object) -> object:
    if not isinstance(value, str):
        return value

    if not value or "\0" in value:
        raise ValueError("is no path, accepted is a path with at least one character and no NUL")

    return Path(value)


PathSetting = Annotated[Path, BeforeValidator(_path)]
"""A path, written as a string in TOML."""


def is_placeholder(secret: str) -> bool:
    """Return whether a value is made of what stands in examples and broken templates alone.

    Such are `changeme`, `undefined`, `xxx` and `your-secret-goes-here`.
    """
    return _PLACEHOLDER.fullmatch(secret) is not None


class SecretError(ValueError):
    """A secret cannot be had or is a placeholder; the message never shows its value."""


class SecretSource(Settings):
    """Where a secret comes from: exactly one of the three. Its value is never in the file."""

    file: str | None = None
    """A file that holds the secret and nothing else; white space around it is dropped."""
    env: str | None = None
    """The name of an environment variable."""
    credential: str | None = None
    """The name of a systemd credential (`LoadCredential=`)."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if sum(map(bool, (self.file, self.env, self.credential))) != 1:
            raise ValueError("give exactly one of file, env, credential")
        return self

    def resolve(self) -> str:
        """Return the secret.

        Raises:
            SecretError: it is missing, unreadable, blank or a placeholder.
        """
        if self.env:
            place, value = f"environment variable {self.env}", os.environ.get(self.env)
        else:
            path = self._path()
            place, value = f"file {path}", _read(path)
        if value is None:
            raise SecretError(f"{place} is not there or cannot be read")

        secret = value.strip()
        if not secret or is_placeholder(secret):
            raise SecretError(f"{place} is blank or holds a placeholder, not a secret")

        return secret

    def _path(self) -> Path:
        if self.file:
            return Path(self.file)

        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        if not directory:
            raise SecretError(
                f"credential {self.credential} is there for the service alone: "
                "$CREDENTIALS_DIRECTORY is not set"
            )

        return Path(directory, self.credential or "")


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):  # ValueError: not UTF-8, or a NUL in the name
        return None


def is_loopback(host: str) -> bool:
    """Return whether a host, as a URL or a setting names it, is this machine alone."""
    if host == "localhost":
        return True

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_url(url: str, *, such_as: str) -> str:
    """Return an address that can be used; raise `ValueError` where it cannot."""
    if not _is_plain_http_url(url):
        raise ValueError(
            "not a usable address; accepted is http:// or https://, a host, a port if any "
            f"and a path, without user, query and fragment, such as {such_as}"
        )

    return url


def check_guarded_url(url: str, *, such_as: str, fault: str) -> str:
    """Return an address that nobody can read along on the way to; raise `ValueError` for another.

    `fault` says what would become of it, such as "would send the token in the clear".
    """
    check_url(url, such_as=such_as)
    parts = urlsplit(url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError(
            f"{fault}; accepted is https://, or http:// on this machine, such as {such_as}"
        )

    return url


def _is_plain_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port_is_sound = parts.port != 0
    except ValueError:
        return False

    extras = (parts.username, parts.password, parts.query, parts.fragment)
    printable = url.isascii() and url.isprintable() and " " not in url
    return bool(
        printable
        and port_is_sound
        and parts.scheme in {"http", "https"}
        and parts.hostname
        and not any(extras)
    )
