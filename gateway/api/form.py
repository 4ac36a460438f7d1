"""Reading the fields of a JSON object or of a query, strictly, with all faults told at once.

A reader asks for each field by name and says what it takes; `finish` then refuses what nobody
asked for. Knows no route.
"""

from __future__ import annotations

import difflib
import math
import unicodedata
from datetime import date
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import parse_qsl

from gateway.api.problems import bad_request
from gateway.model import clean_text
from gateway.strict_json import MAX_QUOTED_CHARS, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

Choice = TypeVar("Choice", bound=StrEnum)

MAX_ID_CHARS: Final = 512
"""The longest id of a chat, a user, a thread or a message."""
MAX_PROBLEMS: Final = 16
"""How many faults of one request are told."""


class Form:
    """The fields of one request."""

    def __init__(self, fields: Mapping[str, object], what: str) -> None:
        """Take the fields, and what one of them is called in a sentence."""
        self._fields = fields
        self._what = what
        self._known: list[str] = []
        self._problems: list[str] = []

    def text(self, name: str, *, required: bool = False) -> str:
        """Return a text, mended where no store would take it; empty where it is not there."""
        return clean_text(self._string(name, required=required))

    def identifier(self, name: str, *, required: bool = False) -> str:
        """Return an id of up to `MAX_ID_CHARS` characters; empty where it is not there.

        An id is never mended: two different ones could become the same.
        """
        value = self._string(name, required=required)
        fault = _fault_of_id(value)
        if fault:
            self._problems.append(f"{name}: {fault}")
        return value

    def name(self, name: str) -> str | None:
        """Return a text that names something; None where it is not there.

        An empty one is refused: who means one thing, and names none, must not get everything.
        """
        value = self._take(name)
        if value is None:
            return None
        if isinstance(value, str) and value.strip():
            return clean_text(value)

        self._refuse(name, value, "a string that is not blank, or nothing")
        return None

    def identifiers(self, name: str, *, most: int) -> list[str]:
        """Return a list of up to `most` ids; empty where it is not there."""
        values = self._take(name)
        if values is None:
            return []
        if not isinstance(values, list) or not 1 <= len(values) <= most:
            self._refuse(name, values, f"a list of 1 to {most} ids")
            return []

        for value in values:
            fault = _fault_of_id(value) if isinstance(value, str) and value else "is no id"
            if fault:
                self._problems.append(f"{name}: {_describe(value)}: {fault}")
        return values

    def choice(self, name: str, default: Choice) -> Choice:
        """Return one of the values of the default's type."""
        kind, value = type(default), self._take(name)
        if value is None:
            return default
        if isinstance(value, str) and value in list(kind):
            return kind(value)

        self._refuse(name, value, f"one of {', '.join(kind)}")
        return default

    def number(self, name: str) -> float | None:
        """Return a finite number from 0; None where it is not there."""
        value = self._take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._refuse(name, value, "a number from 0")
            return None
        if not math.isfinite(value) or value < 0:
            self._refuse(name, value, "a finite number from 0")
            return None

        return float(value)

    def flag(self, name: str) -> bool:
        """Return true or false; false where it is not there."""
        value = self._take(name)
        if value is None or isinstance(value, bool):
            return bool(value)

        self._refuse(name, value, "true or false")
        return False

    def word_flag(self, name: str) -> bool:
        """Return a flag that is written as a word, as in a query."""
        value = self._take(name)
        if value not in (None, "true", "false"):
            self._refuse(name, value, "true or false")
        return value == "true"

    def written_number(self, name: str, *, least: int, most: int, default: int) -> int:
        """Return a whole number that is written in digits, as in a query."""
        value = self._take(name)
        if value is None:
            return default

        digits = value if isinstance(value, str) and value.isascii() and value.isdigit() else ""
        if digits and len(digits) <= len(str(most)) and least <= int(digits) <= most:
            return int(digits)

        self._refuse(name, value, f"a whole number from {least} to {most}")
        return default

    def day(self, name: str) -> str:
        """Return a day, written `YYYY-MM-DD`; empty where it is not there."""
        value = self._take(name)
        if value is None:
            return ""
        if isinstance(value, str) and _is_day(value):
            return value

        self._refuse(name, value, "a day as YYYY-MM-DD")
        return ""

    def refuse(self, name: str, accepted: str) -> None:
        """Note a fault in a field that the caller looked at itself."""
        self._refuse(name, self._fields.get(name), accepted)

    def finish(self) -> None:
        """Check that nothing is left over.

        Raises:
            ProblemError: any field was wrong or unknown.
        """
        for name in self._fields:
            if name not in self._known:
                self._problems.append(self._unknown(name))
            if len(self._problems) > MAX_PROBLEMS:
                self._problems[MAX_PROBLEMS:] = ["and more"]
                break
        if self._problems:
            raise bad_request(self._problems)

    def _string(self, name: str, *, required: bool) -> str:
        value = self._take(name)
        if value is None and not required:
            return ""
        if not isinstance(value, str) or (required and not value):
            accepted = "a string that is not empty" if required else "a string"
            self._refuse(name, value, accepted)
            return ""

        return value

    def _take(self, name: str) -> object:
        self._known.append(name)
        return self._fields.get(name)

    def _refuse(self, name: str, value: object, accepted: str) -> None:
        self._problems.append(f"{name}: is {_describe(value)}, accepted is {accepted}")

    def _unknown(self, name: str) -> str:
        shown = quoted(name)
        near = difflib.get_close_matches(name[:MAX_QUOTED_CHARS], self._known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"accepted: {', '.join(self._known)}"
        return f"{shown}: no such {self._what}; {hint}"


def query_form(request: Request) -> Form:
    """Return the query of a request, each parameter given once.

    Raises:
        ProblemError: a parameter is given twice.
    """
    pairs = parse_qsl(request.url.query, keep_blank_values=True)
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise bad_request(["the query gives a parameter twice, accepted is once"])

    return Form(fields, "query parameter")


def _is_day(text: str) -> bool:
    try:
        # Python reads other forms of ISO 8601 as well.
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _fault_of_id(value: str) -> str:
    if len(value) > MAX_ID_CHARS:
        return f"has {len(value)} characters, accepted are up to {MAX_ID_CHARS}"
    if any(map(_is_unfit, value)):
        return (
            "holds control characters, lone surrogates or U+FFFD, accepted is a string without them"
        )

    return ""


def _is_unfit(char: str) -> bool:
    # U+FFFD is what the reader of the body has made of a lone surrogate.
    return char == "\ufffd" or unicodedata.category(char) in {"Cc", "Cs"}


def _describe(value: object) -> str:
    if isinstance(value, str):
        return quoted(value) if value else "empty"

    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"

    words = {None: "missing", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)
