"""Whether stored pairings mean something: what nobody wrote must let nobody in."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Final

from gateway.access.settings import usable_id
from gateway.durable.salvaging import columns_of
from gateway.upkeep.findings import Level, Report, Tally, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.durable.connection import Connection

_HEX: Final = re.compile(r"[0-9a-f]{32}|[0-9a-f]{64}")


def request_problem(fields: Mapping[str, object]) -> str:
    """Return what is wrong with a request to be paired; empty for nothing."""
    if not (_HEX.fullmatch(str(fields["salt"])) and _HEX.fullmatch(str(fields["code_hash"]))):
        return "a code that is none"

    if not (_is_instant(fields["asked_at"]) and _is_instant(fields["told_at"])):
        return "not an instant"

    return _user_problem(fields)


def lock_problem(fields: Mapping[str, object]) -> str:
    """Return what is wrong with a count of wrong codes; empty for nothing."""
    failures, until = fields["failures"], fields["locked_until"]
    if not isinstance(failures, int) or failures < 1:
        return "a count below 1"

    return "" if until is None or _is_instant(until) else "not an instant"


def paired_problem(fields: Mapping[str, object]) -> str:
    """Return what is wrong with a paired user; empty for nothing."""
    return _user_problem(fields) if _is_instant(fields["paired_at"]) else "not an instant"


CHECKS: Final[dict[str, Callable[[Mapping[str, object]], str]]] = {
    "pairing_requests": request_problem,
    "pairing_locks": lock_problem,
    "paired_users": paired_problem,
}
"""The tables of pairing, and what tells whether a row means something."""


def check_pairing(report: Report, connection: Connection) -> None:
    """Check every row about pairing."""
    bad = Tally("rows about pairing cannot be read")
    paired = 0
    for table, problem_of in CHECKS.items():
        columns = columns_of(connection, table)
        for row in connection.execute(f"SELECT {', '.join(columns)} FROM {table}"):  # noqa: S608 - names of ours
            problem = problem_of(dict(zip(columns, row, strict=True)))
            if problem:
                bad.add(f"{table} ({problem})")
            paired += table == "paired_users"
    fine = f"{paired} paired user{'' if paired == 1 else 's'}"
    tell(report, "pairing", [bad], level=Level.WRONG, fine=fine)


def _user_problem(fields: Mapping[str, object]) -> str:
    user_id = fields["user_id"]
    fine = isinstance(user_id, str) and user_id and user_id == usable_id(user_id)
    return "" if fine and fields["platform"] else "no user"


def _is_instant(value: object) -> bool:
    try:
        return datetime.fromisoformat(str(value)).tzinfo is not None
    except ValueError:
        return False
