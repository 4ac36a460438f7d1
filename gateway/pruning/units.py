"""Durations and sizes as people write them: `30d`, `1h30m`, `64MiB`. Only here are they read.

Pure. A text always has its unit; a bare number belongs in a key that names one (`_s`, `_bytes`).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

MAX_DURATION_S: Final = 36_525 * 86_400.0
"""A hundred years: longer ages leave the calendar."""
MAX_SIZE_BYTES: Final = 2**62
"""What a column of a database holds, with room to add up."""
DURATIONS: Final = "accepted is a duration such as 90s, 5m, 12h, 30d, 8w or 1h30m, at most 36525d"
SIZES: Final = "accepted is a size such as 500B, 100kB, 10MB, 64MiB or 2GiB"

_SECONDS: Final = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3_600),
    "d": Decimal(86_400),
    "w": Decimal(604_800),
}
_DECIMAL: Final = {f"{letter}B": 1_000**power for power, letter in enumerate("kMGT", 1)}
_BINARY: Final = {f"{letter}iB": 1_024**power for power, letter in enumerate("KMGT", 1)}
_BYTES: Final = {name.lower(): size for name, size in ({"B": 1} | _DECIMAL | _BINARY).items()}
_FEW: Final = 1_000
_FINE: Final = 10
_EXACT_DECIMALS: Final = 3
_NUMBER: Final = r"([0-9]{1,18}(?:\.[0-9]{1,9})?)"
_PART: Final = re.compile(rf"{_NUMBER} ?(ms|[smhdw])", re.ASCII)
_DURATION: Final = re.compile(rf"(?:{_NUMBER} ?(?:ms|[smhdw]) ?)+", re.ASCII)
_SIZE: Final = re.compile(rf"{_NUMBER} ?([kmgt]?i?b)", re.ASCII | re.IGNORECASE)


def parse_duration_s(text: str) -> float:
    """Return the seconds of a duration; each unit stands once, the larger before the smaller.

    Raises:
        ValueError: it is none, or too long; the message says what is accepted.
    """
    if not _DURATION.fullmatch(text):
        raise ValueError(f"is no duration, {DURATIONS}")

    parts = [(Decimal(number), _SECONDS[unit]) for number, unit in _PART.findall(text)]
    units_s = [unit_s for _, unit_s in parts]
    if units_s != sorted(set(units_s), reverse=True):
        raise ValueError(f"has its units twice or out of order, {DURATIONS}")

    duration_s = float(sum(number * unit_s for number, unit_s in parts))
    if duration_s > MAX_DURATION_S:
        raise ValueError(f"is too long, {DURATIONS}")

    return duration_s


def parse_size_bytes(text: str) -> int:
    """Return the bytes of a size; a fraction of a byte is dropped.

    Raises:
        ValueError: it is none, or too large; the message says what is accepted.
    """
    found = _SIZE.fullmatch(text)
    unit = _BYTES.get(found[2].lower()) if found else None
    if found is None or unit is None:
        raise ValueError(f"is no size, {SIZES}")

    size_bytes = int(Decimal(found[1]) * unit)
    if size_bytes > MAX_SIZE_BYTES:
        raise ValueError(f"is too large, {SIZES}")

    return size_bytes


def format_duration(duration_s: float) -> str:
    """Return a duration in the largest unit that it fills, to one decimal: `30d`, `1.5h`.

    What that would change is told in a smaller unit, if it has no more than three digits there:
    `100m`, not `1.7h`.
    """
    for unit in ("d", "h", "m", "s"):
        number = duration_s / float(_SECONDS[unit])
        if 1 <= abs(number) < _FEW and number == round(number, 1):
            return f"{_plain(number)}{unit}"

    for unit in ("d", "h", "m"):
        size_s = float(_SECONDS[unit])
        if abs(duration_s) >= size_s:
            return f"{_plain(duration_s / size_s)}{unit}"

    return f"{_plain(duration_s)}s"


def format_size(size_bytes: int, *, like: str = "") -> str:
    """Return a size in the largest binary unit that it fills: `64MiB`.

    A size that is not whole in that unit is rounded, and has decimals: `1.95KiB`, `195.3KiB`.

    Args:
        size_bytes: The size.
        like: A size as `exact_size` shows it; where its unit is decimal (`2kB`) that of this is.
    """
    units = _DECIMAL if like.endswith(tuple(_DECIMAL)) else _BINARY
    for unit, one in reversed(units.items()):
        if abs(size_bytes) >= one:
            whole, rest = divmod(size_bytes, one)
            number = size_bytes / one
            decimals = 2 if abs(number) < _FINE else 1
            return f"{number:.{decimals}f}{unit}" if rest else f"{whole}{unit}"

    return f"{size_bytes}B"


def exact_size(size_bytes: int) -> str:
    """Return a size that means the same when it is read: in the unit that makes it shortest.

    It is most likely the one that somebody wrote: `2kB`, `1.5MiB`, `64MiB`.
    """
    shown = [f"{size_bytes}B"]
    for unit, one in (*_BINARY.items(), *_DECIMAL.items()):
        number = Decimal(size_bytes) / one
        if number >= 1 and number == round(number, _EXACT_DECIMALS):
            shown.append(f"{number.normalize():f}{unit}")
    return min(shown, key=len)


def compared_sizes(size_bytes: int, limit_bytes: int) -> tuple[str, str]:
    """Return a size and a limit in units of one kind; which is more can be seen."""
    limit = exact_size(limit_bytes)
    shown = format_size(size_bytes, like=limit)
    found = _SIZE.fullmatch(shown)
    rounded = Decimal(found[1]) * _BYTES[found[2].lower()] if found else Decimal(size_bytes)
    if rounded.compare(limit_bytes) == Decimal(size_bytes).compare(limit_bytes):
        return shown, limit

    return f"{size_bytes:,}B", f"{limit_bytes:,}B"


def compared_durations(duration_s: float, limit_s: float) -> tuple[str, str]:
    """Return a duration and a limit as people write them; which is more can be seen."""
    shown, limit = format_duration(duration_s), format_duration(limit_s)
    if _seconds(shown).compare(_seconds(limit)) == _exact(duration_s).compare(_exact(limit_s)):
        return shown, limit

    return f"{_exact(duration_s):,f}s", f"{_exact(limit_s):,f}s"


def _seconds(shown: str) -> Decimal:
    """Return what a duration comes to as it is shown."""
    return Decimal(shown[:-1]) * _SECONDS[shown[-1]]


def _exact(number: float) -> Decimal:
    return Decimal(repr(number).removesuffix(".0"))


def instant_text(instant: datetime) -> str:
    """Return an instant as RFC 3339 in UTC with `Z`, to the microsecond."""
    return instant.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_instant(text: object) -> datetime:
    """Return the instant that a text of `instant_text` names.

    Raises:
        ValueError: it is no instant with a time zone.
    """
    instant = datetime.fromisoformat(text) if isinstance(text, str) else None
    if instant is None or instant.tzinfo is None:
        raise ValueError("is no RFC 3339 instant with a time zone")

    return instant.astimezone(UTC)


def _plain(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
