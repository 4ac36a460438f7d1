"""Disks of other kinds: small enough to fill, and so quick that nobody waits for them."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator


@contextmanager
def disk_in_memory() -> Generator[Path]:
    """Give a folder for laws of waiting: a sync of a real disk takes half a second at times."""
    with TemporaryDirectory(prefix="gw-", dir="/dev/shm") as made:
        yield Path(made)


@contextmanager
def small_disk(
    path: Path,
    *,
    size_mb: int = 2,
    kind: str = "tmpfs",
    inodes: int | None = None,
    block: str = "4096",
) -> Generator[Path]:
    """Mount a small disk; skip the test, aloud, where that is not permitted.

    Args:
        path: Where; made.
        size_mb: How much there is room for.
        kind: `tmpfs`, some memory, or `ext4`, a real file system in a file beside it.
        inodes: How many files there is room for, about; None for plenty.
        block: Size of a block of `ext4` in bytes.
    """
    path.mkdir()
    if kind == "tmpfs":
        bounds = f"size={size_mb}m,mode=700" + (f",nr_inodes={inodes}" if inodes else "")
        _run("mount", "-t", "tmpfs", "-o", bounds, "tmpfs", path)
    else:
        image = path.with_name(f"{path.name}.image")
        image.touch()
        os.truncate(image, size_mb * 2**20)
        _run(
            "mkfs.ext4",
            "-q",
            "-m",
            "0",
            "-b",
            block,
            *(("-N", str(inodes)) if inodes else ()),
            image,
        )
        _run("mount", "-o", "loop", image, path)
        path.chmod(0o700)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def _run(program: str, *arguments: str | Path) -> None:
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    command = [found or program, *arguments]
    if found is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("NOT SHOWN: mounting a small disk is not permitted here")


def fill(path: Path, *, leave_bytes: int = 0) -> None:
    """Let a file take all the room there is, but for some."""
    with path.open("ab", buffering=0) as file:
        for size in (65_536, 4096, 1):
            with suppress(OSError):
                while True:
                    file.write(b"\0" * size)
        if leave_bytes:
            file.truncate(file.tell() - leave_bytes)


def fill_inodes(folder: Path) -> None:
    """Make empty files in a folder until no other can be made."""
    folder.mkdir(exist_ok=True)
    with suppress(OSError):
        for number in range(1_000_000):
            (folder / str(number)).touch()
