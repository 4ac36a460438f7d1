"""Free ports on loopback, for servers that must keep theirs when they come back.

None of them is given out by the kernel by itself, from 32,768 on: until its server listens, and
while that is away, a connection or server of another test would take such a port.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from itertools import count
from typing import Final

_FIRST: Final = 10_000
_PORTS: Final = 22_000
_NUMBERS: Final = count(os.getpid() * 4_999)
"""Processes whose ids follow each other are far apart."""


def free_port() -> int:
    """Return a port that nobody listens on."""
    while True:
        port = _FIRST + next(_NUMBERS) % _PORTS
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
