"""strace around a daemon: stopped after each call that changes its files, or made to fail in one.

strace counts the calls of each thread for itself, so no number of its own names every call of a
daemon with several threads. `Gate` therefore lets strace stop the whole process after each call
(the call that was entered is done, then SIGSTOP is there), counts those stops, and kills at one of
them. Faults go by strace's own numbers: the Nth call of any thread.
"""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

DATABASE: Final = ("gateway.db", "gateway.db-wal", "gateway.db-journal", "gateway.db-shm")
SNAPSHOTS: Final = (
    "sessions.json",
    "sessions.json.tmp",
    "sessions.json.prev",
    "sessions.json.prev.tmp",
)
OTHERS: Final = ("", "lock", "token", "token.tmp", "quarantine")
"""The directory itself among them."""
CHANGES: Final = (
    "openat,mkdir,write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,link,linkat,"
    "unlink,unlinkat,ftruncate,fchmod,chmod,fchown"
)
"""What changes files or makes changes last; `openat` may create."""

needs_strace = pytest.mark.skipif(
    shutil.which("strace") is None, reason="NOT SHOWN: there is no strace here"
)


def tracer(
    state_dir: Path, names: Sequence[str], calls: str, inject: str, output: str
) -> tuple[str, ...]:
    """Return the strace command for calls on some files of a state directory.

    Args:
        state_dir: Where they are; no other file's calls are touched.
        names: The files.
        calls: The system calls.
        inject: What is done to them, as strace has it: `error=EIO:when=3`.
        output: Where the trace goes.
    """
    paths = [part for name in names for part in ("-P", str(state_dir / name).rstrip("/"))]
    wanted = ("-e", f"trace={calls}", "-e", f"inject={calls}:{inject}")
    return ("strace", "-f", "-qq", "--timestamps=unix,us", "-o", output, *paths, *wanted)


@dataclass(slots=True)
class Gate:
    """Counts the stops of a traced daemon, and kills it at one."""

    kill_at: int
    """The stop to kill at; 0 lets it run to its end."""
    writer: int
    stops: int = 0
    calls: int = 0
    """Calls that were traced; each has its stop, but two of one instant have one."""
    killed: bool = False
    _reader: int = -1
    _strace: int = 0
    _pid: int = 0
    _due: set[bytes] = field(default_factory=set)
    """Threads that got a SIGSTOP whose stop was not counted yet."""
    _rest: bytes = b""

    async def run(self, strace: int) -> None:
        """Let the daemon, which has been started, on after each stop, until its trace ends.

        Args:
            strace: The process id of strace.
        """
        self._strace = strace
        os.close(self.writer)
        while True:
            await anyio.wait_readable(self._reader)
            data = os.read(self._reader, 65_536)
            if not data:
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                if not self.killed:
                    self._take(line)

    def _take(self, line: bytes) -> None:
        thread = line.split(maxsplit=1)[0] if line else b""
        self.calls += b" --- " not in line and b" resumed>" not in line
        if b" --- SIGSTOP {" in line:
            self._due.add(thread)
        elif line.endswith(b" --- stopped by SIGSTOP ---") and thread in self._due:
            # Every thread tells of a stop, late ones after the next has begun. To go on twice for
            # one stop would run ahead of the count; what else was due has ended with this one.
            self._due.clear()
            self._pid = self._pid or _process_of(int(thread))
            self.stops += 1
            self.killed = self.stops == self.kill_at
            with suppress(ProcessLookupError):
                # strace fails on a stop that ends while it still looks at it.
                while _state_of(self._strace) in "RD":
                    os.sched_yield()
                os.kill(self._pid, signal.SIGKILL if self.killed else signal.SIGCONT)


@contextmanager
def gate(kill_at: int) -> Generator[Gate]:
    """Return a gate; its writer goes to strace as `/dev/fd/<writer>`."""
    reader, writer = os.pipe()
    made = Gate(kill_at, writer, _reader=reader)
    try:
        yield made
    finally:
        os.close(reader)


def gated(state_dir: Path, at: Gate) -> tuple[str, ...]:
    """Return the strace command that stops a daemon after each change of its files."""
    names = (*DATABASE, *SNAPSHOTS, *OTHERS)
    return tracer(state_dir, names, CHANGES, "signal=SIGSTOP", f"/dev/fd/{at.writer}")


def _process_of(thread: int) -> int:
    return int(_status(thread)["Tgid"])


def _state_of(process: int) -> str:
    return _status(process)["State"][0]


def _status(process: int) -> dict[str, str]:
    """Return what the kernel says of a process or thread.

    Raises:
        ProcessLookupError: it is gone.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except FileNotFoundError as exc:
        raise ProcessLookupError from exc

    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
