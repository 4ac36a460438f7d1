"""A directory that is there whole or not at all.

It is filled under another name, `<name>.incomplete`, then renamed, and its parent synced: what a
crash leaves is never taken for a whole one. Knows nothing of what is put into it.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gateway.durable.disk import SYSTEM_DISK, Disk
from gateway.durable.files import storage_errors, sync_directory
from gateway.errors import ConflictError, GatewayError, SyncFailedError

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


@contextmanager
def assembled(target: Path, source: Path, disk: Disk = SYSTEM_DISK) -> Generator[Path]:
    """Give a private directory to fill, which becomes `target` at the end; on an error it goes.

    Every file put into it must be synced by who puts it there. It is never inside `source`.

    Durability: at the end the whole directory survives power loss.

    Raises:
        ConflictError: the target is there and not an empty directory, or one that was broken off
            is in the way.
        SyncFailedError: it is there and whole, but its name may not survive power loss.
        StorageError: the disk refused; nothing of it is there.
    """
    target = target.absolute()
    if source.resolve() in target.resolve().parents:
        raise ConflictError(f"{target}: inside {source}, accepted is a directory elsewhere")

    _check_free(target)
    aside = target.with_name(target.name + ".incomplete")
    with storage_errors(aside):
        try:
            disk.mkdir(aside, 0o700)
        except FileExistsError:
            raise ConflictError(
                f"{aside}: is there already, of a command that runs or was broken off; "
                "in the second case remove it"
            ) from None

    try:
        yield aside
        with storage_errors(target):
            for folder, _, _ in os.walk(aside):
                sync_directory(aside / folder, disk)
            disk.rename(aside, target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise

    try:
        with storage_errors(target.parent):
            sync_directory(target.parent, disk)
    except GatewayError as exc:
        # It is not taken away: what it holds is whole and synced, only its name may be lost.
        raise SyncFailedError(
            f"{target}: is there and whole, but may not survive power loss ({exc}); "
            "mend the disk, then make it again under another name"
        ) from exc


def _check_free(target: Path) -> None:
    with storage_errors(target):
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise ConflictError(f"{target}: is there already, accepted is a new directory")

        if target.is_dir() and any(target.iterdir()):
            raise ConflictError(f"{target}: is not empty, accepted is a new or an empty directory")

        if target.is_mount():
            # A rename cannot put a directory in the place of a mounted one.
            raise ConflictError(f"{target}: a mount point, accepted is a directory inside it")
