"""Rules over a running gateway's transcripts: due, restored, changed live, cut off by SIGKILL."""

from __future__ import annotations

import signal
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import anyio
import apsw
import orjson

from gateway.durable.inspecting import reading
from gateway.durable.pages import open_checked
from tests.support.daemon import START_S, running_daemon
from tests.support.kept import disagreements

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import Daemon

NO_RULES: Final = """
[pruning]
check_interval = "100ms"
min_prune_interval = "0s"
max_share = 1.0
[pruning.protections]
keep_newest = 0
min_age = "0s"
restored = "1d"
"""
FOUR: Final = (
    NO_RULES
    + """
[[pruning.rules]]
id = "four"
name = "Four messages"
priority = 1
conditions = [{ type = "count", max_count = 4 }]
action = { type = "archive" }
"""
)
KEY: Final = "agent:main:http::dm:alice::"
CRASHES: Final = 5


def _configure(daemon: Daemon, config: str) -> None:
    daemon.state_dir.with_name("state.toml").write_text(config)
    daemon.signal(signal.SIGHUP)


async def _left(daemon: Daemon, count: int) -> list[tuple[str, str]]:
    """Return what is left of the transcript, once it is so many messages."""
    with anyio.fail_after(START_S):
        while len(said := await daemon.said(KEY)) != count:
            pass
    return said


async def _ended_runs(daemon: Daemon) -> list[dict[str, Any]]:
    """Return all runs; the end of one is noted after all that it took."""
    with anyio.fail_after(START_S):
        while True:
            runs: list[dict[str, Any]] = (await daemon.get("/v1/pruning/runs"))["runs"]
            if all(run["status"] != "running" for run in runs):
                return runs


async def test_a_transcript_stays_within_its_rule_and_gives_back_what_it_lost(
    tmp_path: Path,
) -> None:
    async with running_daemon(tmp_path / "state", FOUR) as daemon:
        said: list[tuple[str, str]] = []
        for number in range(6):
            answer = await daemon.say(f"message {number}")
            said += [("user", f"message {number}"), ("assistant", answer["reply"])]
        left = await _left(daemon, 4)
        before = await daemon.get(f"/v1/sessions/{KEY}")
        runs = (await daemon.get("/v1/pruning/runs"))["runs"]
        assert left == said[-4:]
        assert sum(run["pruned_count"] for run in runs) == 8
        assert {run["status"] for run in runs} <= {"ok", "running"}

        restored = await daemon.post("/v1/pruning/restore", {"session": KEY})
        assert restored.status_code == 200, restored.text
        again = await daemon.said(KEY)
        # What was just restored is left alone, and the conversation goes on with it.
        await daemon.say("one more")
        after = await daemon.get(f"/v1/sessions/{KEY}")

    assert again == said
    assert before["updated_at"] < after["updated_at"]
    assert before["context_tokens"] < after["context_tokens"]


async def test_rules_change_with_a_signal(tmp_path: Path) -> None:
    async with running_daemon(tmp_path / "state", NO_RULES) as daemon:
        for number in range(4):
            await daemon.say(f"message {number}")
        assert len(await daemon.said(KEY)) == 8
        _configure(daemon, FOUR)
        await daemon.log.wait_for("config.reloaded")
        await _left(daemon, 4)

        _configure(daemon, FOUR + 'ignore_protections = ["nonsense"]\n')
        line = await daemon.log.wait_for("config.rejected")
        status = await daemon.get("/v1/status")

    assert "ignore_protections" in str(line["problems"])
    assert status["pruning"]["rules"] == 1


async def test_a_killed_gateway_leaves_items_archive_and_audit_in_agreement(
    tmp_path: Path,
) -> None:
    state_dir = tmp_path / "state"
    texts: dict[int, str] = {}
    for crash in range(CRASHES):
        async with running_daemon(state_dir, NO_RULES) as daemon:
            for number in range(8):
                await daemon.say(f"crash {crash} message {number}")
            await daemon.terminate()
        texts |= _texts(state_dir)
        _age(state_dir)
        async with running_daemon(state_dir, FOUR) as daemon:
            # What is due at the start is done beside requests; each crash comes a little later.
            for _ in range(crash * 3):
                await daemon.get("/livez")
            await daemon.kill()
        assert disagreements(state_dir, texts) == []

    async with running_daemon(state_dir, FOUR) as daemon:
        await _left(daemon, 4)
        runs = await _ended_runs(daemon)
        history = (await daemon.get("/v1/pruning/history?limit=1000"))["items"]
        await daemon.terminate()

    assert disagreements(state_dir, texts) == []
    assert sum(run["pruned_count"] for run in runs) == len(history) == len(texts) - 4
    assert {run["status"] for run in runs} <= {"ok", "interrupted"}


def _texts(state_dir: Path) -> dict[int, str]:
    with reading(state_dir / "gateway.db", live=False) as connection:
        rows: list[Any] = connection.execute("SELECT position, text FROM messages").fetchall()
        held: list[Any] = connection.execute("SELECT original FROM pruned_originals").fetchall()
    originals = [orjson.loads(row[0]) for row in held]
    return {int(str(position)): str(text) for position, text in rows} | {
        row["position"]: row["text"] for row in originals
    }


def _age(state_dir: Path) -> None:
    """End the grace of what was taken, so that the next sweep has an archive to write."""
    path = state_dir / "gateway.db"
    with closing(open_checked(path, apsw.SQLITE_OPEN_READWRITE)) as connection:
        connection.execute(
            "UPDATE pruned_items SET due_at = '2020-01-01T00:00:00.000000Z' WHERE state = 'held'"
        )
