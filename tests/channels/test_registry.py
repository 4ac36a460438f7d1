"""Which class speaks to which platform."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING

import pytest
from typing_extensions import override

from gateway.channels.registry import open_channel
from gateway.channels.settings import LoopbackSettings
from gateway.clock import FakeClock
from gateway.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import ModuleType

MODULE = "gateway.channels.loopback.channel"
SETTINGS = LoopbackSettings(kind="loopback")


class Missing(MetaPathFinder):
    """Has the module of a platform need a library that is not there."""

    def __init__(self, library: str) -> None:
        self._library = library

    @override
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> None:
        if fullname == MODULE:
            raise ModuleNotFoundError(f"No module named {self._library!r}", name=self._library)


def test_a_channel_is_made_of_its_table(tmp_path: Path) -> None:
    channel = open_channel("mine", SETTINGS, tmp_path, FakeClock())

    assert (channel.platform, channel.account) == ("loopback", "mine")


def test_a_library_that_is_not_installed_is_told_as_an_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Missing("faxlib.core"), *sys.meta_path])

    with pytest.raises(ConfigurationError) as caught:
        open_channel("mine", SETTINGS, tmp_path, FakeClock())

    (problem,) = caught.value.problems
    assert problem == (
        "channels.mine.kind: loopback needs the library faxlib.core, which is not installed; "
        "pip install '.[loopback]' in the checkout of session-gateway brings it"
    )


def test_a_module_of_our_own_that_is_missing_is_a_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Missing("gateway.fax"), *sys.meta_path])

    with pytest.raises(ModuleNotFoundError):
        open_channel("mine", SETTINGS, tmp_path, FakeClock())
