"""Telling systemd how the daemon is: the sd_notify protocol, nothing where there is no systemd.

Source: sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

SEND_TIMEOUT_S: Final = 0.5


class Notifier:
    """Sends states to the service manager that started this process, if one did."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Read where to send from `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`."""
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        meant = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        interval = environ.get("WATCHDOG_USEC", "0")
        self.watchdog_interval_s = int(interval) / 1e6 if meant and interval.isdecimal() else 0.0
        """How often at least the watchdog wants to hear from us, in seconds; 0: never."""

    def send(self, *states: str) -> None:
        """Send states such as `READY=1`; a manager that is gone is no error."""
        if not self._address:
            return

        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                # A manager that does not read must not stop the event loop for long.
                out.settimeout(SEND_TIMEOUT_S)
                out.connect(self._address)
                out.sendall("\n".join(states).encode())
        except OSError:
            # Nobody listens any more; there is nobody to tell either.
            return
