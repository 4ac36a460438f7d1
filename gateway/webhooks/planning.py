"""When an event is posted again, and when it is given up. Pure.

Source: the retry schedule of Standard Webhooks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gateway.signing.posting import GONE, Answer, PostError

_MINUTE_S: Final = 60.0
_HOUR_S: Final = 3_600.0
PAUSES_S: Final = (
    5.0,
    5 * _MINUTE_S,
    30 * _MINUTE_S,
    2 * _HOUR_S,
    5 * _HOUR_S,
    10 * _HOUR_S,
    14 * _HOUR_S,
    20 * _HOUR_S,
    24 * _HOUR_S,
)
"""How long to wait after each try that failed; after one more the event is dead."""
MAX_ATTEMPTS: Final = len(PAUSES_S) + 1
JITTER: Final = 0.2
"""Pauses are longer by up to this share, so that not all events come again at once."""
LONGEST_WISH_S: Final = 48 * _HOUR_S
"""The longest pause that an endpoint is granted."""
LONGEST_PAUSE_S: Final = max(LONGEST_WISH_S, PAUSES_S[-1] * (1 + JITTER))


@dataclass(frozen=True, slots=True)
class Again:
    """Post it again after a pause."""

    error: str
    pause_s: float


@dataclass(frozen=True, slots=True)
class Gone:
    """The endpoint wants nothing any more."""

    error: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """It was posted as often as it may be."""

    error: str


def after_failure(
    outcome: Answer | PostError, attempts: int, share: float
) -> Again | Gone | GiveUp:
    """Decide about a try that failed.

    Args:
        outcome: What came of it.
        attempts: How often the event was posted, this try included.
        share: A random number from 0 to 1.
    """
    wish_s = 0.0
    if isinstance(outcome, Answer):
        error, wish_s = f"answered {outcome.status}", outcome.retry_after_s or 0.0
        if outcome.status == GONE:
            return Gone(error)
    else:
        error = str(outcome)
    if attempts >= MAX_ATTEMPTS:
        return GiveUp(f"given up after {attempts} tries: {error}")

    pause_s = PAUSES_S[attempts - 1] * (1 + JITTER * share)
    return Again(error, max(pause_s, min(wish_s, LONGEST_WISH_S)))
