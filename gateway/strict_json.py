"""JSON of strangers: bounded in depth and number of values before anything is built from it.

Stricter than the parser: no duplicate keys. Kinder in one thing: a lone surrogate becomes U+FFFD,
because some chat platforms cut an emoji in two.
"""

from __future__ import annotations

import re
from typing import Final

import orjson

MAX_DEPTH: Final = 32
"""How deep lists and objects may go."""
MAX_NODES: Final = 10_000
"""How many values there may be."""

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
    """It is not JSON, or breaks a bound; the message says which, of `the body`."""


def parse(body: bytes, *, max_nodes: int = MAX_NODES) -> object:
    """Return the value of a JSON text, of at most so many values.

    Raises:
        StrictJsonError: it is none, or breaks a bound.
    """
    skeleton = _STRING.sub(b"", body)
    _check_bounds(skeleton, max_nodes)
    if _SURROGATE.search(body):
        body = _ESCAPE.sub(_without_lone_surrogate, body)
    try:
        value: object = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise StrictJsonError(f"the body is not JSON: {exc}") from exc

    # Without its strings, every colon of a JSON text belongs to one key.
    if skeleton.count(b":") != _count_keys(value):
        raise StrictJsonError("the body gives a key twice, accepted is once")

    return value


def _check_bounds(skeleton: bytes, max_nodes: int) -> None:
    """Measure a JSON text without its strings, before anything is built from it."""
    openings = skeleton.count(b"[") + skeleton.count(b"{")
    if openings + skeleton.count(b",") + 1 > max_nodes:
        raise StrictJsonError(f"the body holds too many values, accepted are up to {max_nodes}")

    if openings > MAX_DEPTH and _depth(skeleton) > MAX_DEPTH:
        raise StrictJsonError(f"the body is nested too deep, accepted are {MAX_DEPTH} levels")


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
