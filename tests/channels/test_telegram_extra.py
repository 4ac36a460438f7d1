"""The channel to Telegram is an extra: nothing of it is loaded where there is none."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from gateway.channels.registry import open_channel
from gateway.channels.telegram.settings import TelegramSettings
from gateway.clock import FakeClock
from gateway.errors import ConfigurationError
from gateway.settings import SecretSource

if TYPE_CHECKING:
    from pathlib import Path


def test_the_daemon_does_not_load_the_library() -> None:
    code = "import sys, gateway.daemon.running; sys.exit('aiogram' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_where_the_library_is_missing_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "gateway.channels.telegram.channel", raising=False)
    monkeypatch.setitem(sys.modules, "aiogram.exceptions", None)
    settings = TelegramSettings(kind="telegram", token=SecretSource(env="NONE"))

    with pytest.raises(ConfigurationError) as caught:
        open_channel("main", settings, tmp_path, FakeClock())

    (problem,) = caught.value.problems
    assert problem.startswith("channels.main.kind: telegram needs the library aiogram")
    assert "pip install '.[telegram]' in the checkout" in problem
