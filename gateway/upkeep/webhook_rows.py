"""Whether queued events mean something: what nobody staged must be posted to nobody."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Final

import orjson

from gateway.durable.salvaging import columns_of
from gateway.signing.signatures import MAX_ID_CHARS
from gateway.upkeep.findings import Level, Report, Tally, tell
from gateway.webhooks.settings import EventKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.durable.connection import Connection

_ID: Final = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_ID_CHARS}}}")
_KINDS: Final = frozenset(kind.value for kind in EventKind)


def event_problem(fields: Mapping[str, object]) -> str:
    """Return what is wrong with an event; empty for nothing."""
    if not _ID.fullmatch(str(fields["event_id"])) or fields["type"] not in _KINDS:
        return "not an event"

    attempts, dead_at = fields["attempts"], fields["dead_at"]
    if not isinstance(attempts, int) or attempts < 0:
        return "a count below 0"

    stamps = [fields["created_at"], fields["due_at"], *([] if dead_at is None else [dead_at])]
    if not all(map(_is_instant, stamps)):
        return "not an instant"

    return "" if _tells(fields) else "a body that tells something else"


CHECKS: Final[dict[str, Callable[[Mapping[str, object]], str]]] = {"webhook_events": event_problem}
"""The table of events, and what tells whether a row means something."""


def check_webhooks(report: Report, connection: Connection) -> None:
    """Check every event."""
    bad = Tally("events for webhooks cannot be read")
    columns = columns_of(connection, "webhook_events")
    count = dead = 0
    for row in connection.execute(f"SELECT {', '.join(columns)} FROM webhook_events"):  # noqa: S608 - names of ours
        fields = dict(zip(columns, row, strict=True))
        count += 1
        dead += fields["dead_at"] is not None
        problem = event_problem(fields)
        if problem:
            bad.add(f"row {row[0]} ({problem})")
    fine = f"{count}, {dead} of them dead letters"
    tell(report, "events for webhooks", [bad], level=Level.WRONG, fine=fine)


def _tells(fields: Mapping[str, object]) -> bool:
    try:
        body = orjson.loads(str(fields["body"]))
        return bool(
            body["type"] == fields["type"] and body["data"]["session_key"] == fields["session_key"]
        )
    except (KeyError, TypeError, ValueError):
        return False


def _is_instant(value: object) -> bool:
    try:
        return datetime.fromisoformat(str(value)).utcoffset() is not None
    except ValueError:
        return False
