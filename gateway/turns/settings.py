"""Settings of the turn pipeline: its bounds and its deadlines."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from gateway.settings import Settings


class Busy(StrEnum):
    """What a message does whose session has a turn that runs."""

    QUEUE = "queue"
    INTERRUPT = "interrupt"
    REFUSE = "refuse"


class Interrupted(StrEnum):
    """What becomes of a turn that a stop of the gateway cut off."""

    RERUN = "rerun"
    TELL = "tell"


class TurnSettings(Settings):
    """The bounds on what may wait and run, and how long."""

    turn_deadline_s: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    """How long a turn may take, in seconds, before the user is told that it took too long."""
    approval_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 120.0
    """How long a user may take to say whether a tool may run, in seconds; no answer is a no.
    `turn_deadline_s` counts on meanwhile."""
    busy: Annotated[Busy, Field(strict=False)] = Busy.QUEUE
    """What a message does whose session has a turn that runs: `queue` (it waits), `interrupt` (the
    turn ends, and the message is next) or `refuse`."""
    interrupted: Annotated[Interrupted, Field(strict=False)] = Interrupted.RERUN
    """What becomes of a turn that a stop of the gateway cut off: `rerun` (once more at most) or
    `tell` (the user is told that there is no answer)."""
    grace_s: Annotated[float, Field(gt=0, le=600)] = 15.0
    """How long running turns may go on after a request to stop, in seconds; must stay below
    `TimeoutStopSec` of the unit."""
    max_running: Annotated[int, Field(ge=1, le=10_000)] = 32
    """How many turns run at once; those that wait for the user's yes to a tool are not counted."""
    max_waiting: Annotated[int, Field(ge=1, le=1_000_000)] = 2_000
    """How many accepted messages may wait for their turn or for the user's yes to a tool, over all
    sessions."""
    max_waiting_per_session: Annotated[int, Field(ge=0, le=10_000)] = 20
    """How many accepted messages may wait behind a running turn of one session."""
    messages_per_minute: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """How many messages a minute one session may send, all of them at once if it likes; 0 is no
    limit."""
    messages_per_minute_per_user: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """How many messages a minute one user may send, over all sessions; 0 is no limit."""
    max_text_chars: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    """The longest message taken, in characters."""
