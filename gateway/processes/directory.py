"""The directory of a process, which its keeper works in: what goes in, and what is read of it.

`state/processes/<process id>/`, 0700, its files 0600; `gateway.processes.keeper` says what they
are. Beside them `work/`, where the command runs unless the configuration names a place. A command
is of the same user and may put anything there: whatever is found must not hold up or break who
reads it. Blocking, but for the input: call it in a thread.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.durable.directory import check_directory
from gateway.durable.files import storage_errors
from gateway.model import clean_text
from gateway.processes.output import KeptOutput
from gateway.processes.records import EndReason

FOLDER: Final = "processes"
_OUTPUT: Final = "output."
_OUTPUT_NAME: Final = re.compile(r"output\.([0-9]{1,18})", re.ASCII)
_OUTPUT_FILES: Final = 3
"""Of the last, nothing may be written yet."""
_MAX_STATUS_BYTES: Final = 65_536
_COLUMN: Final = range(-(2**63), 2**63)
"""The numbers that the database takes."""
_ATTEMPTS: Final = 10
"""How often output is read anew whose beginning went meanwhile."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What a keeper is told."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    """The whole environment, secrets and all."""
    cwd: Path | None
    """None: the directory's own `work`."""
    timeout_s: float
    """0: none."""
    grace_s: float
    """How long the group may take to end after SIGTERM."""
    max_output_bytes: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class Status:
    """How the keeper says that its command ended."""

    reason: EndReason
    detail: str
    exit_status: int | None
    ended_at: datetime
    output_bytes: int


class ProcessDirectory:
    """The directory of one process."""

    def __init__(self, state_dir: Path, process_id: str) -> None:
        """Name it; nothing is made yet."""
        self.path = (state_dir / FOLDER / process_id).absolute()
        self.input = self.path / "stdin"
        """The FIFO of the command's input."""

    def work(self) -> Path:
        """Return where the command runs unless the configuration names a place."""
        return self.path / "work"

    def make(self, spec: Spec) -> None:
        """Make it, with what the keeper is told.

        Raises:
            StorageError: It cannot be made.
            UnsafeStateDirectoryError: The folder of all of them is open to others.
        """
        cwd = spec.cwd or self.work()
        told = {
            "argv": list(map(_exact, spec.argv)),
            "env": {_exact(name): _exact(value) for name, value in spec.env.items()},
            "cwd": _exact(str(cwd)),
            "timeout_s": spec.timeout_s,
            "grace_s": spec.grace_s,
            "max_output_bytes": spec.max_output_bytes,
            "boot_id": spec.boot_id,
        }
        with storage_errors(self.path):
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
            check_directory(self.path.parent, allowed=0o700)
            self.path.mkdir(mode=0o700)
            self.work().mkdir(mode=0o700)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            # Not through a replacement: an environment must not lie about under another name.
            file = os.open(self.path / "spec.json", flags, 0o600)
            with os.fdopen(file, "wb") as writer:
                writer.write(orjson.dumps(told))

    def status(self) -> Status | None:
        """Return how the process ended; None where nothing says that it has."""
        try:
            content, _ = _end_of_file(self.path / "status.json", _MAX_STATUS_BYTES)
            told: dict[str, Any] = orjson.loads(content)
            status = told["exit_status"]
            return Status(
                reason=EndReason(told["end_reason"]),
                detail=clean_text(str(told["detail"])),
                exit_status=None if status is None else _in_column(status),
                ended_at=datetime.fromtimestamp(told["ended_at"], UTC),
                output_bytes=_in_column(told["output_bytes"]),
            )
        except (OSError, ArithmeticError, KeyError, TypeError, ValueError):
            # Replaced whole, so what cannot be read was never written, or damaged: nobody knows.
            return None

    def child(self) -> int | None:
        """Return the number of the command, as its keeper noted it; None where it did not."""
        try:
            content, _ = _end_of_file(self.path / "status.json", _MAX_STATUS_BYTES)
            return _in_column(orjson.loads(content)["child"]["pid"])
        except (OSError, KeyError, TypeError, ValueError):
            return None

    def output(self, max_bytes: int) -> KeptOutput:
        """Return the end of the output so far."""
        for _ in range(_ATTEMPTS):
            offsets = self._offsets()
            try:
                pieces = [
                    _end_of_file(self.path / f"{_OUTPUT}{offset}", max_bytes) for offset in offsets
                ]
            except OSError:
                continue  # the keeper has begun the next one

            total = offsets[-1] + pieces[-1][1] if offsets else 0
            data, begin = b"", 0
            for offset, (piece, size) in zip(reversed(offsets), reversed(pieces), strict=True):
                if data and offset + size != begin:
                    break  # a full disk took what was between them
                data, begin = piece + data, offset
            return KeptOutput(data[-max_bytes:], total)

        return KeptOutput(b"", 0)

    def remove(self) -> None:
        """Delete it; harmless where it is not there."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _offsets(self) -> list[int]:
        try:
            names = [path.name for path in self.path.iterdir()]
        except OSError:
            return []

        found = [_OUTPUT_NAME.fullmatch(name) for name in names]
        return sorted(int(match[1]) for match in found if match)[-_OUTPUT_FILES:]


def remove_strangers(state_dir: Path, known: set[str]) -> None:
    """Delete the directories of processes that no row tells of."""
    with suppress(OSError):
        for path in list((state_dir / FOLDER).iterdir()):
            if path.name not in known:
                shutil.rmtree(path, ignore_errors=True)


def _end_of_file(path: Path, max_bytes: int) -> tuple[bytes, int]:
    """Return the end of a plain file, and how long all of it is; OSError for anything else."""
    # Without waiting: in the place of a file might be a FIFO.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path}: not a plain file")

        file.seek(max(0, status.st_size - max_bytes))
        data = file.read(max_bytes)
        return data, max(status.st_size, file.tell())


def _in_column(number: object) -> int:
    if not isinstance(number, int) or number not in _COLUMN:
        raise ValueError("not a number that can be stored")

    return number


def _exact(text: str) -> str:
    """Return text whose characters are the bytes that the operating system is given."""
    return os.fsencode(text).decode("latin-1")
