"""Laws of SIGHUP: a whole new configuration or none of it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import anyio
import pytest

from tests.support.daemon import START_S, running_daemon

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import Daemon

_START = 'session_store_max_age_days = 90\n[turns]\nmax_text_chars = 100\n[log]\nlevel = "info"\n'


def _replace(daemon: Daemon, config: str) -> None:
    daemon.state_dir.with_name("state.toml").write_text(config)
    daemon.signal(signal.SIGHUP)


async def test_what_can_change_live_does_and_what_cannot_is_named(tmp_path: Path) -> None:
    async with running_daemon(tmp_path / "state", _START) as daemon:
        assert (await daemon.send("x" * 50)).status_code == 200

        _replace(
            daemon,
            "session_store_max_age_days = 0.5\n[turns]\nmax_text_chars = 10\ngrace_s = 3.0\n"
            '[log]\nlevel = "info"\n[pruning]\ngrace = "1d"\n',
        )
        line = await daemon.log.wait_for("config.reloaded")

        assert sorted(line["applied"]) == [
            "pruning.grace",
            "session_store_max_age_days",
            "turns.max_text_chars",
        ]
        assert line["needs_restart"] == ["turns.grace_s"]
        assert (await daemon.send("x" * 50)).status_code == 400
        assert (await daemon.send("x" * 10)).status_code == 200
        report = await daemon.post("/v1/prune", {"dry_run": True})
        assert report.status_code == 200


@pytest.mark.parametrize(
    ("config", "told"),
    [
        pytest.param('[turns]\nmax_text_chars = "ten"\n', "state.toml:2", id="wrong-type"),
        pytest.param("[turns\n", "state.toml:1", id="no-toml"),
        pytest.param(
            '\n[[pruning.rules]]\nid = "r"\nmatch_all = 1\n', "state.toml:4", id="no-rule"
        ),
        pytest.param('default_agent = "nobody"\n', "nobody", id="no-such-agent"),
        pytest.param(
            '[http]\ntoken = { file = "/nowhere/token" }\n', "/nowhere/token", id="no-secret"
        ),
    ],
)
async def test_a_broken_file_is_told_and_the_old_configuration_stays(
    tmp_path: Path, config: str, told: str
) -> None:
    async with running_daemon(tmp_path / "state", _START) as daemon:
        _replace(daemon, config)
        line = await daemon.log.wait_for("config.rejected")

        assert told in " ".join(line["problems"])
        assert line["level"] == "error"
        assert not daemon.log.of("config.reloaded")
        assert (await daemon.send("x" * 101)).status_code == 400
        assert (await daemon.send("x" * 100)).status_code == 200

        _replace(daemon, "[turns]\nmax_text_chars = 10\n")
        await daemon.log.wait_for("config.reloaded")
        assert (await daemon.send("x" * 100)).status_code == 400


async def test_a_file_that_is_gone_is_told_and_changes_nothing(tmp_path: Path) -> None:
    async with running_daemon(tmp_path / "state", _START) as daemon:
        (tmp_path / "state.toml").unlink()
        daemon.signal(signal.SIGHUP)

        line = await daemon.log.wait_for("config.rejected")
        assert "state.toml" in line["problems"][0]
        assert (await daemon.send("x" * 101)).status_code == 400


async def test_the_log_level_changes_live(tmp_path: Path) -> None:
    async with running_daemon(tmp_path / "state", _START) as daemon:
        loud = await daemon.say("one")
        assert (await daemon.log.wait_for("turn.completed"))["turn_id"] == loud["turn_id"]

        _replace(daemon, '[turns]\nmax_text_chars = 10\n[log]\nlevel = "error"\n')
        with anyio.fail_after(START_S):
            while (await daemon.send("x" * 50)).status_code != 400:
                pass
        quiet = await daemon.say("two")
        _replace(daemon, "[turns\n")
        await daemon.log.wait_for("config.rejected")

        told = [line["turn_id"] for line in daemon.log.of("turn.completed")]
        assert loud["turn_id"] in told
        assert quiet["turn_id"] not in told


async def test_an_age_that_is_none_is_mended_and_told_at_start_and_at_reload(
    tmp_path: Path,
) -> None:
    async with running_daemon(tmp_path / "state", "session_store_max_age_days = -1\n") as daemon:
        assert "state.toml:1" in (await daemon.log.wait_for("config.coerced"))["problem"]
        assert (await daemon.log.wait_for("session.pruned"))["max_age_days"] == 0

        _replace(daemon, 'session_store_max_age_days = "many"\n')
        await daemon.log.wait_for("config.reloaded")
        assert "state.toml:1" in (await daemon.log.wait_for("config.coerced", count=2))["problem"]
        await daemon.post("/v1/prune")
        assert (await daemon.log.wait_for("session.pruned", count=2))["max_age_days"] == 90
