"""A salvage that is held to what every salvage must keep."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import orjson

from gateway.clock import FakeClock
from gateway.upkeep.checking import check_store
from gateway.upkeep.findings import Level
from gateway.upkeep.salvage import REPORT, Salvaged, salvage
from tests.support.upkeep import found, look, overwrite, shown_entries

if TYPE_CHECKING:
    from pathlib import Path


async def salvaged(path: Path, target: Path) -> Salvaged:
    """Salvage a state; the source must be untouched, and the result must pass and start."""
    before = look(path)
    made = await salvage(path, target, FakeClock())
    assert look(path) == before
    report = check_store(target)
    assert not found(report, Level.WRONG), report
    assert not found(report, Level.UNSAFE), report
    assert report.facts["entries"] == made.entries == len(await shown_entries(target))
    document = orjson.loads((target / REPORT).read_bytes())
    assert document["complete"] is made.complete is not bool(made.given_up)
    assert len(document["given_up"]) == len(made.given_up)
    return made


async def ruined_and_salvaged(path: Path, target: Path, seed: int) -> None:
    """Ruin places of a state by chance, and salvage what is left."""
    dice = random.Random(seed)
    archived = [f"archive/{one.name}" for one in path.glob("archive/*")]
    for _ in range(dice.randint(1, 6)):
        file = path / dice.choice(
            ["sessions.json", "sessions.json.prev", *["gateway.db"] * 3, *archived]
        )
        size = file.stat().st_size
        kind = dice.choice(["flip", "zero", "cut", "noise"])
        if kind == "cut":
            os.truncate(file, dice.randrange(size // 2, size))
        else:
            data = {"flip": b"\x10", "zero": bytes(4096), "noise": dice.randbytes(600)}[kind]
            overwrite(file, dice.randrange(size), data)

    made = await salvaged(path, target)

    assert made.entries, f"seed {seed}"
