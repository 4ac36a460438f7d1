"""Answers of a homeserver as JSON, however long, without holding anybody up."""

from __future__ import annotations

import json  # noqa: TID251 - it gives way to other threads amid a text, which orjson does not
import re
from typing import Any, Final

import anyio.to_thread
import orjson

LARGE_BYTES: Final = 262_144
"""A longer answer is read in a thread: a sync of hundreds of rooms takes tenths of a second."""
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
"""Where one stands alone there is no text: the one reader refuses it, the other does not."""


async def read_json(body: bytes) -> object:
    """Return what an answer says; None: it is no JSON."""
    try:
        if len(body) <= LARGE_BYTES:
            return orjson.loads(body)
        return await anyio.to_thread.run_sync(_read_giving_way, body)
    except (ValueError, RecursionError):
        return None


def _read_giving_way(body: bytes) -> object:
    if _SURROGATE.search(body):
        return orjson.loads(body)

    # No other thread goes on while C code reads: it comes back to us for each object.
    return json.loads(body.decode(), object_hook=_as_it_is, parse_constant=_refuse)


def _as_it_is(said: dict[str, Any]) -> dict[str, Any]:
    return said


def _refuse(constant: str) -> None:
    raise ValueError(constant)
