"""Whole durable turns over HTTP against the same server with an empty handler."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import orjson

from tests.bench.measuring import median, write_state

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

ROUNDS = 5
SECONDS = 3.0
CONNECTIONS = 64
TOKEN = "bench-token-bench-token"


def measure_turns(folder: Path, entries: int) -> dict[str, object]:
    """Return turns a second as a share of what the empty handler answers."""
    state = folder / "turns"
    write_state(state, entries)
    (state / "token").write_text(TOKEN)
    (state / "token").chmod(0o600)
    shares, turns, empty = [], [], []
    failed = 0
    with _gateway(state) as gateway, _empty() as nothing:
        for _ in range(ROUNDS):
            first, second = _load(nothing), _load(gateway)
            failed += int(first["failed"] + second["failed"])
            empty.append(first["per_s"])
            turns.append(second["per_s"])
            shares.append(second["per_s"] / first["per_s"])
    return {
        "entries": entries,
        "connections": CONNECTIONS,
        "turns_to_empty_handler": round(median(shares), 3),
        "turns_per_s": round(median(turns)),
        "empty_per_s": round(median(empty)),
        "failed": failed,
    }


def _load(port: int) -> dict[str, float]:
    arguments = ["127.0.0.1", str(port), TOKEN, str(CONNECTIONS), str(SECONDS)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.load", *arguments],
        check=True,
        capture_output=True,
        timeout=60,
    )
    result: dict[str, float] = orjson.loads(done.stdout)
    return result


@contextmanager
def _gateway(state: Path) -> Generator[int]:
    log = (state.parent / "gateway.log").open("wb+")
    command = [sys.executable, "-m", "gateway", "run", "--state-dir", str(state), "--port", "0"]
    with log, subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if b'"gateway.ready"' in line:
                    break
            port = int(orjson.loads(line)["port"])
            with _drained(process, state.parent / "gateway.log"):
                yield port
        finally:
            process.terminate()
            process.wait(60)


@contextmanager
def _drained(process: subprocess.Popen[bytes], log: Path) -> Generator[None]:
    """Let the daemon's log go to a file while it runs, as journald would take it."""
    with (
        log.open("wb") as file,
        subprocess.Popen(["cat"], stdin=process.stdout, stdout=file) as cat,
    ):
        try:
            yield
        finally:
            process.terminate()
            process.wait(60)
            cat.wait(10)


@contextmanager
def _empty() -> Generator[int]:
    command = [sys.executable, "-m", "tests.bench.empty", TOKEN]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.terminate()
            process.wait(60)
