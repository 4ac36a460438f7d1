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
from tests.bench.store import measure_updates

SIZES = [1_000, 100_000]


def main() -> None:
    """Measure in a temporary folder of the working directory's disk."""
    configure(LogSettings(level="error"), sys.stderr.buffer)
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as name:
        folder = Path(name)
        rows = anyio.run(measure_updates, folder, SIZES, backend_options={"use_uvloop": True})
        turns = measure_turns(folder, SIZES[-1])
    small, large = (float(str(row["update_to_bare"])) for row in rows)
    goals = [
        ("durable update, 1 writer, 1,000 entries", "x bare append + fdatasync", small, "<= 1.3"),
        ("durable update, 1 writer, 100,000 entries", "x bare append + fdatasync", large, "<= 1.3"),
        ("the same at both sizes", "100,000 / 1,000", round(large / small, 3), "0.8 to 1.2"),
        (
            "32 writers, 100,000 entries",
            "x bare rate",
            rows[-1]["rate_of_32_writers_to_bare"],
            ">= 7",
        ),
        (
            "echo turns over HTTP, 64 connections",
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
    sys.stdout.write(orjson.dumps({"updates": rows, "turns": turns}).decode() + "\n")


if __name__ == "__main__":
    main()
