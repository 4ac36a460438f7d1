"""A process as the registry holds it in memory, from its start until its end is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

import anyio

from gateway.processes.directory import ProcessDirectory
from gateway.processes.identity import open_keeper
from gateway.processes.leftovers import Left
from gateway.processes.records import ProcessRecord


@dataclass(slots=True)
class Kept:
    """A process that runs, or whose end is owed to its session."""

    record: ProcessRecord
    directory: ProcessDirectory
    pidfd: int | None = None
    """Of its keeper; None where that is not there, or nobody waits for it."""
    begun: anyio.Event = field(default_factory=anyio.Event)
    """Set once its start is over, well or not."""
    ended: anyio.Event = field(default_factory=anyio.Event)
    """Set once its end is recorded."""
    writing: anyio.Lock = field(default_factory=anyio.Lock)
    """Guards its input: texts of two callers must not mix."""
    watched: bool = False
    """Whether a task waits for its end and tells it."""
    stored: bool = False
    """Whether its row is stored, or may be."""
    failure: str = ""
    """Why its start failed, which whoever asked for it was told."""
    met: bool = False
    """Whether its keeper was seen alive."""
    left: Left = Left.UNKNOWN
    """What became of what it had started, where its keeper was killed."""
    gone: bool = False
    """Whether its keeper was looked for in vain, and its end is for the next start to tell."""

    @property
    def runs(self) -> bool:
        """Whether it has not ended, as far as is known."""
        return self.record.end is None and not self.gone

    @property
    def since(self) -> datetime:
        """When it was about to be started."""
        return datetime.fromisoformat(self.record.created_at)

    def open_keeper(self) -> int | None:
        """Return a descriptor of its keeper, where that is there; the caller closes it.

        Raises:
            UnavailableError: Nothing tells the life of the machine.
        """
        keeper = self.record.keeper
        return None if keeper is None else open_keeper(keeper, self.directory.path)

    def facts(self) -> dict[str, str]:
        """Return what every line of the log says of it."""
        return {"process_id": self.record.process_id, "session_key": self.record.session_key}
