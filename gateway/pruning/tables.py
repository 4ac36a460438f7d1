"""Reading tables of plain values, as TOML and JSON give them: every problem, with its place.

Pure. A value of no use is a problem, and something harmless stands in for it, so that reading goes
on; whoever reads must not use the outcome where there are problems.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, Final, TypeAlias, TypeVar

from typing_extensions import override

from gateway.errors import ConfigurationError
from gateway.pruning.units import (
    DURATIONS,
    MAX_DURATION_S,
    MAX_SIZE_BYTES,
    SIZES,
    parse_duration_s,
    parse_size_bytes,
)

KeyPath: TypeAlias = tuple[str | int, ...]
"""Where a value stands: names of keys, and positions in lists from 0."""

E = TypeVar("E", bound=StrEnum)
_BARE: Final = re.compile(r"[A-Za-z0-9_-]{1,48}")
_SHOWN_CHARS: Final = 48
_COMPARED_PROBLEMS: Final = 100
_LIKENESS: Final = 0.7


@dataclass(frozen=True, slots=True)
class RuleProblem:
    """One thing that is refused."""

    path: KeyPath
    text: str
    """What is wrong and what is accepted."""

    @override
    def __str__(self) -> str:
        return f"{dotted(self.path)}: {self.text}" if self.path else self.text


class PruningConfigError(ConfigurationError):
    """The rules of pruning are not usable."""

    def __init__(self, found: Iterable[RuleProblem]) -> None:
        """Keep every problem with its place, for whoever knows the lines of a file."""
        self.found = tuple(found)
        super().__init__([str(one) for one in self.found])


class Table:
    """One table that is being read; `done` tells of the keys that nobody asked for."""

    def __init__(
        self, value: object, path: KeyPath, problems: list[RuleProblem], *, bare: bool = True
    ) -> None:
        """Read a value that has to be a table.

        Args:
            value: The value.
            path: Where it stands.
            problems: What is wrong is added to them.
            bare: Whether problems offer keys that name their unit (`max_age_s`) beside those whose
                value has one (`max_age`).
        """
        self.path = path
        self.problems = problems
        self._bare_too = bare
        self._known: list[str] = []
        self._silent: set[str] = set()
        """Keys that are known and not offered."""
        self._values: Mapping[str, Any] = {}
        if isinstance(value, Mapping):
            self._values = value
        else:
            self.problem(f"{_shown(value)} is no table")
            self.problems = []  # What it lacks besides is of no use to anybody.

    def problem(self, text: str, *more: str | int) -> None:
        """Add a problem at this table, or further down."""
        self.problems.append(RuleProblem((*self.path, *more), text))

    def has(self, key: str) -> bool:
        """Return whether there is such a key, which is thereby known."""
        self._known.append(key)
        return key in self._values

    def value(self, key: str) -> Any:  # noqa: ANN401 - whatever stands in the file
        """Return what stands under a key; None where it is not there."""
        return self._values.get(key) if self.has(key) else None

    def flag(self, key: str, default: bool) -> bool:  # noqa: FBT001 - a value, no switch
        """Return a truth value."""
        found = self.value(key) if self.has(key) else default
        if isinstance(found, bool):
            return found

        self.problem(f"{_shown(found)} is no truth value, accepted is true or false", key)
        return default

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text of at least one character."""
        if not self.has(key) and default is not None:
            return default

        found = self.value(key)
        if isinstance(found, str) and found:
            return found

        self._refuse(key, "accepted is a text of at least one character")
        return default or ""

    def whole(self, key: str, default: int | None = None, *, low: int = 0) -> int:
        """Return a whole number."""
        if not self.has(key) and default is not None:
            return default

        found = self.value(key)
        if isinstance(found, int) and not isinstance(found, bool) and abs(found) <= MAX_SIZE_BYTES:
            if found >= low:
                return found

            self.problem(f"{found} is below {low}, accepted is a whole number from {low}", key)
        else:
            least = f" from {low}" if low > -MAX_SIZE_BYTES else ""
            self._refuse(key, f"accepted is a whole number{least}")
        return default or 0

    def maybe(self, key: str, *, low: int = 0) -> int | None:
        """Return a whole number, or None where there is no such key."""
        return self.whole(key, low=low) if self.value(key) is not None else None

    def share(self, key: str, default: float | None = None, *, one: bool) -> float:
        """Return a number above 0 and below 1, or `one` as well."""
        if not self.has(key) and default is not None:
            return default

        found = self.value(key)
        fits = _is_number(found) and (0 < found < 1 or (one and found == 1))
        if fits:
            return float(found)

        most = "at most 1" if one else "below 1"
        self._refuse(key, f"accepted is a number above 0 and {most}")
        return default or 0.5

    def duration_s(self, key: str, default: float | None = None, *, above: float = -1) -> float:
        """Return seconds: `key` is a text with units, `key_s` a number of seconds."""
        found = self.maybe_duration_s(key, needed=default is None)
        if found is None:
            return default or 0.0
        if found <= above:
            self.problem(f"{found:g} seconds are too few, accepted is more than {above:g}", key)
        return found

    def maybe_duration_s(self, key: str, *, needed: bool = False) -> float | None:
        """Return seconds, or None where neither key is there."""
        return self._measured((key, f"{key}_s"), parse_duration_s, DURATIONS, needed=needed)

    def size_bytes(self, key: str, plain: str) -> int:
        """Return bytes: `key` is a text with a unit, `plain` a whole number of bytes."""
        found = self._measured((key, plain), parse_size_bytes, SIZES, needed=True)
        return int(found or 0)

    def maybe_size_bytes(self, key: str, plain: str) -> int | None:
        """Return bytes, or None where neither key is there."""
        found = self._measured((key, plain), parse_size_bytes, SIZES, needed=False)
        return None if found is None else int(found)

    def choice(self, key: str, kind: type[E], default: E) -> E:
        """Return a member of an enumeration."""
        if not self.has(key):
            return default

        return self._members(key, kind, [self.value(key)], default, ", ".join(kind))[0]

    def choices(
        self, key: str, kind: type[E], offered: Collection[E] | None = None
    ) -> frozenset[E]:
        """Return members of an enumeration that stand in a list.

        Args:
            key: Under which the list stands.
            kind: The enumeration.
            offered: The members that problems offer; None: all.
        """
        found = self.value(key) if self.has(key) else ()
        known = ", ".join(one for one in kind if offered is None or one in offered)
        if isinstance(found, str | Mapping) or not isinstance(found, Iterable):
            self._refuse(key, f"accepted is a list of {known}")
            return frozenset()

        return frozenset(self._members(key, kind, list(found), None, known))

    def tables(self, key: str) -> list[Table]:
        """Return the tables of a list; none where there is no such key."""
        found = self.value(key) if self.has(key) else ()
        if not isinstance(found, list | tuple):
            self._refuse(key, "accepted is a list of tables")
            return []

        return [
            Table(one, (*self.path, key, place), self.problems, bare=self._bare_too)
            for place, one in enumerate(found)
        ]

    def table(self, key: str) -> Table:
        """Return the table under a key; an empty one where there is none."""
        value = self.value(key) if self.has(key) else {}
        return Table(value, (*self.path, key), self.problems, bare=self._bare_too)

    def named_tables(self, key: str) -> dict[str, Table]:
        """Return the tables of a table, by name."""
        table = self.table(key)
        path = table.path
        return {
            str(name): Table(value, (*path, str(name)), self.problems, bare=self._bare_too)
            for name, value in table._values.items()  # noqa: SLF001 - of its own kind
        }

    def done(self) -> None:
        """Tell of every key that nobody asked for."""
        known, offered = set(self._known), sorted(set(self._known) - self._silent)
        for key in self._values:
            if key not in known:
                # Likeness costs time, and nobody reads so many.
                like = str(key)[:_SHOWN_CHARS] if len(self.problems) < _COMPARED_PROBLEMS else ""
                near = get_close_matches(like, offered, n=1, cutoff=_LIKENESS)
                accepted = f"accepted here: {', '.join(offered)}"
                meant = f"did you mean {near[0]}?" if near else accepted
                self.problem(f"unknown key, {meant}", str(key))

    def unknown(self, key: str, accepted: str) -> None:
        """Add the problem of a value that is none of those accepted."""
        wrong = f"{_shown(self._values[key])} is unknown" if key in self._values else "is missing"
        self.problem(f"{wrong}, {accepted}", key)

    def _refuse(self, key: str, accepted: str) -> None:
        wrong = f"{_shown(self._values[key])} is of no use" if key in self._values else "is missing"
        self.problem(f"{wrong}, {accepted}", key)

    def _members(
        self, key: str, kind: type[E], found: list[object], default: E | None, known: str
    ) -> list[E]:
        members = []
        for one in found:
            try:
                members.append(kind(str(one)))
            except ValueError:
                self.problem(f"{_shown(one)} is unknown, accepted are {known}", key)
                members += [] if default is None else [default]
        return members

    def _measured(
        self,
        keys: tuple[str, str],
        parse: Callable[[str], float],
        accepted: str,
        *,
        needed: bool,
    ) -> float | None:
        """Return a number that is a text with a unit under one key, or bare under another."""
        if not self._bare_too:
            self._silent.add(keys[1])
        there = [name for name in keys if self.value(name) is not None]
        if len(there) == len(keys):
            self.problem(f"stands beside {keys[1]}, accepted is one of the two", keys[0])
        if not there:
            if needed:
                beside = f"; or {keys[1]}, a number" if self._bare_too else ""
                self.problem(f"is missing, {accepted}{beside}", keys[0])
            return None

        found = self.value(there[0])
        if there[0] == keys[1]:
            return self._bare(keys[1], found, whole=parse is parse_size_bytes)

        try:
            return parse(found)
        except (TypeError, ValueError) as error:
            why = str(error) if isinstance(error, ValueError) else f"is no text, {accepted}"
            self.problem(f"{_shown(found)} {why}", there[0])
            return None

    def _bare(self, key: str, found: object, *, whole: bool) -> float | None:
        most = MAX_SIZE_BYTES if whole else MAX_DURATION_S
        if isinstance(found, int if whole else int | float) and _is_number(found):
            number = float(found) if isinstance(found, float) else int(found)
            if 0 <= number <= most:
                return number

        kind = "whole number" if whole else "number"
        self._refuse(key, f"accepted is a {kind} from 0 to {most:.0f}")
        return None


def dotted(path: KeyPath) -> str:
    """Return a path as in TOML, positions in brackets: `rules[0].action.ratio`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if _BARE.fullmatch(part) else _shown(part)
            text += ("." if text else "") + name
    return text


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: object) -> str:
    """Return a value on one line, cut where it is long."""
    if isinstance(value, str):
        start = value if len(value) <= _SHOWN_CHARS else f"{value[:_SHOWN_CHARS]}…"
        return '"' + start.encode("unicode_escape").decode().replace('"', '\\"') + '"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"{value:.6g}" if isinstance(value, float) else str(value)[:_SHOWN_CHARS]

    return {dict: "a table", list: "a list", type(None): "nothing"}.get(type(value), "this value")
