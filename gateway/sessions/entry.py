"""The record of a session: what dashboards read in `sessions.json`.

This is the versioned contract (`"version": 1`). Entries are frozen; the bytes of one are its member
of the snapshot, `"<key>":{...}`, so what is kept in memory is what is written.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from itertools import product
from typing import TYPE_CHECKING, Any, Final, TypeVar

import orjson

from gateway.errors import BadRequestError, GatewayError
from gateway.model import (
    AgentId,
    ChatType,
    ContextSource,
    SessionId,
    SessionKey,
    SessionSource,
    clean_name,
)
from gateway.sessions.key import SESSION_ID, agent_of

if TYPE_CHECKING:
    from collections.abc import Mapping

Choice = TypeVar("Choice", bound=StrEnum)

VERSION: Final = 1
"""Version of the entry's fields and of `sessions.json`."""
HOUR_CHARS: Final = 13
"""`2026-11-20T15`: the part of an instant that names its hour."""
NOT_SUSPENDED: Final = b'"suspended_at":null'
"""What stands in the bytes of an entry that is not suspended."""
UPDATED_AT: Final = b'"updated_at":"'
"""What stands before the instant in an entry's bytes."""


class EntryError(GatewayError):
    """An entry does not have the fields of its contract."""


# No slots: a copy of an instance dictionary is what makes `changed` fast.
@dataclass(frozen=True, kw_only=True)
class SessionEntry:
    """One session. Instants are UTC; a key's entry is replaced whole at every change."""

    session_key: SessionKey
    """Who talks where."""
    session_id: SessionId
    """The conversation that runs under the key now."""
    agent: AgentId
    """The agent that answers; part of the key."""
    created_at: datetime
    """When this session id began."""
    updated_at: datetime
    """The last time the user did something here; what prune and idle resets go by."""
    suspended_at: datetime | None = None
    """Since when the session is paused; None while it is not."""
    suspended_by: str | None = None
    """Who paused it: `operator`, `user` (with /stop) or `restarts` (it broke too many);
    None while it is not, or where an older gateway did not say."""
    source: SessionSource
    """Where the latest message came from."""
    display_name: str = ""
    """What a dashboard may call it: the chat's name, else the user's, else the chat's id."""
    previous_session_id: SessionId | None = None
    """The conversation before this one, which an undo brings back."""
    reset_reason: str | None = None
    """Why this session id replaced the previous one: `idle`, `daily`, `manual`, `pruned`, ..."""
    turns: int = 0
    """Committed turns of this session id, failed ones included."""
    input_tokens: int = 0
    """Uncached input, summed over all model calls of this session id, as are the next three."""
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    total_tokens: int = 0
    """Tokens of all model calls of this session id, never below `context_tokens`."""
    context_tokens: int = 0
    """The size of what was last sent to the model: one request's, never a sum."""
    context_window_tokens: int = 0
    """The model's window; 0 until a turn has run."""
    context_source: ContextSource = ContextSource.UNKNOWN
    """How `context_tokens` was found: `usage` (counted by the provider), `estimate`, `unknown`."""
    context_measured_at: datetime | None = None
    """When `context_tokens` was found."""
    context_step: int = 0
    """How many measurements of the context this session id has had; a higher number is newer."""
    cache_touched_at: datetime | None = None
    """Start of the last successful model request: the provider's prompt cache lives from then."""
    cache_agent: str = ""
    """The agent that made it; empty: the session's own."""
    model: str = ""
    """The model that answered last, as its provider spells it."""

    def changed(self, **changes: object) -> SessionEntry:
        """Return a copy with some fields changed; an eighth of the time of `dataclasses.replace`.

        Raises:
            TypeError: there is no such field.
        """
        fresh = object.__new__(SessionEntry)
        values = fresh.__dict__
        values.update(self.__dict__)
        values.update(changes)
        if len(values) != len(self.__dict__):
            raise TypeError(f"no fields of an entry: {', '.join(changes.keys() - FIELDS)}")

        return fresh


_DEFAULTS: Final = tuple(
    (f.name, None if f.default is MISSING else f.default) for f in fields(SessionEntry)
)
_TEXTS: Final = ("display_name", "cache_agent", "model")
_COUNTS: Final = (
    *(name.name for name in fields(SessionEntry) if name.name.endswith("_tokens")),
    "turns",
    "context_step",
)
_INSTANTS: Final = ("created_at", "updated_at")
_OPTIONAL_TEXTS: Final = ("suspended_by", "previous_session_id", "reset_reason")
_OPTIONAL_INSTANTS: Final = ("suspended_at", "context_measured_at", "cache_touched_at")
_SOURCE_TEXTS: Final = tuple(f.name for f in fields(SessionSource) if f.name != "chat_type")
_SOURCES: Final = {source.value: source for source in ContextSource}
_CHAT_TYPES: Final = {kind.value: kind for kind in ChatType}
_NAMES: Final = tuple(f.name for f in fields(SessionEntry))
_SOURCE_NAMES: Final = tuple(f.name for f in fields(SessionSource))


def _kinds(name: str) -> tuple[type, ...]:
    if name == "source":
        return (dict,)

    optional = name in _OPTIONAL_INSTANTS or name in _OPTIONAL_TEXTS
    return (int,) if name in _COUNTS else (str, type(None)) if optional else (str,)


_SHAPES: Final = frozenset(product(*map(_kinds, _NAMES)))
"""The JSON types that the fields of a written entry have, in their order."""
FIELDS: Final = frozenset(f.name for f in fields(SessionEntry))
"""The names an entry has; others are not kept."""


def encode_member(entry: SessionEntry) -> bytes:
    """Return the entry as its member of the snapshot: `"<key>":{...}`, one line."""
    # A key consists of characters that JSON does not escape.
    return b'"%b":%b' % (
        entry.session_key.encode(),
        orjson.dumps(entry, option=orjson.OPT_UTC_Z),
    )


def decode_member(key: str, member: bytes) -> SessionEntry:
    """Return the entry of a member.

    Raises:
        EntryError: it does not have the fields of the contract.
    """
    return decode_entry(memoryview(member)[len(key) + 3 :])


def decode_entry(data: bytes | memoryview) -> SessionEntry:
    """Return the entry of its JSON object; see `decode_member`."""
    try:
        raw = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise EntryError(f"not JSON ({exc})") from exc

    return _as_written(raw) or entry_from_dict(raw)


def _as_written(raw: object) -> SessionEntry | None:
    """Return the entry of an object in the very form of `encode_member`; None for any other.

    A third of the time of checking value by value: names and types are compared all at once.
    """
    if not isinstance(raw, dict) or tuple(map(type, raw.values())) not in _SHAPES:
        return None

    fields_of_source = raw.get("source", {})
    types_of_source = set(map(type, fields_of_source.values()))
    if tuple(raw) != _NAMES or tuple(fields_of_source) != _SOURCE_NAMES or types_of_source != {str}:
        return None

    try:
        instants = {
            name: datetime.fromisoformat(raw[name])
            for name in (*_INSTANTS, *_OPTIONAL_INSTANTS)
            if raw[name] is not None
        }
        chat_type = _CHAT_TYPES[fields_of_source["chat_type"]]
        context_source = _SOURCES[raw["context_source"]]
    except (KeyError, ValueError):
        return None

    in_utc = all(at.tzinfo is UTC for at in instants.values())
    if not (in_utc and _has_accepted_values(raw, fields_of_source)):
        return None

    raw.update(instants, context_source=context_source)
    fields_of_source["chat_type"] = chat_type
    raw["source"] = object.__new__(SessionSource)
    object.__setattr__(raw["source"], "__dict__", fields_of_source)
    entry = object.__new__(SessionEntry)
    object.__setattr__(entry, "__dict__", raw)
    return entry


def _has_accepted_values(raw: dict[str, Any], fields_of_source: dict[str, Any]) -> bool:
    """Return whether the values that a type alone does not make right are."""
    previous = raw["previous_session_id"]
    return bool(
        min(raw[name] for name in _COUNTS) >= 0
        and raw["total_tokens"] >= raw["context_tokens"]
        and SESSION_ID.fullmatch(raw["session_id"])
        and (previous is None or SESSION_ID.fullmatch(previous))
        and raw["session_key"].startswith(f"agent:{raw['agent']}:")
        and fields_of_source["platform"]
    )


def updated_at_text(member: bytes) -> bytes:
    """Return the `updated_at` of a member as its text, found without decoding the rest."""
    return _cut(member, UPDATED_AT)


def identity(member: bytes) -> tuple[SessionId, str]:
    """Return the session id and the `created_at` of a member, without decoding the rest.

    Raises:
        EntryError: they are not there.
    """
    try:
        created_at = _cut(member, b'"created_at":"').decode()
        return SessionId(_cut(member, b'"session_id":"').decode()), created_at
    except ValueError as exc:
        raise EntryError("session_id, created_at: missing or not text") from exc


def updated_hour(member: bytes) -> bytes:
    """Return the hour of a member's `updated_at`; see `updated_at_text`."""
    start = member.index(UPDATED_AT) + len(UPDATED_AT)
    return member[start : start + HOUR_CHARS]


def is_suspended(key: str, member: bytes) -> bool:
    """Return whether a member's session is paused.

    Raises:
        EntryError: it does not say so in the usual way, and cannot be decoded.
    """
    return NOT_SUSPENDED not in member and decode_member(key, member).suspended_at is not None


def _cut(member: bytes, name: bytes) -> bytes:
    # Quotes inside strings are escaped, so the first match is the entry's own field.
    start = member.index(name) + len(name)
    return member[start : member.index(b'"', start)]


def entry_to_dict(entry: SessionEntry) -> dict[str, object]:
    """Return the entry as the JSON object that dashboards read."""
    result: dict[str, object] = orjson.loads(orjson.dumps(entry, option=orjson.OPT_UTC_Z))
    return result


def entry_from_dict(raw: object) -> SessionEntry:
    """Return the entry of a JSON object; absent fields get their defaults.

    Needed are session_key, session_id, created_at, updated_at and source. Unknown fields are not
    kept.

    Raises:
        EntryError: a field is missing or wrong; the message names it and what is accepted.
    """
    if not isinstance(raw, dict):
        raise EntryError("an entry is a JSON object")

    # All at once and in place: this runs for every entry that is not in use.
    values: dict[str, Any] = {name: raw.get(name, default) for name, default in _DEFAULTS}
    for name in _TEXTS:
        _check_text(name, values[name])
    for name in _COUNTS:
        if type(values[name]) is not int or values[name] < 0:
            raise EntryError(f"{name}: accepted is a whole number from 0")
    for name in _INSTANTS:
        values[name] = _instant(name, values[name])
    for name in _OPTIONAL_INSTANTS:
        if values[name] is not None:
            values[name] = _instant(name, values[name])
    _check_session_id("session_id", values["session_id"])
    for name in _OPTIONAL_TEXTS:
        _check_optional_text(name, values[name])
    values["agent"] = _agent(values["session_key"], values["agent"])
    values["source"] = _source(values["source"])
    values["context_source"] = _choice("context_source", values["context_source"], _SOURCES)
    values["total_tokens"] = max(values["total_tokens"], values["context_tokens"])
    entry = object.__new__(SessionEntry)
    entry.__dict__.update(values)
    return entry


def display_name(source: SessionSource) -> str:
    """Return what a dashboard may call a session of this source."""
    return clean_name(source.chat_name or source.user_name or source.chat_id or source.user_id)


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise EntryError(f"{name}: accepted is a string")


def _check_optional_text(name: str, value: object) -> None:
    if value is None:
        return

    if name == "previous_session_id":
        _check_session_id(name, value)
    else:
        _check_text(name, value)


def _instant(name: str, value: object) -> datetime:
    _check_text(name, value)
    try:
        at = datetime.fromisoformat(str(value))
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise EntryError(f"{name}: accepted is an RFC 3339 instant with its offset from UTC")

    if at.tzinfo is UTC:
        return at

    try:
        return at.astimezone(UTC)
    except OverflowError as exc:
        raise EntryError(f"{name}: outside the calendar") from exc


def _check_session_id(name: str, value: object) -> None:
    _check_text(name, value)
    if not SESSION_ID.fullmatch(str(value)):
        raise EntryError(f"{name}: accepted are 1 to 64 characters of A-Z a-z 0-9 _ . -")


def _agent(key: object, agent: object) -> AgentId:
    """Return the agent of a key; an entry that names one names the same."""
    _check_text("session_key", key)
    try:
        found = agent_of(str(key))
    except BadRequestError as exc:
        raise EntryError(f"session_key: {exc}") from exc

    if agent is None:
        return found

    _check_text("agent", agent)
    if agent != found:
        raise EntryError("agent: accepted is the agent in the session key")

    return found


def _choice(name: str, value: object, choices: Mapping[str, Choice]) -> Choice:
    _check_text(name, value)
    choice = choices.get(str(value))
    if choice is None:
        raise EntryError(f"{name}: accepted is one of {', '.join(choices)}")

    return choice


def _source(raw: object) -> SessionSource:
    if not isinstance(raw, dict):
        raise EntryError("source: accepted is a JSON object with platform and chat_id")

    texts = {name: raw.get(name, "") for name in _SOURCE_TEXTS}
    for name, value in texts.items():
        _check_text(f"source.{name}", value)
    chat_type = _choice("source.chat_type", raw.get("chat_type", ChatType.DM.value), _CHAT_TYPES)
    if not texts["platform"]:
        raise EntryError("source.platform: accepted is the name of a channel")

    return SessionSource(chat_type=chat_type, **texts)
