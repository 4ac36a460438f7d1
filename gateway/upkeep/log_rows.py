"""Whether the session log can be replayed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.errors import BadRequestError
from gateway.model import SessionKey
from gateway.sessions.key import parse_key
from gateway.upkeep.findings import Level, Report, Tally, tell
from gateway.upkeep.snapshots import member_problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.durable.connection import Connection
    from gateway.sessions.position import LogPosition
    from gateway.sessions.table import EntryTable


@dataclass(frozen=True, slots=True)
class CheckedLog:
    """A session log that was read and checked."""

    sound: bool
    after: int
    """The sequence that the snapshot reaches to; 0 where nobody knows."""

    def apply(self, connection: Connection, table: EntryTable) -> None:
        """Bring a snapshot's entries to the present, as a start would."""
        for sequence, key, member in _rows(connection):
            if sequence <= self.after:
                continue
            if member is None:
                table.drop(SessionKey(key))
            else:
                table.put(SessionKey(key), member)


def check_log(
    report: Report, connection: Connection, position: LogPosition, *, after: int | None
) -> CheckedLog:
    """Check every row; numbers may have gaps, for work that was rolled back leaves some.

    Args:
        report: Where the findings go.
        connection: The database.
        position: Where its log stands.
        after: The change that the snapshot reaches to; None where there is none that fits.
    """
    bad = Tally("rows of the session log cannot be read")
    count = later = 0
    for sequence, key, member in _rows(connection):
        count += 1
        later += after is not None and sequence > after
        problem = _row_problem(key, member)
        if problem:
            bad.add(f"sequence {sequence}, {key} ({problem})")
    fine = f"{count} rows" + ("" if after is None else f", {later} of them after the snapshot")
    tell(report, "session log", [bad], level=Level.WRONG, fine=fine)
    if later and position.clean:
        report.warning(
            "session log", f"the last shutdown was orderly, yet {later} changes are in no snapshot"
        )
    return CheckedLog(sound=not bad.count, after=after or 0)


def _rows(connection: Connection) -> Iterator[tuple[int, str, bytes | None]]:
    for sequence, key, member in connection.execute(
        "SELECT sequence, session_key, member FROM session_log ORDER BY sequence"
    ):
        yield int(str(sequence)), str(key), None if member is None else bytes(member)


def _row_problem(key: str, member: bytes | None) -> str:
    try:
        parse_key(key)
    except BadRequestError as error:
        return str(error)

    return "" if member is None else member_problem(key, member)
