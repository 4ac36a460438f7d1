"""Measures and prints a table and JSON: `make bench`.

    python -m tests.bench [NAME ...]     only these parts
    python -m tests.bench --list

The growth is plotted to docs/growth.svg where `updates` is among the parts and matplotlib, of the
dependency group `bench`, is installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import orjson
from rich.console import Console
from rich.table import Table

from tests.bench import machine
from tests.bench.part import PARTS
from tests.bench.report import shown

PART_TIMEOUT_S: Final = 900
QUIET_LOAD: Final = 0.7
"""Load average of the minute before the run; above it other programs are in the numbers."""
DESIGNS: Final = {
    "whole_file": "whole-file JSON: orjson, fsync, rename",
    "single_row": "SQLite: one upsert a commit, no grouping",
    "any": "session-gateway, any session",
}
PLOT: Final = Path("docs/growth.svg")

Json = dict[str, Any]


def main(names: list[str]) -> int:
    """Measure in a temporary folder of the working directory's disk."""
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        known = "\n".join(f"  {name:10}{what}" for name, what in PARTS.items())
        sys.stderr.write(f"accepted are\n{known}\n")
        return 0 if unknown == ["--list"] else 2

    lacking = machine.too_small(Path.cwd())
    if lacking:
        sys.stderr.write(f"bench: {lacking}\n")
        return 1

    place = machine.describe(Path.cwd())
    wanted = ["machine", *(name for name in PARTS if not names or name in names), "machine"]
    reports = [(name, _part(name)) for name in wanted]
    console = Console(width=120, highlight=False)
    console.print("  ".join(f"{name}: {value}" for name, value in place.items()))
    load = place["load_average"]
    if isinstance(load, float) and load > QUIET_LOAD:
        console.print(f"NOT QUIET: the load average was {load:.1f} before; times mean little.")
    console.print(_goals(reports))
    data = {name: report["data"] for name, report in reports[:-1]}
    if "updates" in data:
        console.print(_growth(data["updates"]))
        _plot(data["updates"], place)
    data["machine"] = place | {"before": reports[0][1]["data"], "after": reports[-1][1]["data"]}
    lines = [line | {"part": name} for name, report in reports for line in report["lines"]]
    sys.stdout.write(orjson.dumps({"lines": lines, "data": data}).decode() + "\n")
    return 0


def _part(name: str) -> Json:
    """Measure a part in a process of its own, in a folder of its own."""
    started = time.monotonic()
    if name in PARTS:
        sys.stderr.write(f"bench: {name}, {PARTS[name]} ... ")
        sys.stderr.flush()
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as folder:
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.part", name, folder],
            check=True,
            stdout=subprocess.PIPE,
            timeout=PART_TIMEOUT_S,
        )
    # The next part finds a disk that is not busy with what this one left.
    os.sync()
    if name in PARTS:
        sys.stderr.write(f"{time.monotonic() - started:.0f} s\n")
    result: Json = orjson.loads(done.stdout)
    return result


def _goals(reports: list[tuple[str, Json]]) -> Table:
    table = Table(title="Goals")
    for column in ("what", "unit", "measured", "goal", "met"):
        table.add_column(column, justify="right" if column == "measured" else "left")
    for _, report in reports:
        for line in report["lines"]:
            met = {True: "yes", False: "[red]no[/red]", None: ""}[line["met"]]
            measured = shown(line["measured"])
            table.add_row(line["what"], line["unit"], measured, line["goal"], met)
        table.add_section()
    return table


def _growth(updates: dict[str, dict[str, float]]) -> Table:
    table = Table(title="One durable update, median: ms (times the bare append)")
    table.add_column("design")
    for size in updates:
        table.add_column(f"{int(size):,}", justify="right")
    for design, what in DESIGNS.items():
        cells = [
            f"{shown(one[f'{design}_p50_us'] / 1000)} ({shown(one[f'{design}_x'])})"
            for one in updates.values()
        ]
        table.add_row(what, *cells)
    return table


def _plot(updates: dict[str, dict[str, float]], place: dict[str, object]) -> None:
    if find_spec("matplotlib") is None:
        sys.stderr.write(f"bench: {PLOT} stays as it is: matplotlib is not installed\n")
        return

    designs = {
        "ours" if design == "any" else design: {
            size: one[f"{design}_p50_us"] / 1000 for size, one in updates.items()
        }
        for design in DESIGNS
    }
    bare_ms = min(one["append_p50_us"] for one in updates.values()) / 1000
    disk = str(place["disk"]).split()[0]
    text = f"{place['cpu']}, {place['cores']} cores, {disk}, Python {place['python']}"
    numbers = orjson.dumps({"machine": text, "bare_ms": bare_ms, "designs": designs})
    command = [sys.executable, "-m", "tests.bench.plotting", str(PLOT)]
    subprocess.run(command, input=numbers, check=True, timeout=120)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
