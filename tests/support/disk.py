"""A disk small enough to fill."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


@contextmanager
def small_disk(path: Path, *, size_mb: int = 2) -> Generator[Path]:
    """Mount some memory; skip the test, aloud, where that is not permitted."""
    path.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={size_mb}m,mode=700"]
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run(
            [mount, *options, "tmpfs", path], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("NOT SHOWN: mounting a small disk is not permitted here")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def fill(path: Path) -> None:
    """Let a file take all the room there is."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
