"""What is executed first wherever a program is started, and then becomes that program.

    python -I -S launcher.py PARENT REPORT DIRECTORY PROGRAM ARGUMENT...

It asks the kernel to kill it once the thread that started it has ended, which stays so in the
program. Every start waits for it, so it imports next to nothing.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
SIGKILL = 9
SIG_DFL = 0
STANDARD_ERROR = 2
IGNORED_BY_PYTHON = (13, 25)
"""SIGPIPE and SIGXFSZ, which would stay ignored in the program."""


def main(
    parent: str, report: str, directory: str, *argv: str
) -> None:  # pragma: no cover - runs in a process of its own
    """Become the program; where that cannot be, write why to the descriptor `report`."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(SIGKILL))
    if os.getppid() != int(parent):
        return  # it ended before the kernel was asked

    for number in IGNORED_BY_PYTHON:
        libc.signal(number, ctypes.c_void_p(SIG_DFL))
    _keep_standard_streams_only()
    place = directory or argv[0]
    try:
        if directory:
            os.chdir(directory)
            place = argv[0]
        os.execvpe(argv[0], argv, _given_environment())  # noqa: S606 - words of the operator's
    except OSError as exc:
        os.write(int(report), f"{exc.errno} {place}".encode(errors="replace"))


def _keep_standard_streams_only() -> None:  # pragma: no cover - see main
    """Let the program have no descriptor of ours: not the report's, nor one that uvloop leaves."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - pathlib takes long to import
        try:  # noqa: SIM105 - contextlib takes long to import
            os.set_inheritable(int(name), int(name) <= STANDARD_ERROR)
        except OSError:  # the listing's own
            pass


def _given_environment() -> dict[bytes, bytes]:  # pragma: no cover - see main
    """Return the variables as they were given: Python itself may have added LC_CTYPE."""
    with open("/proc/self/environ", "rb") as file:  # noqa: PTH123 - pathlib takes long to import
        given = file.read().split(b"\0")
    return dict(item.split(b"=", 1) for item in given if b"=" in item[1:])


if __name__ == "__main__":  # pragma: no cover - see main
    main(*sys.argv[1:])
