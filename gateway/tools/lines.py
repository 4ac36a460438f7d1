"""Messages out of a stream of bytes, one a line, however the bytes are cut into pieces. Pure.

A server that writes without end, or what would take long to parse, is stopped here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from mcp import types

from gateway.metering import ValueMeter

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_NOISE: Final = 1_000
"""How many lines that are no messages may follow each other; some servers log to their output."""
MAX_MENDED_BYTES: Final = 262_144
"""The longest message that is mended, which takes up to 50 ms."""
_ESCAPE: Final = re.compile(
    r"(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u(?![dD][89a-fA-F])|\\[^u])"
    r"|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)
"""What begins with a backslash in JSON; without the group it is half of a surrogate pair."""


class UnusableOutputError(ValueError):
    """The server wrote what cannot be taken."""


class MessageLines:
    """Collects what a server writes."""

    def __init__(self, max_bytes: int) -> None:
        """Start at the beginning of a line; a longer one is refused."""
        self.noise = 0
        """How many lines since the last message were none."""
        self._max_bytes = max_bytes
        self._line = bytearray()
        self._meter = ValueMeter()

    def feed(self, data: bytes) -> Iterator[types.JSONRPCMessage]:
        """Yield the messages that end in these bytes.

        Raises:
            UnusableOutputError: There are too many bytes or values without an end of line, too many
                lines that are no messages, or an answer that cannot be read.
            TooManyValuesError: See `ValueMeter`.
        """
        self._meter.feed(data)
        *ended, rest = data.split(b"\n")
        for end in ended:
            self._append(end)
            self._meter.restart()
            line = bytes(self._line)
            self._line.clear()
            message = _parse(line) if line.strip() else None
            self.noise = 0 if message else self.noise + 1
            if self.noise > MAX_NOISE:
                raise UnusableOutputError(f"{MAX_NOISE:,} lines that are no messages")
            if message:
                yield message
        self._append(rest)

    def _append(self, data: bytes) -> None:
        if len(self._line) + len(data) > self._max_bytes:
            raise UnusableOutputError(f"a message of more than {self._max_bytes:,} bytes")

        self._line += data


def _parse(line: bytes) -> types.JSONRPCMessage | None:
    """Return the message of a line; None where it is none.

    Raises:
        UnusableOutputError: It looks like an answer, for which somebody waits, and cannot be read.
    """
    try:
        return types.jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValueError:
        # Not `from exc`: it would quote what the server wrote.
        if b'"jsonrpc"' not in line or b'"id"' not in line:
            return None

    try:
        return types.jsonrpc_message_adapter.validate_json(_mended(line), by_name=False)
    except ValueError:
        raise UnusableOutputError("an answer that is not JSON-RPC") from None


def _mended(line: bytes) -> str:
    """Return the line with U+FFFD for what is no Unicode: a text cut within a character."""
    text = line.decode("utf-8", "replace")
    if len(line) > MAX_MENDED_BYTES:
        return text

    return _ESCAPE.sub(lambda found: found[1] or "\\ufffd", text)
