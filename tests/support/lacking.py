"""What a machine lacks for a test."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from typing import NoReturn


def lack(why: str) -> NoReturn:
    """Skip the test that needs it, aloud; in CI, which skips nothing, it fails."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)
