"""The line of every key in a TOML text, which the parser of the standard library does not keep.

It reads only text that parsed: it looks for keys, and steps over values. A key inside an inline
table or a list has no line of its own; the key that holds it has.
"""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.config.keys import KeyPath

MAX_DEPTH: Final = 32
"""Deeper keys count as what holds them: a key of a million dots must not fill the memory."""

# A string in three quotes may end in up to two more of them.
_WORD: Final = re.compile(
    r'''
    (?P<string> """ (?:[^\\"]|\\.|"(?!""))* """ "{0,2}
              | \'\'\' (?:[^']|'(?!\'\'))* \'\'\' '{0,2}
              | " (?:[^\\"\n]|\\.)* "
              | ' [^'\n]* ' )
    | (?P<comment> \#[^\n]* )
    | (?P<space> [ \t\r]+ )
    | (?P<bare> [^\s"'#\[\]{}=.,]+ )
    | (?P<mark> . )
    ''',
    re.VERBOSE | re.DOTALL,
)


def locate_keys(text: str) -> dict[KeyPath, int]:
    """Return the line, from 1, on which each table and key of a valid TOML text first stands."""
    reader = _Reader()
    for statement in _statements(text):
        reader.read(statement)
    return reader.lines


class _Statement:
    """One header or one key with its value; what stands behind `=` is only counted through."""

    def __init__(self, line: int) -> None:
        self.line = line
        self.brackets = 0
        self.parts: list[str] = []
        self._depth = 0
        self._in_value = False

    @property
    def open(self) -> bool:
        """Whether the end of the line does not end the statement."""
        return self._in_value and self._depth > 0

    def take(self, kind: str, word: str) -> None:
        """Take the next token of the statement."""
        if self._in_value:
            self._depth += (word in {"[", "{"}) - (word in {"]", "}"})
        elif kind == "mark":
            self.brackets += word == "["
            self._in_value = word == "="
        else:
            self.parts.append(_unquoted(word) if kind == "string" else word)


def _statements(text: str) -> Iterator[_Statement]:
    line = 1
    statement = _Statement(line)
    for match in _WORD.finditer(text):
        kind, word = match.lastgroup or "", match.group()
        if word == "\n" and not statement.open:
            yield statement
            statement = _Statement(line + 1)
        elif kind in {"string", "bare", "mark"} and word != "\n":
            statement.take(kind, word)
        line += word.count("\n")
    yield statement


def _unquoted(word: str) -> str:
    return str(tomllib.loads(f"key = {word}")["key"])


class _Reader:
    """Follows headers, so that each key gets its whole path."""

    def __init__(self) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._table: KeyPath = ()
        self._lengths: dict[KeyPath, int] = {}

    def read(self, statement: _Statement) -> None:
        """Note the keys of one statement."""
        if not statement.parts:
            return

        if not statement.brackets:
            self._note(self._table, statement)
            return

        self._table = self._note((), statement)
        if statement.brackets > 1:
            index = self._lengths.get(self._table, 0)
            self._lengths[self._table] = index + 1
            self._table = (*self._table, index)
            self.lines[self._table] = statement.line

    def _note(self, path: KeyPath, statement: _Statement) -> KeyPath:
        """Walk down from a table, into the last item of each list on the way."""
        last = len(statement.parts) - 1
        for position, part in enumerate(statement.parts):
            if len(path) >= MAX_DEPTH:
                break
            path = (*path, part)
            self.lines.setdefault(path, statement.line)
            if path in self._lengths and position < last:
                path = (*path, self._lengths[path] - 1)
        return path
