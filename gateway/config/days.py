"""The one key that is mended instead of refused: `session_store_max_age_days`.

It decides what is thrown away, so its rules are a contract of their own: a wrong type, a truth
value, NaN and infinity become the default, a negative number becomes 0 (keep for ever), a number in
a string counts. Each of these is a warning.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any, Final

from gateway.config.keys import kind_of, shown

KEY: Final = "session_store_max_age_days"
DEFAULT_MAX_AGE_DAYS: Final = 90.0
_ACCEPTED: Final = "accepted is a number of days from 0, where 0 keeps sessions for ever"


@dataclass(frozen=True, slots=True)
class Coercion:
    """A value that was not taken as it stood."""

    key: str
    accepted: float
    """What is used instead, in days."""
    wrong: str
    """What was wrong."""

    @property
    def text(self) -> str:
        """What was wrong, what is used, what is accepted."""
        return f"{self.wrong}, {self.accepted:g} is used, {_ACCEPTED}"

    @property
    def text_of_refused(self) -> str:
        """The same where nothing is used, because other values are not usable."""
        return f"{self.wrong}, {_ACCEPTED}"


def take_max_age(tree: dict[str, Any], *, text_is_plain: bool = False) -> Coercion | None:
    """Put a usable number of days in the place of the value, if the key is there at all.

    Args:
        tree: The top level of the configuration; changed in place.
        text_is_plain: The value comes from where everything is text: a number in it is no fault.
    """
    if KEY not in tree:
        return None

    given = tree[KEY]
    number, wrong = _number(given, text_is_plain=text_is_plain)
    tree[KEY] = number
    if not wrong:
        return None

    return Coercion(KEY, number, f"{shown(given)} {wrong}".strip())


def _number(given: object, *, text_is_plain: bool) -> tuple[float, str]:
    value = _finite(given)
    if value is None:
        return DEFAULT_MAX_AGE_DAYS, _why_not(given)
    if value < 0:
        return 0.0, "is below 0"

    in_quotes = isinstance(given, str) and not text_is_plain
    return abs(value), "is a string" if in_quotes else ""


def _finite(given: object) -> float | None:
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        return None

    try:
        value = float(given)
    except ValueError:
        return None
    except OverflowError:  # a whole number beyond any calendar; its sign is all that matters
        return math.copysign(sys.float_info.max, 1 if isinstance(given, int) and given > 0 else -1)

    return value if math.isfinite(value) else None


def _why_not(given: object) -> str:
    if isinstance(given, float):
        return "is not finite"
    if isinstance(given, str):
        return "is not a finite number"

    return f"is {kind_of(given)}"
