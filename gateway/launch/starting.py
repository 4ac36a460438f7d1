"""A program about to be started; see the package. Starts nothing itself."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

_LAUNCHER: Final = str(Path(__file__).with_name("launcher.py"))
_MAX_REPORT_BYTES: Final = 8_192


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start one program, and whether that went well."""

    argv: tuple[str, ...]
    """What to execute in its place: words that no shell reads."""
    _report: FileIO
    """Holds why the program cannot run; ends without a word where it runs."""
    _writer: FileIO

    @property
    def pass_fds(self) -> tuple[int, ...]:
        """The descriptors that it inherits; the program itself does not have them."""
        return (self._writer.fileno(),)

    async def begun(self) -> None:
        """Return once the program runs, or what stood for it has ended; ask once, after the start.

        Cancellation: whoever started it ends it.

        Raises:
            OSError: It cannot be executed, or its directory cannot be entered.
        """
        self._writer.close()
        await anyio.wait_readable(self._report)
        told = self._report.read(_MAX_REPORT_BYTES).decode(errors="replace")
        self._report.close()
        if told:
            number, _, name = told.partition(" ")
            raise OSError(int(number), os.strerror(int(number)), name)


@contextmanager
def launching(argv: Sequence[str], cwd: Path | None) -> Generator[Launch]:
    """Hold what starts a program so that the kernel kills it once this process has ended.

    It has to be started in a thread that lives as long as this process, as that of the event loop
    does: the kernel goes by the end of the thread. What the program starts in turn is not reached,
    nor is a program that changes user when it is executed.

    Args:
        argv: The program, a path or a name on the `PATH` that it is given, and its arguments.
        cwd: The directory that it runs in; None: ours.
    """
    reader, writer = os.pipe()
    with FileIO(reader, "rb") as report, FileIO(writer, "wb") as told:
        python = (sys.executable, "-I", "-S", "-X", "utf8", _LAUNCHER)
        own = (str(os.getpid()), str(writer), str(cwd or ""))
        yield Launch((*python, *own, *argv), report, told)
