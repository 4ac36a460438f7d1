"""The environment of programs that the gateway starts: what they are given, and nothing else.

Rooms whose settings name variables share these types, so that one rule holds for all of them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field

from gateway.settings import SecretError, SecretSource, broken_rule

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

INHERITED_VARIABLES: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "USER", "LOGNAME")
"""What a program needs of the daemon's environment, and nothing that is secret."""

VariableName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        json_schema_extra={"accepted": "a name of A-Z a-z 0-9 _ that begins with no digit"},
    ),
]
Argument = Annotated[
    str,
    Field(pattern=r"^[^\x00]*$", json_schema_extra={"accepted": "a NUL-free string"}),
]


def environment(
    inherit: Sequence[str], env: Mapping[str, str], secret_env: Mapping[str, SecretSource]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the whole environment of a program, and by variable why a secret cannot be had.

    Args:
        inherit: Variables of the daemon's own that it is given, where they are set.
        env: More of them; they win.
        secret_env: More of them, each where its secret is.
    """
    given = {name: os.environ[name] for name in inherit if name in os.environ} | dict(env)
    problems = {}
    for name, source in secret_env.items():
        try:
            given[name] = source.resolve()
        except SecretError as exc:
            problems[name] = str(exc)
    return given, problems


def check_variables(env: Mapping[str, str], secret_env: Mapping[str, SecretSource]) -> None:
    """Raise the error of a settings class where a variable stands in both of its tables."""
    for name in env.keys() & secret_env.keys():
        raise broken_rule("secret_env", "stands in env as well; accepted is one of them", name)
