"""Key paths as people write them, and values as they may be shown. Pure text."""

from __future__ import annotations

import re
from typing import Final, TypeAlias

KeyPath: TypeAlias = tuple[str | int, ...]
"""Where a value stands: names of keys, and positions in lists from 0."""

MAX_SHOWN_CHARS: Final = 48
_BARE: Final = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_SHOWN_CHARS}}}")
_LARGEST_SHOWN: Final = 10**20
_KINDS: Final[dict[type, str]] = {
    dict: "a table",
    list: "a list",
    bool: "a truth value",  # before int, which it is too
    int: "a whole number",
    float: "a number",
    str: "a string",
}


def dotted(path: KeyPath) -> str:
    """Return the path as in TOML, positions in brackets: `routes[0].agent`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _BARE.fullmatch(part) else quoted(part))
    return text


def quoted(text: str) -> str:
    """Return the text in quotes, on one line, cut where it is long."""
    start = text if len(text) <= MAX_SHOWN_CHARS else f"{text[: MAX_SHOWN_CHARS - 1]}…"
    return '"' + printable(start).replace('"', '\\"') + '"'


def printable(text: str) -> str:
    """Return the text with everything escaped that would not show, or change what shows."""
    if text.isprintable():
        return text

    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def kind_of(value: object) -> str:
    """Return what a value is, in words."""
    for kind, words in _KINDS.items():
        if isinstance(value, kind):
            return words

    return "a date or time"


def shown(value: object) -> str:
    """Return a single value as TOML writes it, or an empty text where it would be too long."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if abs(value) < _LARGEST_SHOWN else "a huge number"
    if isinstance(value, float):
        return repr(value)

    return quoted(value) if isinstance(value, str) else ""
