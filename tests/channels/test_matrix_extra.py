"""The channel to Matrix is an extra: nothing of it is loaded where there is none."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from gateway.channels.matrix.settings import MatrixSettings
from gateway.channels.registry import open_channel
from gateway.clock import FakeClock
from gateway.errors import ConfigurationError
from gateway.settings import SecretSource

if TYPE_CHECKING:
    from pathlib import Path


def test_the_daemon_does_not_load_the_library() -> None:
    code = "import sys, gateway.daemon.running; sys.exit('nio' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_where_the_library_is_missing_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("api", "behind", "channel", "gap", "joining", "sync"):
        monkeypatch.delitem(sys.modules, f"gateway.channels.matrix.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "nio.api", None)
    settings = MatrixSettings(
        kind="matrix", homeserver="https://matrix.example.org", token=SecretSource(env="NONE")
    )

    with pytest.raises(ConfigurationError) as caught:
        open_channel("main", settings, tmp_path, FakeClock())

    (problem,) = caught.value.problems
    assert problem.startswith("channels.main.kind: matrix needs the library nio")
    assert "pip install '.[matrix]' in the checkout" in problem


@pytest.mark.parametrize(
    ("inviter", "accepted"),
    [
        ("@anna:example.org", True),
        ("@anna:example.org:8448", False),
        ("@bob:example.org", False),
        ("@bob:friends.test", True),
        ("@bob:sub.friends.test", False),
        ("@friends.test:evil.test", False),
        ("friends.test", False),
        ("", False),
    ],
)
def test_inviters_are_matched_exactly(inviter: str, *, accepted: bool) -> None:
    settings = MatrixSettings(
        kind="matrix",
        homeserver="https://matrix.example.org",
        token=SecretSource(env="NONE"),
        join=["@anna:example.org", "friends.test"],
    )

    assert settings.accepts(inviter) is accepted
    assert settings.model_copy(update={"join": ["*"]}).accepts(inviter) is (":" in inviter)
