"""How many processes there are: as statistics tell it, and as the limits allow it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.errors import BusyError

if TYPE_CHECKING:
    from gateway.processes.settings import ProcessSettings

_RETRY_AFTER_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class ProcessStatistics:
    """What became of the processes since the start."""

    running: int
    unreported: int
    """Ended, and their sessions are not told yet."""
    overdue: int
    """Running, and too old to keep their sessions."""
    started: int
    adopted: int
    """Found running at the start."""
    lost: int
    reported: int


def check_limits(settings: ProcessSettings, *, of_session: int, of_all: int) -> None:
    """Raise where one more may not be started.

    Raises:
        BusyError: So many run already.
    """
    most = settings.max_running_per_session
    if of_session >= most:
        text = f"{of_session} of the {most} processes that this session may have run; stop one."
        raise BusyError(text, retry_after_s=_RETRY_AFTER_S, caller_limit=True)
    if of_all >= settings.max_running:
        text = f"{of_all} of {settings.max_running} processes run already; try again later."
        raise BusyError(text, retry_after_s=_RETRY_AFTER_S, caller_limit=False)
