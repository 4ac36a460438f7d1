"""Tables of `gateway prune` that fit the terminal: a line a row, but for the reasons.

Where there is no room, columns go that other columns or commands tell of, long names are cut, and
reasons are folded last. `--json` has everything.
"""

from __future__ import annotations

import shutil
import textwrap
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from gateway.cli.output import safe_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.cli.output import Screen

SHORT_CHARS: Final = 8
"""Of the id of a run; commands take as much of its start as means one run only."""
SESSION_CHARS: Final = 15
"""Of the id of a conversation, which begins with when it began."""
_GAP: Final = 3
"""Between columns."""
_EDGES: Final = 2
_EMPTY: Final = frozenset({"", "-"})


@dataclass(frozen=True, slots=True)
class Column:
    """One column."""

    name: str
    least: int = 0
    """It may be cut, or folded, to so many characters; 0: it is always whole."""
    goes: int = 0
    """Where there is no room the column with the smallest number goes first; 0: it never goes."""
    folds: bool = False
    """Whether it is folded rather than cut; at most one is."""


def write(screen: Screen, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Write a table that fits the terminal, as far as its columns allow."""
    fitting, cells = fitted(columns, rows, _width())
    folded = next((one.name for one in fitting if one.folds), None)
    screen.table([one.name for one in fitting], cells, folded=folded)


def paragraph(screen: Screen, text: str) -> None:
    """Write a text, folded at the width of the terminal."""
    for line in textwrap.wrap(safe_name(text), _width() - 1, subsequent_indent="  "):
        screen.line(line)


def fitted(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int
) -> tuple[list[Column], list[list[str]]]:
    """Return the columns that there is room for, and their cells."""
    parts = {
        column: [safe_name(row[place]) for row in rows] for place, column in enumerate(columns)
    }
    for column, cells in list(parts.items()):
        if column.goes and _EMPTY.issuperset(cells):
            del parts[column]
    going = sorted((one for one in parts if one.goes), key=lambda one: one.goes)
    widths = {column: max(map(len, (column.name, *cells))) for column, cells in parts.items()}
    while going and _total(min(size, one.least or size) for one, size in widths.items()) > width:
        gone = going.pop(0)
        del parts[gone], widths[gone]
    excess = _total(widths.values()) - width
    # The reasons give way first, then what is longest.
    for column in sorted(parts, key=lambda one: (not one.folds, -widths[one])):
        if column.least and excess > 0:
            narrow = max(column.least, len(column.name), widths[column] - excess)
            less = max(0, widths[column] - narrow)
            excess -= less
            widths[column] -= less
    for column, cells in parts.items():
        if not column.folds:
            parts[column] = [_cut(cell, widths[column]) for cell in cells]
    return list(parts), [list(row) for row in zip(*parts.values(), strict=True)]


def shortened(ids: Iterable[str], least: int) -> dict[str, str]:
    """Return the starts of ids, equally long, by which they can be told apart."""
    known = set(ids)
    chars = least
    while len({one[:chars] for one in known}) < len(known):
        chars += 1
    return {one: one[:chars] for one in known}


def short_time(instant: str | None) -> str:
    """Return an RFC 3339 instant to the minute as people here write it; a dash for none."""
    return f"{datetime.fromisoformat(instant).astimezone():%Y-%m-%d %H:%M}" if instant else "-"


def short_date(instant: str | None) -> str:
    """Return the day of an RFC 3339 instant; a dash for none."""
    return short_time(instant).split(" ")[0]


def _total(widths: Iterable[int]) -> int:
    sizes = list(widths)
    return sum(sizes) + _GAP * (len(sizes) - 1) + _EDGES


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _width() -> int:
    return shutil.get_terminal_size().columns
