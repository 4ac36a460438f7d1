"""What `gateway prune` says in words: every reason, and nothing that need not be so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.cli import prune_shown
from gateway.cli.output import Screen
from gateway.pruning import SkipReason

if TYPE_CHECKING:
    import pytest

NOTHING: dict[str, Any] = {
    "scanned": {"items": 0, "size_bytes": 0, "tokens": 0},
    "items": [],
    "rules": 0,
    "errors": [],
    "error_count": 0,
    "more_count": 0,
    "enabled": True,
    "breaker": "",
}


def shown(capsys: pytest.CaptureFixture[str], reason: SkipReason) -> str:
    """Return what a plan shows of a reason."""
    planned = {**NOTHING, "skipped_by_reason": {reason.value: 3}}
    prune_shown.plan(Screen(as_json=False), planned, items=False)
    return capsys.readouterr().out.splitlines()[-1]


def test_what_is_spared_is_not_said_to_be_of_a_set_that_has_shrunk(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A function may say no by now, or something protect it: there need not be any set."""
    told = shown(capsys, SkipReason.SPARED)

    assert told.split(maxsplit=1) == ["3", "the rules do not take them any more"]


def test_every_reason_has_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    named = [one for one in SkipReason if shown(capsys, one).split() == ["3", one.value]]

    assert named == [SkipReason.PINNED]
