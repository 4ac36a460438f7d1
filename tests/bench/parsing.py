"""The reader: a process of its own that parses a snapshot again and again, as a dashboard does.

    python -m tests.bench.parsing PATH KEY ENTRIES SECONDS

Prints what each reading found. KEY is the session whose `turns` is the time of its last change.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import orjson

PAUSE_S = 0.01
SNAPSHOTS = 3
LONGEST = 4
"""Times the wanted seconds; after that it is enough, whatever came by."""


def main(path: Path, key: str, entries: int, seconds: float) -> None:
    """Read for some seconds, and longer where too few snapshots came by."""
    found: list[dict[str, Any]] = []
    began, seen = time.monotonic(), set[str]()
    while (taken := time.monotonic() - began) < seconds or (
        len(seen) < SNAPSHOTS and taken < LONGEST * seconds
    ):
        found.append(read(path, key, entries))
        seen.add(found[-1].get("written_at", ""))
        time.sleep(PAUSE_S)
    sys.stdout.write(orjson.dumps(found).decode())


def read(path: Path, key: str, entries: int) -> dict[str, Any]:
    """Read the file once; `failed` says what is wrong, and is empty where nothing is."""
    try:
        with path.open("rb") as file:
            at = time.time()
            whole = orjson.loads(file.read())
    except (OSError, ValueError) as error:
        return {"failed": repr(error)}

    sessions, counted = len(whole["sessions"]), whole["check"]["entries"]
    failed = "" if sessions == counted == entries else f"{sessions} of {counted} sessions"
    mark_ms = whole["sessions"][key]["turns"]
    return {"failed": failed, "at": at, "written_at": whole["written_at"], "mark_ms": mark_ms}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
