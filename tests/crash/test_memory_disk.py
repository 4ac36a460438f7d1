"""Laws of the disk in memory: what is synced stays, and nothing else is sure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.crash.memory_disk import MemoryDisk
from tests.crash.operations import (
    Create,
    Link,
    Rename,
    Sync,
    SyncDirectory,
    Truncate,
    Unlink,
    Write,
)
from tests.crash.states import Crashes

if TYPE_CHECKING:
    from tests.crash.operations import DiskOperation

NEW = [Create("new", 9), Write(9, 0, b"new")]


def _left(*operations: DiskOperation) -> set[tuple[tuple[str, bytes | None], ...]]:
    """Return all that a disk with one file may hold after these operations."""
    disk = MemoryDisk({"old": b"old"})
    for operation in operations:
        disk.apply(operation)
    return {
        tuple((name, one.data) for name, one in state.files.items())
        for state in Crashes(disk, thorough=True).states(operations[-1])
    }


OLD, NEW_IN_PLACE = ("old", b"old"), ("old", b"new")
BOTH = (("new", b"new"), OLD)


@pytest.mark.parametrize(
    ("operations", "left"),
    [
        pytest.param(NEW, {(OLD,), (("new", b""), OLD), (("new", b"\0\0\0"), OLD), BOTH}, id="new"),
        pytest.param([*NEW, Sync(9)], {(OLD,), BOTH}, id="synced-without-its-name"),
        pytest.param([*NEW, Sync(9), SyncDirectory("")], {BOTH}, id="synced"),
        pytest.param(
            [*NEW, SyncDirectory("")],
            {(("new", b""), OLD), (("new", b"\0\0\0"), OLD), BOTH},
            id="name-without-content",
        ),
        pytest.param(
            [*NEW, Sync(9), SyncDirectory(""), Rename("new", "old", 9)],
            {BOTH, (NEW_IN_PLACE,)},
            id="a-rename-is-one-step",
        ),
        pytest.param(
            [*NEW, Sync(9, failed=True), Sync(9), SyncDirectory("")],
            {(("new", b""), OLD), (("new", b"\0\0\0"), OLD), BOTH},
            id="a-failed-sync-is-not-mended-by-the-next",
        ),
        pytest.param(
            [*NEW, Sync(9), SyncDirectory("", failed=True), SyncDirectory("")],
            {(OLD,), BOTH},
            id="nor-one-of-a-directory",
        ),
        pytest.param(
            [Link("second", 1), Unlink("old", 1)],
            {(OLD,), (OLD, ("second", b"old")), (("second", b"old"),), ()},
            id="each-name-by-itself",
        ),
        pytest.param(
            [Write(1, 3, b"er"), Truncate(1, 1)],
            {(OLD,), (("old", b"older"),), (("old", b"o"),)},
            id="each-change-by-itself",
        ),
    ],
)
def test_a_disk_may_hold_these_and_nothing_else(
    operations: list[DiskOperation], left: set[object]
) -> None:
    assert _left(*operations) == left


def test_a_write_is_torn_between_sectors() -> None:
    long = Write(1, 500, b"x" * 1000)

    sizes = {len(data) for state in _left(long) for _, data in state if data is not None}

    assert sizes == {3, 512, 1024, 1500}
