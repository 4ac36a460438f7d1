"""JSON of strangers: bounded in depth and number of values before anything is built from it.

Stricter than the parser: no duplicate keys. Kinder in one thing: a lone surrogate becomes U+FFFD,
because some chat platforms cut an emoji in two.
"""

from __future__ import annotations

import json  # noqa: TID251 - orjson tells nothing of a key that is there twice
import re
from typing import Final

import orjson

MAX_DEPTH: Final = 32
"""How deep lists and objects may go."""
MAX_NODES: Final = 10_000
"""How many values there may be."""
MAX_QUOTED_CHARS: Final = 64

# One that never ends is taken to the end: looked for again from each of its quotes, it would cost
# the square of its length.
_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.?[^"\\]*)*(?:"|\Z)', re.DOTALL)
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_ESCAPE: Final = re.compile(
    rb"\\(?:(?P<pair>u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?P<lone>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


class StrictJsonError(ValueError):
    """It is not JSON, or breaks a bound; the message says which."""


def parse(body: bytes, *, max_nodes: int = MAX_NODES, what: str = "the body") -> object:
    """Return the value of a JSON text, of at most so many values.

    Args:
        body: The text.
        max_nodes: How many values there may be.
        what: What it is, for the error.

    Raises:
        StrictJsonError: it is none, or breaks a bound.
    """
    skeleton = _STRING.sub(b"", body)
    _check_bounds(skeleton, max_nodes, what)
    if _SURROGATE.search(body):
        body = _ESCAPE.sub(_without_lone_surrogate, body)
    try:
        value: object = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise StrictJsonError(f"{what} is not JSON: {exc}") from exc

    # Without its strings, every colon of a JSON text belongs to one key.
    if skeleton.count(b":") != _count_keys(value):
        raise StrictJsonError(f"{what} gives the key {_repeated(body)} twice, accepted is once")

    return value


def quoted(name: str) -> str:
    """Return a key of somebody's JSON as it may be shown: bounded, and all of it printable."""
    return repr(name[:MAX_QUOTED_CHARS]) + ("..." if len(name) > MAX_QUOTED_CHARS else "")


def _repeated(body: bytes) -> str:
    """Return the first key that an object of a JSON text gives twice."""
    found: list[str] = []

    def note(pairs: list[tuple[str, object]]) -> None:
        seen = set[str]()
        for name, _ in pairs:
            if name in seen:
                found.append(name)
            seen.add(name)

    json.loads(body, object_pairs_hook=note)
    return quoted(found[0])


def _check_bounds(skeleton: bytes, max_nodes: int, what: str) -> None:
    """Measure a JSON text without its strings, before anything is built from it."""
    openings = skeleton.count(b"[") + skeleton.count(b"{")
    if openings + skeleton.count(b",") + 1 > max_nodes:
        raise StrictJsonError(f"{what} holds too many values, accepted are up to {max_nodes}")

    if openings > MAX_DEPTH and _depth(skeleton) > MAX_DEPTH:
        raise StrictJsonError(f"{what} is nested too deep, accepted are {MAX_DEPTH} levels")


def _depth(skeleton: bytes) -> int:
    depth = deepest = 0
    for byte in skeleton:
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def _count_keys(value: object) -> int:
    if isinstance(value, dict):
        return len(value) + sum(map(_count_keys, value.values()))
    if isinstance(value, list):
        return sum(map(_count_keys, value))

    return 0


def _without_lone_surrogate(match: re.Match[bytes]) -> bytes:
    return match[0] if match["lone"] is None else b"\\ufffd"
