"""Tool calls as models write them, made fit for tools, transcripts and wires. Pure.

Knows no vendor. The same call always becomes the same, so that a provider finds its prompt cache.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import orjson
from pydantic_core import to_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.model import Message, ToolSpec

MAX_NAME_CHARS: Final = 64
"""The longest name of a tool that both wires take."""
_UNFIT: Final = re.compile(r"[^A-Za-z0-9_-]")


def parse_arguments(text: str) -> dict[str, Any] | None:
    """Return the arguments of a call; None if they are no JSON object. Blank is an empty one."""
    if not text.strip():
        return {}

    try:
        parsed = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None

    return parsed if isinstance(parsed, dict) else None


def sent_arguments(text: str) -> dict[str, Any]:
    """Return the arguments of a past call for a wire that takes an object only."""
    parsed = parse_arguments(text)
    return {"_raw": text} if parsed is None else parsed


def fit_name(name: str) -> str:
    """Return the name of a past call in the form that both wires take."""
    return _UNFIT.sub("_", name)[:MAX_NAME_CHARS] or "unnamed"


def is_fit(name: str) -> bool:
    """Return whether a name or an id has only the characters that both wires take."""
    return bool(name) and not _UNFIT.search(name)


def hashed_id(call_id: str) -> str:
    """Return an id that every wire takes, another one for each id."""
    return f"call_{hashlib.sha256(call_id.encode()).hexdigest()[:32]}"


def with_unique_ids(message: Message, taken: Iterable[str]) -> Message:
    """Return an answer whose calls all have an id, and none twice.

    Args:
        message: The answer.
        taken: Ids that were used before; some vendors begin anew in each answer.
    """
    seen = set(taken)
    calls = []
    for call in message.tool_calls:
        call_id = _free_id(call.call_id, seen)
        seen.add(call_id)
        calls.append(call if call_id == call.call_id else replace(call, call_id=call_id))
    return replace(message, tool_calls=tuple(calls)) if calls else message


def schema_of(tool: ToolSpec) -> dict[str, Any]:
    """Return the schema of a tool's arguments, its keys sorted unless it is verbatim.

    Some servers list them in another order after each start, and the prompt cache begins here.
    """
    return {"type": "object", **(tool.schema if tool.verbatim else _sorted(tool.schema))}


def wire_chars(definitions: Sequence[dict[str, Any]]) -> int:
    """Return how many characters the definitions of tools are on the wire."""
    # Not orjson: a schema may have numbers of more than 64 bits.
    return sum(len(to_json(definition).decode()) for definition in definitions)


def _sorted(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, Mapping):
        return {name: _sorted(value[name]) for name in sorted(value)}

    return [_sorted(one) for one in value] if isinstance(value, list | tuple) else value


def _free_id(wanted: str, seen: set[str]) -> str:
    if wanted and wanted not in seen:
        return wanted

    # The number goes by how many came before, so that it is found at once.
    stem, number = wanted or "call", len(seen) + 1
    while (call_id := f"{stem}_{number}") in seen:
        number += 1
    return call_id
