"""The law of acknowledgements: what a killed process acknowledged is there afterwards."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.state import key_of, open_state

if TYPE_CHECKING:
    from pathlib import Path

# Four writers, each entry's turns counted up; every acknowledgement is a line. Snapshots beside.
WRITER = """
import os, pathlib, sys
from dataclasses import replace
import anyio
from tests.support.state import entry, key_of, open_state, resolve

async def main():
    async with open_state(pathlib.Path(sys.argv[1])) as state:
        async def write(name):
            await resolve(state.store, name)
            while True:
                one = await state.store.update(
                    key_of(name), lambda one: replace(one, turns=one.turns + 1, model="m" * 500)
                )
                os.write(1, f"{name} {one.turns}\\n".encode())

        async def snapshot():
            while True:
                await state.store.snapshots.write()

        async with anyio.create_task_group() as group:
            for name in "abcd":
                group.start_soon(write, name)
            group.start_soon(snapshot)

anyio.run(main)
"""


def _killed_after(path: Path, changes: int) -> dict[str, int]:
    """Kill a writing process once it acknowledged so many; return what it acknowledged last."""
    acknowledged: dict[str, int] = {}
    number = 0
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout is not None
            for line in child.stdout:
                if not line[0].islower() or not line.endswith("\n"):
                    continue  # the log
                name, turns = line.split()
                acknowledged[name] = int(turns)
                number += 1
                if number == changes:
                    child.send_signal(signal.SIGKILL)
        finally:
            child.kill()
    assert child.returncode == -signal.SIGKILL
    return acknowledged


@pytest.mark.parametrize("changes", [5, 100, 1000])
async def test_what_was_acknowledged_survives_sigkill(tmp_path: Path, changes: int) -> None:
    path = tmp_path / "state"
    before: dict[str, int] = {}
    for _ in range(2):  # the second process starts from what the first one left
        acknowledged = _killed_after(path, changes)
        async with open_state(path) as state:
            for name in "abcd":
                one = state.store.get(key_of(name))
                turns = 0 if one is None else one.turns
                said = acknowledged.get(name, before.get(name, 0))
                # One change may have become durable whose acknowledgement was not said any more.
                assert said <= turns <= said + 1
                before[name] = turns
    assert sum(before.values()) >= 2 * changes
