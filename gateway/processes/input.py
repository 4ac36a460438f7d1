"""Writing to the standard input of a process, through the FIFO that its keeper reads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import anyio

from gateway.errors import BadRequestError, ConflictError

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.clock import Clock

MAX_INPUT_BYTES: Final = 65_536
"""The longest text that is written at once, in bytes of UTF-8."""
INPUT_TIMEOUT_S: Final = 5.0
"""How long a process may take to read it."""
_TAKES_NONE: Final = "The process takes no input any more."


async def write_input(fifo: Path, text: str, clock: Clock) -> None:
    """Write a text into the FIFO of a process.

    Cancellation: a part of it may be written.

    Raises:
        BadRequestError: It is too long.
        ConflictError: Nobody reads, or not in time.
    """
    data = memoryview(text.encode("utf-8", "replace"))
    if len(data) > MAX_INPUT_BYTES:
        raise BadRequestError(f"The text has {len(data)} bytes; at most {MAX_INPUT_BYTES} at once.")

    try:
        file = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as exc:
        raise ConflictError(_TAKES_NONE) from exc

    size, written = len(data), 0
    try:
        with clock.move_on_after(INPUT_TIMEOUT_S):
            while written < size:
                await anyio.wait_writable(file)
                written += _write(file, data[written:])
    except BrokenPipeError as exc:
        raise ConflictError(_TAKES_NONE) from exc
    finally:
        os.close(file)
    if written < size:
        text = f"The process does not read its input: it has taken {written} of {size} bytes."
        raise ConflictError(text)


def _write(file: int, data: memoryview) -> int:
    try:
        return os.write(file, data)
    except BlockingIOError:  # a pipe is writable that has room for less than this
        return 0
