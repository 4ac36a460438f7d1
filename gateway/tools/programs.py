"""What the program of a server needs of this machine. Starts nothing, and imports no SDK."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from gateway.variables import environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.tools.settings import McpServerSettings


def inherited_environment(settings: McpServerSettings) -> dict[str, str]:
    """Return the variables that a program gets, secrets aside: the configured ones win."""
    return environment(settings.inherit_env, settings.env, {})[0]


def lacking_here(settings: McpServerSettings) -> Iterator[tuple[str, str]]:
    """Yield each key of a server whose program or directory is not there, and what is wrong."""
    if settings.command is None:
        return

    if settings.cwd is not None and not settings.cwd.is_dir():
        yield "cwd", f"there is no directory {str(settings.cwd)!r}; accepted is one that there is"
    elif _found(settings, settings.command[0]) is None:
        problem = f"there is no program {settings.command[0]!r} that can be executed"
        accepted = "a path, or a name that is found on the PATH that it is given"
        yield "command", f"{problem}; accepted is {accepted}"


def _found(settings: McpServerSettings, program: str) -> str | None:
    """Return where a program lies, as it is looked for once its directory is entered."""
    directory = str(settings.cwd or "")
    if "/" in program:
        return shutil.which(os.path.join(directory, program))  # noqa: PTH118 - `.` must stay

    # A variable may be a secret, and then any program may be there.
    if "PATH" in settings.secret_env:
        return program

    path = inherited_environment(settings).get("PATH", os.defpath)
    places = (os.path.join(directory, place or ".") for place in path.split(os.pathsep))  # noqa: PTH118
    return shutil.which(program, path=os.pathsep.join(places))
