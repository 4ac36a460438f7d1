"""A directory whose path is short enough for a socket."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.loopback import short_directory

if TYPE_CHECKING:
    from collections.abc import Generator


@pytest.fixture
def state_dir() -> Generator[Path]:
    with short_directory() as path:
        yield Path(path)
