"""Settings of background processes."""

from __future__ import annotations

import shlex
import shutil
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from gateway.errors import BadRequestError
from gateway.model import clean_text
from gateway.settings import PathSetting, SecretSource, Settings
from gateway.variables import INHERITED_VARIABLES, Argument, VariableName, check_variables

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class ProcessSettings(Settings):
    """Programs that run for a session in the background, beside its turns and beyond them.

    The tool `process` and the command `/bg` start them.
    """

    enabled: bool = False
    """Whether any can be started: whoever may write to an agent that has the tool, or `/bg`, runs
    programs as the gateway's user."""
    bg: Literal["admins", "everybody"] = "admins"
    """Who may start one with `/bg`: `admins` (of `[access]`), or `everybody` who may talk. Who
    starts one through an agent goes by that agent's tools."""
    shell: list[Argument] = Field(default_factory=list)
    """What a command that is one text is given to as its last argument, such as
    `["/bin/sh", "-c"]`; empty: no shell reads commands, they are lists of words."""
    cwd: PathSetting | None = None
    """The directory they run in; left out: an empty one for each, deleted with its record of
    output once its end is told."""
    inherit_env: list[VariableName] = Field(
        default_factory=lambda: list(INHERITED_VARIABLES),
        json_schema_extra={"accepted": "a list of names of variables"},
    )
    """The daemon's variables that they are given; no other is, so that no secret leaks."""
    env: dict[VariableName, Argument] = Field(default_factory=dict)
    """More variables, and their values; they win over `inherit_env`."""
    secret_env: dict[VariableName, SecretSource] = Field(default_factory=dict)
    """More variables whose values are secrets: `{ NAME = { file = ... } }`, `{ env = ... }` or
    `{ credential = ... }`."""
    max_running: Annotated[int, Field(gt=0, le=1_000)] = 8
    """How many run at once; more are refused."""
    max_running_per_session: Annotated[int, Field(gt=0, le=1_000)] = 2
    """How many of one session run at once."""
    max_output_bytes: Annotated[int, Field(ge=1_024, le=1_073_741_824)] = 1_048_576
    """How much of the end of its output is kept of each, in bytes."""
    timeout_s: Annotated[float, Field(ge=0, le=31_536_000)] = 86_400.0
    """How long one may run, in seconds, before it is ended; 0: as long as it likes."""
    guard_max_age_s: Annotated[float, Field(gt=0, le=31_536_000)] = 86_400.0
    """How long one keeps its session from being reset and pruned, in seconds; it is not ended."""
    report: Literal["turn", "message"] = "turn"
    """What its end becomes in its session: a `turn`, which the agent answers, or a `message` to the
    user."""
    runner: PathSetting | None = None
    """The socket of `gateway runner`, which then starts them, so that they outlive a restart of the
    gateway under systemd; left out: the gateway starts them itself."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        check_variables(self.env, self.secret_env)
        return self


def words_of(settings: ProcessSettings, command: str | Sequence[str]) -> tuple[str, ...]:
    """Return the words that a command is started with; a text goes to the configured shell.

    Raises:
        BadRequestError: It is empty, no text, or is one text and no shell is configured.
    """
    if isinstance(command, str):
        if not settings.shell:
            raise BadRequestError(
                "No shell is configured: give the command as a list, the program and its arguments."
            )

        # Of a blank text the shell would make a process that does nothing.
        words = (*settings.shell, command) if command.strip() else ()
    else:
        words = tuple(command)
    if not words or not words[0].strip():
        raise BadRequestError("The command is empty.")
    if not all(map(_can_be_given, words)):
        raise BadRequestError("The command holds a NUL character or half of a surrogate pair.")

    return words


def _can_be_given(word: str) -> bool:
    return clean_text(word) == word


def typed_words(settings: ProcessSettings, text: str) -> tuple[str, ...]:
    """Return the words of a command as people type it; without a shell, quotes hold words together.

    Raises:
        BadRequestError: It is empty, has a NUL, or a quote that does not end.
    """
    if settings.shell:
        return words_of(settings, text)

    try:
        return words_of(settings, shlex.split(text))
    except ValueError as exc:
        raise BadRequestError("The command has a quote that does not end.") from exc


def lacking_here(settings: ProcessSettings) -> Iterator[tuple[str, str]]:
    """Yield key and problem for each thing that is named and this machine lacks."""
    if not settings.enabled:
        return

    if settings.shell and shutil.which(settings.shell[0]) is None:
        yield "shell", f"there is no program {settings.shell[0]!r} that can be executed"
    if settings.cwd is not None and not settings.cwd.is_dir():
        problem = f"there is no directory {str(settings.cwd)!r}; accepted is one that there is"
        yield "cwd", problem
