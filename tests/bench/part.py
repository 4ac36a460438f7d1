"""Runs one part in this process and prints its report as JSON.

python -m tests.bench.part NAME FOLDER
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import orjson

from gateway.log import LogSettings, configure

if TYPE_CHECKING:
    from tests.bench.report import Report

PARTS: Final = {
    "updates": "goals 1 and 2: durable updates of one writer and of many",
    "snapshot": "goal 3: writing a snapshot under load",
    "size": "goal 4: memory and start",
    "prune": "goal 5: dropping old entries",
    "turns": "goal 6: whole turns over HTTP",
    "reader": "goal 7: a reader of sessions.json",
    "context": "context pruning: cost and time",
    "pruning": "rules over what is stored: plans, and looking whether anything is due",
}


def main(name: str, folder: Path) -> None:
    """Measure on the event loop that the daemon uses."""
    configure(LogSettings(level="error"), sys.stderr.buffer)
    measure = import_module(f"tests.bench.{name}").measure
    report: Report = anyio.run(measure, folder, backend_options={"use_uvloop": True})
    sys.stdout.write(orjson.dumps(asdict(report)).decode())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
