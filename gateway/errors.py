"""Every error family of the gateway, and the exit code each one ends the daemon with.

The first sentence of a class's docstring is its default message. Facts go into attributes, so that
a caller can act on them without reading prose. Nothing here knows who raises or catches.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class ExitCode(IntEnum):
    """What the process status tells systemd and operators (values of sysexits.h)."""

    OK = 0
    DAMAGED_DATA = 65
    UNAVAILABLE = 69
    STORAGE = 74
    ALREADY_RUNNING = 75
    CONFIGURATION = 78


class GatewayError(Exception):
    """Something went wrong in the gateway."""

    exit_code: ClassVar[ExitCode] = ExitCode.STORAGE

    def __init__(self, message: str | None = None) -> None:
        """Take the first sentence of the class's docstring where no message is given."""
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])


class ConfigurationError(GatewayError):
    """The configuration is not usable."""

    exit_code = ExitCode.CONFIGURATION

    def __init__(self, problems: Sequence[str], *, warnings: Sequence[str] = ()) -> None:
        """Keep every problem, a line each: `file:line: key: what is wrong, what is accepted`.

        `warnings` are lines of the same form on values that alone would not be refused.
        """
        self.problems = tuple(problems)
        self.warnings = tuple(warnings)
        super().__init__("\n".join(self.problems))


class UnsafeStateDirectoryError(GatewayError):
    """The state directory can be read or changed by others, or belongs to another user."""

    exit_code = ExitCode.CONFIGURATION


class DatabaseTooNewError(GatewayError):
    """The database was written by a newer version of the gateway."""

    exit_code = ExitCode.CONFIGURATION


class DamagedDataError(GatewayError):
    """Stored data cannot be trusted."""

    exit_code = ExitCode.DAMAGED_DATA

    def __init__(self, path: Path, reason: str, *, offset: int | None = None) -> None:
        """Name the file and, where it is known, the offset in bytes of the damage."""
        self.path = path
        self.reason = reason
        self.offset = offset
        place = f"{path}" if offset is None else f"{path}: byte {offset}"
        super().__init__(f"{place}: {reason}")


class UnavailableError(GatewayError):
    """A needed service or port is not to be had."""

    exit_code = ExitCode.UNAVAILABLE


class AlreadyRunningError(GatewayError):
    """Another process holds the lock of the state directory."""

    exit_code = ExitCode.ALREADY_RUNNING

    def __init__(self, path: Path, owner: str) -> None:
        """Name the lock file and what it says of its holder."""
        self.path = path
        self.owner = owner
        super().__init__(f"{path}: held by another process ({owner})")


class StorageError(GatewayError):
    """The storage failed, and nothing written after the failure can be trusted."""

    exit_code = ExitCode.STORAGE


class SyncFailedError(StorageError):
    """The disk did not confirm what was written; what it holds now nobody knows."""


class StorageFullError(GatewayError):
    """The disk is full: the change was refused, nothing of it was applied."""


class StorageBusyError(GatewayError):
    """Another program holds the database; the change was refused, nothing of it was applied."""

    exit_code = ExitCode.UNAVAILABLE


class RefusedError(GatewayError):
    """The request was refused, and left no trace."""


class NotFoundError(RefusedError):
    """There is no such thing."""


class ConflictError(RefusedError):
    """The present state does not allow this."""


class BadRequestError(RefusedError):
    """The request itself is wrong."""


class ForbiddenError(RefusedError):
    """The sender may not."""


class BusyError(RefusedError):
    """Too much is waiting already."""

    def __init__(self, message: str, *, retry_after_s: float, caller_limit: bool) -> None:
        """Tell the limit hit: the caller's own (`caller_limit`) or the gateway's."""
        self.retry_after_s = retry_after_s
        self.caller_limit = caller_limit
        super().__init__(message)


class AgentFailure(StrEnum):
    """Why an agent could not answer, as far as another one might."""

    OTHER = "other"
    """The request, the answer or the set-up is wrong: another try would fail as well."""
    RATE_LIMIT = "rate_limit"
    OUTAGE = "outage"
    """The provider is overloaded, silent, out of order or cannot be reached."""
    OVERFLOW = "overflow"
    """The request does not fit the window."""
    BUDGET = "budget"
    """A budget of the gateway's own is used up."""


class AgentError(GatewayError):
    """The agent could not answer."""

    def __init__(
        self,
        message: str,
        *,
        user_text: str | None = None,
        failure: AgentFailure = AgentFailure.OTHER,
        retry_after_s: float | None = None,
    ) -> None:
        """Keep what the log says apart from what the user may read.

        `retry_after_s` is the pause that the provider asks for.
        """
        self.user_text = user_text or "The agent could not answer. Please try again later."
        self.failure = failure
        self.retry_after_s = retry_after_s
        super().__init__(message)


def gateway_errors(group: BaseExceptionGroup[BaseException]) -> list[GatewayError]:
    """Return the gateway's own errors in a group, at any depth."""
    found: list[GatewayError] = []
    for error in group.exceptions:
        if isinstance(error, GatewayError):
            found.append(error)
        elif isinstance(error, BaseExceptionGroup):
            found += gateway_errors(error)
    return found
