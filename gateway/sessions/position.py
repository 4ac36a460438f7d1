"""Where the session log of a database stands: which snapshots fit to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.errors import DamagedDataError

if TYPE_CHECKING:
    from gateway.durable.connection import Connection


@dataclass(frozen=True, slots=True)
class LogPosition:
    """What the table `store_state` and the session log say."""

    used: bool
    """Whether a store was ever opened on this database."""
    clean: bool
    """Whether its last shutdown was orderly."""
    floor: int
    """The log holds every change after this sequence."""
    last: int
    """The newest change there is."""
    taken: bool
    """Whether entries were once taken from a file that was not written beside this database."""

    def covers(self, sequence: int) -> bool:
        """Return whether a snapshot of this sequence and the log make the present state."""
        return not self.used or self.floor <= sequence <= self.last


def read_position(connection: Connection) -> LogPosition:
    """Return where the session log stands.

    Raises:
        DamagedDataError: SQLite reads what was never written.
    """
    rows = connection.execute("SELECT name, value FROM store_state").fetchall()
    state = {str(name): value for name, value in rows if isinstance(value, int)}
    if len(state) < len(rows):
        raise DamagedDataError(Path(connection.filename), "the database is damaged (store_state)")

    newest = connection.execute("SELECT max(sequence) FROM session_log").fetchall()[0][0]
    floor = state.get("floor", 0)
    return LogPosition(
        used=bool(state.get("used")),
        clean=bool(state.get("clean")),
        floor=floor,
        last=max(floor, state.get("last", 0), 0 if newest is None else int(str(newest))),
        taken=bool(state.get("taken")),
    )
