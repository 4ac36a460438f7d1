"""What each row of a salvage must mean: a problem in words, empty for none.

A damaged page may be read without an error and give nonsense: what would break the gateway that
reads it later is given up. Of a field that serves little only the field is, so that the row stays.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import orjson

from gateway.context.cache import CacheVerdict
from gateway.errors import BadRequestError
from gateway.model import CallPurpose, ChatType, Image, ProjectionMode, Role, SessionSource
from gateway.sessions.key import SESSION_ID, parse_key
from gateway.transcripts import outbox_rows
from gateway.transcripts.inbox import Ending, Origin
from gateway.upkeep import pairing_rows, process_rows, pruning_rows, token_rows, webhook_rows
from gateway.upkeep.snapshots import member_problem

if TYPE_CHECKING:
    from collections.abc import Callable

_ROLES: Final = frozenset(role.value for role in Role)
_CHAT_TYPES: Final = frozenset(kind.value for kind in ChatType)
_MODES: Final = frozenset(mode.value for mode in ProjectionMode)
_VERDICTS: Final = frozenset({"", *(verdict.value for verdict in CacheVerdict)})
_PURPOSES: Final = frozenset(purpose.value for purpose in CallPurpose)
_ORIGINS: Final = frozenset(origin.value for origin in Origin)
_ENDINGS: Final = frozenset({None, *(ending.value for ending in Ending)})
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_COUNTS: Final = ("request_tokens", "rounds", "trimmed", "cleared", "saved_tokens")
_SPENT: Final = ("spent_tokens", "spent_usd", "spent_unpriced_calls")
_SIZES: Final = ("turns", "tokens_before", "tokens_after")
_SUMS: Final = (
    *("calls", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"),
    *("usd", "unpriced_calls"),
)

Fields = dict[str, object]


def key_problem(key: object) -> str:
    """Return what is wrong with a session key; empty for nothing."""
    try:
        parse_key(str(key))
    except BadRequestError:
        return "not a session key"

    return ""


def _session(fields: Fields) -> str:
    if not SESSION_ID.fullmatch(str(fields["session_id"])):
        return "not a session id"

    key, member = str(fields["session_key"]), fields["member"]
    if isinstance(member, bytes) and member_problem(key, member):
        # It only serves an undo; what was said in the session is worth more.
        fields["member"] = None
    return key_problem(key)


def _message(fields: Fields) -> str:
    if fields["role"] not in _ROLES:
        return "no role"

    calls = fields["tool_calls"]
    if calls is not None and not _json(calls):
        return "tool calls that are no JSON"

    _mend_version(fields)
    # A database of an older gateway has no images.
    images = fields.get("images")
    return "" if images is None or _are_images(images) else "images that are none"


def _mend_version(fields: Fields) -> None:
    """Leave out what pruning noted of a message where it is damaged; the message is worth more."""
    if fields.get("marks") is not None and not pruning_rows.is_object(fields["marks"]):
        fields["marks"] = None
    if "version" in fields and not pruning_rows.is_count(fields["version"]):
        fields["version"] = 1


def _are_images(text: object) -> bool:
    try:
        images = orjson.loads(str(text))
        for image in images:
            Image(**image)
    except (orjson.JSONDecodeError, TypeError, UnicodeEncodeError):
        return False

    return all(isinstance(value, str) for image in images for value in image.values())


def _call(fields: Fields) -> str:
    # A database of an older gateway tells no purposes.
    return "" if fields.get("purpose", CallPurpose.TURN) in _PURPOSES else "no purpose"


def _projection(fields: Fields) -> str:
    _mend_through(fields)
    if fields["mode"] not in _MODES or not fields["item"]:
        return "not a projection"

    sizes = [fields[name] for name in ("max_chars", "head_chars", "tail_chars")]
    return "" if all(isinstance(size, int) and size >= 0 for size in sizes) else "sizes below 0"


def _mend_through(fields: Fields) -> None:
    """Leave out a position that is none: without it the turn is looked for."""
    if not pruning_rows.is_count(fields.get("through", 0)):
        fields["through"] = None


def _account(fields: Fields) -> str:
    # A database of an older gateway does not say what was used.
    if _below_0(fields, _COUNTS) or ("spent_tokens" in fields and _below_0(fields, _SPENT)):
        return "counts below 0"

    return "" if fields["cache_verdict"] in _VERDICTS else "not a cache verdict"


def _summary(fields: Fields) -> str:
    _mend_through(fields)
    if not (fields["through_turn"] and str(fields["text"]).strip()):
        return "not a summary"

    return "counts below 0" if _below_0(fields, _SIZES) else ""


def _user(fields: Fields) -> str:
    return "" if fields["user"] else "no user"


def _usage(fields: Fields) -> str:
    if not _DAY.fullmatch(str(fields["day"])):
        return "not a day"

    return "counts below 0" if _below_0(fields, _SUMS) else ""


def _below_0(fields: Fields, names: tuple[str, ...]) -> bool:
    return any(not isinstance(count := fields[name], int | float) or count < 0 for name in names)


def _accepted(fields: Fields) -> str:
    noted = (fields["reset"], fields.get("asked"))
    if not fields["turn_id"] or not all(one is None or _json(one) for one in noted):
        return "not an accepted message"

    try:
        source = orjson.loads(str(fields["source"]))
        fine = source["chat_type"] in _CHAT_TYPES
        SessionSource(**source)
    except (orjson.JSONDecodeError, KeyError, TypeError, UnicodeEncodeError):
        fine = False
    # A database of an older gateway does not say who a message comes from, nor why it ended.
    if fields.get("origin", Origin.USER) not in _ORIGINS or fields.get("ended") not in _ENDINGS:
        return "not an accepted message"

    return key_problem(fields["session_key"]) if fine else "not a source"


def _start(fields: Fields) -> str:
    return key_problem(fields["session_key"]) or _below_0(fields, ("starts",)) * "counts below 0"


def _reply(fields: Fields) -> str:
    if not _json(fields["reply"]):
        return "a reply that is no JSON"
    # A database of an older gateway knows no channels.
    if fields.get("channel") is not None and not outbox_rows.is_sound(fields):
        return "a reply that cannot be delivered"

    return key_problem(fields["session_key"])


def _json(text: object) -> bool:
    try:
        orjson.loads(str(text))
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        return False

    return True


CHECKS: Final[dict[str, Callable[[Fields], str]]] = {
    "sessions": _session,
    "messages": _message,
    "model_calls": _call,
    "projections": _projection,
    "context_accounts": _account,
    "summaries": _summary,
    "session_users": _user,
    "usage": _usage,
    "inbox": _accepted,
    "broken_starts": _start,
    "outbox": _reply,
    **pairing_rows.CHECKS,
    **token_rows.CHECKS,
    **webhook_rows.CHECKS,
    **process_rows.CHECKS,
    **pruning_rows.CHECKS,
}
