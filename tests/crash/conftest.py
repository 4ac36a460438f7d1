"""A folder in memory: thousands of recoveries are written out into it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

_SHARED = Path("/dev/shm")  # noqa: S108 - names in it are made by tempfile
MEMORY = _SHARED if os.access(_SHARED, os.W_OK) else None
"""Where thousands of small files are quick; None for wherever temporary files go."""


@pytest.fixture
def folder() -> Generator[Path]:
    """Give a folder in memory where there is one, else on the disk."""
    path = Path(tempfile.mkdtemp(prefix="session-gateway-", dir=MEMORY))
    yield path
    shutil.rmtree(path)
