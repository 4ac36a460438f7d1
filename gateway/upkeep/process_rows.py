"""Whether stored background processes mean something: what is none must not be looked for."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Final

import orjson

from gateway.errors import BadRequestError
from gateway.model import ChatType, SessionSource
from gateway.processes.records import EndReason
from gateway.sessions.key import parse_key
from gateway.upkeep.findings import Level, Report, Tally, tell

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.durable.connection import Connection

_ID: Final = re.compile(r"p-[0-9a-f]{10}")
_COLUMNS: Final = (
    *("process_id", "session_key", "source", "command", "created_at", "pid", "start_ticks"),
    *("boot_id", "ended_at", "end_reason"),
)
_REASONS: Final = frozenset(reason.value for reason in EndReason)


def process_problem(fields: Mapping[str, object]) -> str:
    """Return what is wrong with a process; empty for nothing."""
    if not _ID.fullmatch(str(fields["process_id"])):
        return "not the id of a process"

    keeper = [fields[name] is None for name in ("pid", "start_ticks", "boot_id")]
    if any(keeper) and not all(keeper):
        return "half a keeper"

    ended = fields["ended_at"] is not None
    if ended != (fields["end_reason"] in _REASONS):
        return "not an end"
    if not _is_instant(fields["created_at"]) or (ended and not _is_instant(fields["ended_at"])):
        return "not an instant"

    return _meaning_problem(fields)


def _meaning_problem(fields: Mapping[str, object]) -> str:
    try:
        words = orjson.loads(str(fields["command"]))
        source = orjson.loads(str(fields["source"]))
        ChatType(source["chat_type"])
        SessionSource(**source)
        parse_key(str(fields["session_key"]))
    except BadRequestError:
        return "not a session key"
    except (KeyError, TypeError, ValueError):
        return "not a command or a source"

    is_command = isinstance(words, list) and all(isinstance(word, str) for word in words)
    return "" if words and is_command else "not a command"


CHECKS: Final = {"processes": process_problem}


def check_processes(report: Report, connection: Connection) -> None:
    """Check every row of a process."""
    bad = Tally("processes cannot be read")
    live = count = 0
    for row in connection.execute(f"SELECT {', '.join(_COLUMNS)} FROM processes"):  # noqa: S608 - names of ours
        fields = dict(zip(_COLUMNS, row, strict=True))
        count += 1
        live += fields["ended_at"] is None
        problem = process_problem(fields)
        if problem:
            bad.add(f"{fields['process_id']} ({problem})")
    fine = f"{count}, {live} of them not known to have ended"
    tell(report, "processes", [bad], level=Level.WRONG, fine=fine)


def _is_instant(value: object) -> bool:
    try:
        return datetime.fromisoformat(str(value)).utcoffset() is not None
    except ValueError:
        return False
