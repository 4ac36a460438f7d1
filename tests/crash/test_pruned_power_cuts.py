"""Laws of power loss in what becomes of pruned items: wherever it goes, each is in one place.

Every operation of the disk is recorded and cut; each state that a cut may leave is looked at as it
is, started on, swept to the end, and looked at again.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeAlias

import pytest

from gateway.clock import FakeClock
from gateway.retention.archiving import condemn_sessions, forget_condemned
from tests.crash.exploring import crash_states, recording
from tests.crash.recovering import write_out
from tests.support.kept import DAY_S, KEEP, Store, disagreements, lines_of, store
from tests.support.state import START

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from gateway.durable.batch import Transaction

KEEP_SHORT: Final = replace(KEEP, removed_sessions_s=30 * DAY_S, audit_s=None)
NOW: Final = START + timedelta(days=40)
"""When a workload begins: what was prepared before is due."""


async def prepare_first(path: Path) -> dict[int, str]:
    """Leave what the first file of an archive is to hold; return what each message said."""
    async with store(path, keep=KEEP_SHORT) as one:
        await one.say("s", 4)
        await one.take(1, 2, action="archive")
        return dict(one.texts)


async def prepare(path: Path) -> dict[int, str]:
    """Leave some of everything that can become due; return what each message said."""
    async with store(path, keep=KEEP_SHORT) as one:
        first = await one.say("s", 8)
        gone = await one.say("gone", 4)
        await one.take(first[0], gone[0], action="archive", run="early")
        one.later(7)
        await one.sweep()
        await one.say("old", 3)
        await one.end("old")
        one.later(26)
        await one.take(first[1], first[2], gone[1], action="archive")
        await one.take(first[3], action="delete")
        await one.take(first[4], action="compact")
        one.later(7)
        await one.take(first[5], action="delete", run="late")
        return dict(one.texts)


async def archive_first(one: Store) -> None:
    """Archive where nothing ever was."""
    # The first sync of a WAL syncs the names in the state directory as well.
    await one.run("UPDATE sessions SET end_reason = 'none'")
    assert (await one.sweep()).archived_items == 2


async def sweep(one: Store) -> None:
    """Purge, archive, move what was said in a removed conversation."""
    kept = await one.sweep()
    assert (kept.purged_items, kept.archived_items, kept.moved_items) == (2, 3, 3)


async def give_back(one: Store) -> None:
    """Give back out of the grace and out of files, before and after a sweep."""
    assert len((await one.give_back(run="late")).items) == 1
    assert len((await one.give_back(1)).items) == 1
    await one.sweep()
    assert len((await one.give_back(2)).items) == 1


async def expire(one: Store) -> None:
    """Let files of the archive go."""
    await one.sweep()
    one.later(400)
    assert (await one.sweep()).removed_archives >= 2


async def forget(one: Store) -> None:
    """Erase a session that files have items of, alone and among others'."""
    await one.sweep()

    def erase(transaction: Transaction) -> None:
        condemn_sessions(transaction, ["gone"])
        for table in ("messages", "sessions"):
            transaction.execute(f"DELETE FROM {table} WHERE session_id = 'gone'")  # noqa: S608 - names of ours

    await one.database.write(erase)
    await forget_condemned(one.archives)


Prepare: TypeAlias = "Callable[[Path], Awaitable[dict[int, str]]]"
Work: TypeAlias = "Callable[[Store], Awaitable[None]]"
WORKLOADS: Final[dict[str, tuple[Prepare, Work]]] = {
    "first": (prepare_first, archive_first),
    "sweep": (prepare, sweep),
    "give-back": (prepare, give_back),
    "expire": (prepare, expire),
    "forget": (prepare, forget),
}


class Cuts:
    """Judges the states that cuts of one workload leave."""

    def __init__(self, work: Path, texts: Mapping[int, str]) -> None:
        self._work = work
        self._texts = texts
        self._of_gone = {item for item, text in texts.items() if text.startswith("gone")}

    async def faults(self) -> list[str]:
        """Return what is wrong with a state, before and after it is started on and swept."""
        found = [f"as it was left: {fault}" for fault in self._disagreements(swept=False)]
        async with store(self._work, keep=KEEP_SHORT, clock=FakeClock(NOW)) as one:
            kept = await one.sweep()
            found += kept.problems
            again = await one.sweep()
            found += [f"a second sweep did {again}"] if again.moved_items else []
        return found + self._disagreements(swept=True)

    def _disagreements(self, *, swept: bool) -> list[str]:
        found = disagreements(self._work, self._texts, swept=swept)
        if not any(
            f"item {item} is in 0 places" in fault for item in self._of_gone for fault in found
        ):
            return found

        # An erasure is durable: then all of the session is forgotten, in files as well.
        texts = {item: text for item, text in self._texts.items() if item not in self._of_gone}
        files = self._work.glob("archive/*") if swept else ()
        left = [f"{file.name}: holds what was erased" for file in files if _has_gone(file)]
        return disagreements(self._work, texts, swept=swept) + left


def _has_gone(file: Path) -> bool:
    return any("gone" in str(line) for line in lines_of(file))


async def _explored(name: str, folder: Path, *, step: int) -> int:
    """Judge each so-many-th state that cuts of a workload leave; return how many."""
    path, work = folder / "state", folder / "work"
    prepare_it, work_on = WORKLOADS[name]
    texts = await prepare_it(path)
    with recording(path) as disk:
        async with store(path, keep=KEEP_SHORT, clock=FakeClock(NOW), disk=disk) as one:
            await work_on(one)
    cuts, states = Cuts(work, texts), crash_states(disk.record)
    for number, state in list(enumerate(states))[::step]:
        write_out({file: one.data for file, one in state.files.items()}, work)
        assert await cuts.faults() == [], f"state {number} of {len(states)}"
    return len(states)


@pytest.mark.parametrize("name", WORKLOADS)
async def test_wherever_the_power_goes_each_item_is_in_one_place(
    folder: Path, name: str, torture_count: Callable[[str, int], None]
) -> None:
    states = await _explored(name, folder, step=4)

    torture_count("crash states", states // 4)
    assert states > 20


@pytest.mark.torture
@pytest.mark.parametrize("name", WORKLOADS)
async def test_in_every_crash_state_each_item_is_in_one_place(
    folder: Path, name: str, torture_count: Callable[[str, int], None]
) -> None:
    torture_count("crash states", await _explored(name, folder, step=1))
