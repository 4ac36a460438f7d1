"""The bearer token of the API: the configured one, or one of its own in the state directory.

Knows nothing of requests. Above it is the daemon, which makes the guard with it.
"""

from __future__ import annotations

import errno
import os
import secrets
import shlex
import stat
from typing import TYPE_CHECKING, Final

from gateway.api.settings import MIN_TOKEN_CHARS
from gateway.durable.disk import SYSTEM_DISK, Disk
from gateway.durable.files import write_whole
from gateway.errors import ConfigurationError, UnsafeStateDirectoryError
from gateway.log import get_logger
from gateway.settings import is_placeholder

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.api.settings import HttpSettings

TOKEN: Final = "token"  # noqa: S105 - the name of a file
_MAX_BYTES: Final = 4_096


def bearer_token(settings: HttpSettings, state_dir: Path, disk: Disk = SYSTEM_DISK) -> str:
    """Return the configured token, else the one made at the first start.

    Durability: a new one survives power loss on return.

    Raises:
        UnsafeStateDirectoryError: its file is a link, or others may read it.
        ConfigurationError: it cannot be read, or is none.
    """
    if settings.token is not None:
        return settings.token.resolve()

    path = state_dir / TOKEN
    try:
        token = _read_private(path, disk).decode("ascii").strip()
    except FileNotFoundError:
        token = secrets.token_urlsafe(32)
        write_whole(path, token.encode() + b"\n", disk=disk)
        get_logger().info("token.created", path=str(path))
        return token
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError([f"{path}: cannot be read as a token ({exc})"]) from exc

    if len(token) < MIN_TOKEN_CHARS or is_placeholder(token):
        problem = (
            f"{path}: too short or a placeholder, accepted are {MIN_TOKEN_CHARS} characters or more"
        )
        raise ConfigurationError([f"{problem}; remove it and a new one is made"])

    return token


def try_command(url: str, token: Path) -> str:
    """Return a shell command that sends a first message, from whatever directory it is run.

    Args:
        url: Where the API listens.
        token: The absolute path of the file that holds the bearer token.
    """
    return (
        f"curl -s {shlex.quote(url + '/v1/messages')} -H 'Content-Type: application/json' "
        f'-H "Authorization: Bearer $(cat {shlex.quote(str(token))})" '
        """-d '{"chat_id": "me", "text": "hello"}'"""
    )


def _read_private(path: Path, disk: Disk) -> bytes:
    """Return what is in a file that nobody else may read."""
    try:
        # Not blocking: a pipe is refused by its mode or its kind, not waited for.
        descriptor = disk.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as exc:
        if exc.errno != errno.ELOOP:
            raise
        raise UnsafeStateDirectoryError(f"{path}: a link, accepted is a file, mode 0600") from exc

    with disk.reader(descriptor) as file:
        mode = disk.stat(descriptor).st_mode
        if not stat.S_ISREG(mode) or mode & 0o077:
            kind = "mode" if stat.S_ISREG(mode) else "not a file, mode"
            raise UnsafeStateDirectoryError(
                f"{path}: {kind} {stat.S_IMODE(mode):04o}, accepted is a file, mode 0600"
            )

        return file.read(_MAX_BYTES)
