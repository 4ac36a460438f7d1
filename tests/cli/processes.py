"""The program `gateway` as a child: commands that end, a daemon that runs, a terminal to watch."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping

PATIENCE_S: Final = 60
"""How long a child may take before the test fails."""
_PROGRAM: Final = (sys.executable, "-m", "gateway")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:  # noqa: ANN401 - JSON
        """The JSON document on standard output."""
        return orjson.loads(self.stdout)

    @property
    def problem(self) -> Any:  # noqa: ANN401 - JSON
        """The problem object on standard error."""
        return orjson.loads(self.stderr)


def gateway(
    *arguments: str | Path,
    cwd: Path | None = None,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
) -> Outcome:
    """Run a command to its end, with pipes for a terminal."""
    done = subprocess.run(
        [*_PROGRAM, *map(str, arguments)],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        env=_environment(environment),
        timeout=PATIENCE_S,
        check=False,
    )
    return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())


@contextmanager
def running_gateway(state_dir: Path, *, config: str = "") -> Generator[str]:
    """Run a daemon on a free port; give its URL."""
    file = state_dir.parent / "running.toml"
    file.write_text(config)
    arguments = ("run", "--config", file, "--state-dir", state_dir, "--port", "0")
    with subprocess.Popen(
        [*_PROGRAM, *map(str, arguments)],
        stdout=subprocess.PIPE,
        env=_environment(None),
    ) as daemon:
        try:
            assert daemon.stdout is not None
            yield _wait_ready(daemon.stdout.fileno())
        finally:
            daemon.terminate()
            try:
                daemon.communicate(timeout=PATIENCE_S)
            finally:
                daemon.kill()


class Terminal:
    """A child that believes it sits at a terminal."""

    def __init__(self, child: subprocess.Popen[bytes], descriptor: int) -> None:
        self.child = child
        self._descriptor = descriptor
        self._seen = ""

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C, once the child waits.

        Python's `input` shows its prompt before it waits: a signal in between is noticed only with
        the next key.
        """
        while _state_of(self.child.pid) in "RD":
            os.sched_yield()
        self.child.send_signal(signal.SIGINT)

    def wait_for(self, text: str) -> str:
        """Return what is shown up to a text, which comes within the patience."""
        while text not in self._seen:
            piece = _read(self._descriptor)
            assert piece, f"ended before {text!r}: {self._seen!r}"
            self._seen += piece.decode().replace("\r\n", "\n")
        shown, _, self._seen = self._seen.partition(text)
        return shown + text

    def rest(self) -> str:
        """Return all that is still shown, once the child has ended."""
        while piece := _read(self._descriptor):
            self._seen += piece.decode().replace("\r\n", "\n")
        self.child.wait(PATIENCE_S)
        return self._seen

    def end(self) -> int:
        """Wait for the child to end, and return its status."""
        self.rest()
        return self.child.wait(PATIENCE_S)


@contextmanager
def terminal(
    *arguments: str | Path, cwd: Path | None = None, columns: int = 80
) -> Generator[Terminal]:
    """Run a command at a terminal, of 80 columns unless it says otherwise."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*_PROGRAM, *map(str, arguments)],
        cwd=cwd,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=_environment({"TERM": "dumb", "COLUMNS": str(columns)}),
    ) as child:
        os.close(theirs)
        try:
            yield Terminal(child, ours)
        finally:
            child.kill()
            os.close(ours)


def imports(stderr: str) -> Iterable[str]:
    """Return the modules that `-X importtime` tells of."""
    lines = (line for line in stderr.splitlines() if line.startswith("import time:"))
    return [line.rpartition("|")[2].strip() for line in lines]


def _wait_ready(descriptor: int) -> str:
    seen = b""
    while piece := _read(descriptor):
        seen += piece
        for line in seen.splitlines():
            if b'"gateway.ready"' in line and line.endswith(b"}"):
                return str(orjson.loads(line)["url"])
    raise AssertionError(f"the daemon did not get ready: {seen!r}")


def _state_of(process: int) -> str:
    """Return what the kernel says its main thread does: `R` and `D` are work."""
    after_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2]
    return after_name.split()[0]


def _read(descriptor: int) -> bytes:
    ready, _, _ = select.select([descriptor], [], [], PATIENCE_S)
    assert ready, "nothing came"
    try:
        return os.read(descriptor, 65_536)
    except OSError:  # how a terminal says that its other end is closed
        return b""


def _environment(more: Mapping[str, str] | None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    return {**kept, "TZ": "UTC", "PYTHONUTF8": "1", **(more or {})}
