"""One state directory that is hit again and again, and checked after each time."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tests.support.state import open_state, power_cut
from tests.torture.agreement import check_later, check_recovered, check_stored
from tests.torture.checker import check_all
from tests.torture.history import History, read_history
from tests.torture.laws import Law, Violation
from tests.torture.stored import SCRATCH, Stored, read_stored
from tests.torture.worlds import check_entries

if TYPE_CHECKING:
    from tests.support.daemon import Daemon


@dataclass(slots=True)
class Ordeal:
    """A state directory, the history of its clients, and what was seen of it last."""

    folder: Path
    seen: Stored = field(default_factory=lambda: Stored(None, None))
    history: History = field(init=False)

    def __post_init__(self) -> None:
        """Make room for the histories, or go on with those that are there."""
        (self.folder / "histories").mkdir(exist_ok=True)
        self.history = History(self.folder / "histories")

    def copy(self, folder: Path) -> Ordeal:
        """Return the same ordeal once more, in a folder that is not there yet."""
        shutil.copytree(self.folder, folder)
        return Ordeal(folder, self.seen)

    @property
    def state_dir(self) -> Path:
        """Where the daemon works."""
        return self.folder / "state"

    def violations(self) -> list[Violation]:
        """Return what is wrong with what a daemon left that runs no more."""
        stored = read_stored(self.state_dir)
        events = read_history(self.history.folder)
        return [*check_all(events, stored), *check_later(self.seen, stored)]

    def check_dead(self) -> None:
        """Check what a daemon left that runs no more."""
        _demand(self.violations())
        self.seen = read_stored(self.state_dir)

    async def check_recovery(self) -> None:
        """Check on copies that recovering changes nothing, and once more nothing either."""
        if not self.state_dir.exists():
            return  # killed before its first act
        with TemporaryDirectory(dir=SCRATCH) as scratch:
            once, twice = Path(scratch) / "once", Path(scratch) / "twice"
            shutil.copytree(self.state_dir, once)
            async with open_state(once) as state:
                power_cut(state, twice)
            async with open_state(twice):
                pass
            before = self.seen
            for path in (once, twice):
                after = read_stored(path)
                _demand([*check_stored(after), *check_recovered(before, after)])
                # No turn ran, so what is owed an answer is as before, too.
                assert (after.entries, after.inbox) == (before.entries, before.inbox)
                before = after

    async def check_alive(self, daemon: Daemon) -> None:
        """Check what a daemon shows that was just started, once it owes no answer."""
        await daemon.until(
            lambda status: not status["turns"]["running"] + status["turns"]["waiting"]
        )
        entries = await shown_entries(daemon)
        owed = {row.key for row in self.seen.inbox}
        kept = self.seen.entries
        violations = [
            Violation(Law.CHANGED, f"the API shows {key} otherwise than the files")
            for key in entries.keys() | kept.keys()
            if key not in owed and entries.get(key) != kept.get(key)
        ]
        for key in list(entries)[:1]:
            session_id = entries[key]["session_id"]
            wanted = [(m.role, m.text) for m in self.seen.messages if m.session_id == session_id]
            said = await daemon.said(key)
            if said[: len(wanted)] != wanted or (key not in owed and len(said) > len(wanted)):
                violations.append(Violation(Law.CHANGED, f"the API shows another {session_id}"))
        _demand([*violations, *check_entries(read_history(self.history.folder), entries)])
        self.history.restarted(entries)


async def shown_entries(daemon: Daemon) -> dict[str, dict[str, Any]]:
    """Return the entries that the API shows, as they stand in `sessions.json`."""
    entries: dict[str, dict[str, Any]] = {}
    cursor: str | None = ""
    while cursor is not None:
        page = await daemon.get(f"/v1/sessions?limit=1000&cursor={cursor}")
        for entry in page["sessions"]:
            del entry["busy"]
            entries[entry["session_key"]] = entry
        cursor = page["next_cursor"]
    return entries


def _demand(violations: list[Violation]) -> None:
    assert not violations, "\n".join(map(str, violations[:20]))
