"""What the numbers were measured on, and how quiet it was."""

from __future__ import annotations

import os
import platform
import sqlite3
from pathlib import Path

import apsw

from tests.bench.report import Report, quantile, spread
from tests.bench.ticking import idle_gaps_ms

CONTROL_S = 5.0
NEEDED_DISK_BYTES = 12_000_000_000
NEEDED_MEMORY_BYTES = 7_000_000_000


def describe(folder: Path) -> dict[str, object]:
    """Return the machine, the disk below a folder, and the programs."""
    return {
        "cpu": _value("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory_gib": round(_memory_bytes("MemTotal") / 2**30, 1),
        "kernel": platform.release(),
        "disk": _mount(folder),
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "sqlite_of_python": sqlite3.sqlite_version,
        "load_average": round(os.getloadavg()[0], 2),
    }


def too_small(folder: Path) -> str:
    """Return what a run lacks; empty where nothing."""
    space = os.statvfs(folder)
    if space.f_bavail * space.f_frsize < NEEDED_DISK_BYTES:
        return f"{folder}: {NEEDED_DISK_BYTES / 1e9:.0f} GB of free disk are needed"

    if _memory_bytes("MemAvailable") < NEEDED_MEMORY_BYTES:
        return f"{NEEDED_MEMORY_BYTES / 1e9:.0f} GB of free memory are needed"

    return ""


async def measure(_folder: Path) -> Report:
    """Measure an event loop that has nothing to do: what the machine itself adds."""
    gaps_ms = await idle_gaps_ms(CONTROL_S)
    report = Report()
    report.show("idle control: loop gap p99.9", "ms", quantile(gaps_ms, 0.999))
    report.show("idle control: longest loop gap", "ms", max(gaps_ms))
    report.show("load average of the last minute", "processes", os.getloadavg()[0])
    report.data = {"gap_ms": spread(gaps_ms), "load_average": list(os.getloadavg())}
    return report


def _value(path: str, name: str) -> str:
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def _memory_bytes(name: str) -> int:
    return int(_value("/proc/meminfo", name).split()[0]) * 1024


def _mount(folder: Path) -> str:
    """Return file system and mount options of the longest mount point above a folder."""
    best, found = "", "unknown"
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        _, point, kind, options, *_ = line.split()
        if folder.resolve().is_relative_to(point) and len(point) >= len(best):
            best, found = point, f"{kind} ({options})"
    return found
