"""Goal 6: whole durable turns over HTTP.

Against the same server with an empty handler, and against one that writes its sessions to one file
with every message. The load is a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Final

import orjson

from tests.bench.report import Report, median
from tests.bench.servers import TOKEN, gateway, plain
from tests.bench.states import write_state

if TYPE_CHECKING:
    from pathlib import Path

ENTRIES: Final = 100_000
CONNECTIONS: Final = 64
ROUNDS: Final = 7
SECONDS: Final = 3.0
WHOLE_FILE_EVERY: Final = 3
WHOLE_FILE_SECONDS: Final = 6.0
"""Each message waits for those of all other connections, so few are answered."""


async def measure(folder: Path, entries: int = ENTRIES, rounds: int = ROUNDS) -> Report:
    """Load the servers in turn, all three of them running."""
    write_state(folder / "turns", entries)
    rates: dict[str, list[float]] = {"empty": [], "gateway": [], "whole_file": []}
    shares, times = [], []
    failed = 0.0
    whole = plain(str(folder / "whole"), str(entries))
    with gateway(folder / "turns") as ours, plain() as nothing, whole as whole_file:
        for number in range(rounds):
            wanted = [("empty", nothing, SECONDS), ("gateway", ours, SECONDS)]
            if number % WHOLE_FILE_EVERY == 0:
                wanted.append(("whole_file", whole_file, WHOLE_FILE_SECONDS))
            for name, port, seconds in wanted:
                result = _load(port, seconds)
                failed += result["failed"]
                rates[name].append(result["per_s"])
            shares.append(rates["gateway"][-1] / rates["empty"][-1])
            if number % WHOLE_FILE_EVERY == 0:
                times.append(rates["gateway"][-1] / rates["whole_file"][-1])
    assert failed == 0
    report = Report()
    name = f"echo turns over HTTP, {entries:,} sessions, {CONNECTIONS} connections"
    report.at_least(name, "x empty handler", median(shares), 0.2)
    report.at_least(name, "x whole-file JSON", median(times), 10)
    report.data = {
        name: {"per_s": round(median(rate), 1), "rounds": [round(one, 1) for one in rate]}
        for name, rate in rates.items()
    }
    return report


def _load(port: int, seconds: float) -> dict[str, float]:
    arguments = ["127.0.0.1", str(port), TOKEN, str(CONNECTIONS), str(seconds)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.load", *arguments],
        check=True,
        capture_output=True,
        timeout=seconds + 120,
    )
    result: dict[str, float] = orjson.loads(done.stdout)
    return result
