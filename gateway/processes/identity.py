"""Which process is the keeper that was recorded: its number alone proves nothing.

A number is given anew once its process is gone. So a keeper is one only with the recorded start
time, in the recorded life of the machine, and working in the directory of its process; a descriptor
of it (pidfd) is opened before that is looked at, and no signal goes another way.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.errors import UnavailableError

BOOT_ID_VARIABLE: Final = "BOOT_ID"
"""What the unit gives the boot id in: with `ProcSubset=pid` there is no file of it."""
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_STATE, _SESSION, _START_TICKS = 0, 3, 19
"""Places behind the name: fields 3, 6 and 22 of proc_pid_stat(5)."""


@dataclass(frozen=True, slots=True)
class KeeperIdentity:
    """What tells a keeper from every other process there ever was."""

    pid: int
    start_ticks: int
    """When it started, in ticks since the machine did."""
    boot_id: str
    """The life of the machine."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the kernel says of a process."""

    state: str
    """One letter; `Z` where it only waits to be reaped."""
    session: int
    """The number of its session: that of the process which made it."""
    start_ticks: int
    """When it started, in ticks since the machine did."""


def boot_id() -> str:
    """Return what names the present life of the machine.

    Raises:
        UnavailableError: Nothing tells it.
    """
    try:
        told = _BOOT_ID.read_text("ascii")
    except OSError as exc:
        told = os.environ.get(BOOT_ID_VARIABLE, "")
        if not told:
            raise UnavailableError(
                f"{_BOOT_ID} cannot be read, and {BOOT_ID_VARIABLE} is not set: "
                "after a restart processes could not be told from strangers"
            ) from exc

    # systemd writes it without dashes.
    return told.strip().replace("-", "")


def seen(pid: int) -> Seen | None:
    """Return what the kernel says of a process; None where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None

    fields = stat.rpartition(b")")[2].decode().split()
    return Seen(fields[_STATE], int(fields[_SESSION]), int(fields[_START_TICKS]))


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in ticks since the machine did; None where there is none."""
    found = seen(pid)
    return None if found is None else found.start_ticks


def open_keeper(identity: KeeperIdentity, directory: Path) -> int | None:
    """Return a descriptor (pidfd) of a keeper that is there; None where it is not, or no more.

    The caller closes it.

    Raises:
        UnavailableError: Nothing tells the life of the machine.
    """
    if identity.boot_id != boot_id():
        return None

    try:
        descriptor = os.pidfd_open(identity.pid)
    except OSError:
        return None

    # What the descriptor stands for had the number from before these looks until after them.
    if start_ticks(identity.pid) == identity.start_ticks and _works_in(identity.pid, directory):
        return descriptor

    os.close(descriptor)
    return None


def is_within(pid: int, directory: Path) -> bool:
    """Return whether a process works in a directory or below it."""
    try:
        return Path(f"/proc/{pid}/cwd").resolve().is_relative_to(directory.resolve())
    except OSError:
        return False


def _works_in(pid: int, directory: Path) -> bool:
    """Return whether a process works in a directory, whatever name that has now."""
    try:
        return Path(f"/proc/{pid}/cwd").samefile(directory)
    except OSError:
        return False
