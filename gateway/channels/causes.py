"""Why a platform could not be reached, in few words and without its address."""

from __future__ import annotations

import os
import ssl


def cause_of(error: BaseException) -> str:
    """Return what the system calls a failure of a connection; else the name of the error."""
    # TLS counts its own faults.
    if not isinstance(error, OSError) or isinstance(error, ssl.SSLError) or not error.errno:
        return type(error).__name__

    # Below 0 are the codes of name look-ups.
    return os.strerror(error.errno).lower() if error.errno > 0 else "no address for its host name"
