"""Run the measurements and print a table and JSON; see `make bench`."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from pathlib import Path

import anyio
import orjson
from rich.console import Console
from rich.table import Table

from gateway.log import LogSettings, configure
from tests.bench.http import measure_turns
from tests.bench.store import Case, measure_updates

ENTRIES = 100_000


def main() -> None:
    """Measure in a temporary folder of the working directory's disk."""
    configure(LogSettings(level="error"), sys.stderr.buffer)
    small, large, cold = Case(1_000, 1_000), Case(ENTRIES, 1_000), Case(ENTRIES, ENTRIES)
    cases = [small, large, cold]
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as name:
        folder = Path(name)
        bare_us = anyio.run(measure_updates, folder, cases, backend_options={"use_uvloop": True})
        turns = measure_turns(folder, ENTRIES)
    first, second, third = (case.row() for case in cases)
    update, bare = "update_to_bare", "x bare append + fdatasync"
    rate, bare_rate = "rate_of_32_writers_to_bare", "x bare rate"
    flat = round(second[update] / first[update], 3)
    goals = [
        ("durable update, 1,000 entries", bare, first[update], "<= 1.3"),
        ("durable update, 100,000 entries, 1,000 in use", bare, second[update], "<= 1.3"),
        ("durable update, 100,000 entries, any of them", bare, third[update], ""),
        ("100,000 entries against 1,000", "ratio", flat, "0.8 to 1.2"),
        ("32 writers, 1,000 entries", bare_rate, first[rate], ">= 7"),
        ("32 writers, 100,000 entries, 1,000 in use", bare_rate, second[rate], ">= 7"),
        ("32 writers, 100,000 entries, any of them", bare_rate, third[rate], ""),
        (
            f"echo turns over HTTP, {ENTRIES:,} entries, 64 connections",
            "share of the empty handler",
            turns["turns_to_empty_handler"],
            ">= 0.2",
        ),
    ]
    table = Table(
        title=f"{os.cpu_count()} cores, {platform.release()}, Python {platform.python_version()}"
    )
    for column in ("what", "unit", "measured", "goal"):
        table.add_column(column)
    for goal in goals:
        table.add_row(*map(str, goal))
    Console(width=110).print(table)
    report = {"bare_us": bare_us, "updates": [first, second, third], "turns": turns}
    sys.stdout.write(orjson.dumps(report).decode() + "\n")


if __name__ == "__main__":
    main()
