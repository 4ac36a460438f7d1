"""Whether a state directory and its files are their owner's alone."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from gateway.durable.directory import check_directory
from gateway.errors import UnsafeStateDirectoryError
from gateway.sessions.recovery import PREVIOUS, SNAPSHOT
from gateway.upkeep.archive_files import FOLDER, names_in
from gateway.upkeep.findings import Level, Report

if TYPE_CHECKING:
    from pathlib import Path

_SECRET: Final = ("lock", "token", "gateway.db", "gateway.db-wal", "gateway.db-shm")


def check_modes(report: Report, state_dir: Path, *, dashboard: bool) -> None:
    """Check owner and modes of the directory and of each file it is known to hold."""
    try:
        check_directory(state_dir, allowed=0o710 if dashboard else 0o700)
    except UnsafeStateDirectoryError as error:
        report.add(Level.UNSAFE, "directory", str(error))
    else:
        report.ok("directory", f"{state_dir}, mode {stat.S_IMODE(state_dir.stat().st_mode):04o}")
    fine = True
    for name in (*_SECRET, SNAPSHOT, PREVIOUS):
        problem = _problem(state_dir / name, 0o640 if dashboard and name not in _SECRET else 0o600)
        if problem:
            fine = False
            # A snapshot may come from elsewhere: it is read, and the next one is private again.
            level = Level.UNSAFE if name in _SECRET else Level.WARNING
            report.add(level, "modes", f"{name}: {problem}")
    for name in sorted(names_in(state_dir / FOLDER)):
        problem = _problem(state_dir / FOLDER / name, 0o600)
        if problem:
            fine = False
            report.add(Level.UNSAFE, "modes", f"{FOLDER}/{name}: {problem}")
    if fine:
        report.ok("modes", "every file is its owner's alone")


def _problem(path: Path, allowed: int) -> str:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return ""

    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"

    if status.st_uid != os.geteuid():
        return f"belongs to user id {status.st_uid}, this process is {os.geteuid()}"

    mode = stat.S_IMODE(status.st_mode)
    return f"mode {mode:04o}, accepted is {allowed:04o}" if mode & 0o777 & ~allowed else ""
