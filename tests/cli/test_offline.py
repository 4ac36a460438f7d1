"""Commands on a state directory that no daemon runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest

from tests.cli.processes import gateway, running_gateway

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW, NEWEST = (f"agent:main:http::dm:{name}::" for name in ("old", "new", "newest"))


def import_state(state_dir: Path, entries: list[dict[str, Any]]) -> Path:
    """Make a state directory as a backup brings it: a file of entries and nothing else."""
    state_dir.mkdir(mode=0o700)
    sessions = {entry["session_key"]: entry for entry in entries}
    content = orjson.dumps({"version": 1, "sessions": sessions})
    file = state_dir / "sessions.json"
    file.write_bytes(content)
    file.chmod(0o600)
    return state_dir


def entry(key: str, updated_at: str, **more: object) -> dict[str, Any]:
    return {
        "session_key": key,
        "session_id": f"s-{key.split(':')[5]}",
        "created_at": "2020-01-01T00:00:00Z",
        "updated_at": updated_at,
        "source": {"platform": "http", "chat_id": key.split(":")[5]},
        **more,
    }


def three_sessions(tmp_path: Path) -> Path:
    return import_state(
        tmp_path / "state",
        [
            entry(NEW, "2026-01-01T00:00:00Z", display_name="Ann\u202e\u001b[2J"),
            entry(OLD, "2020-01-01T00:00:00Z"),
            entry(NEWEST, "2026-01-01T00:00:00.500000Z"),
        ],
    )


def test_sessions_are_listed_latest_first_without_a_daemon(tmp_path: Path) -> None:
    state = three_sessions(tmp_path)

    outcome = gateway("sessions", "list", "--state-dir", state)

    assert outcome.status == 0
    head, *rows = outcome.stdout.splitlines()
    assert head.split() == ["KEY", "NAME", "LAST", "USED", "TURNS", "CONTEXT", "STATE"]
    assert [row.split()[0] for row in rows] == [NEWEST, NEW, OLD]
    assert "2026-01-01 00:00:00 UTC" in rows[1]


def test_names_steer_no_terminal(tmp_path: Path) -> None:
    state = three_sessions(tmp_path)

    text = gateway("sessions", "list", "--state-dir", state).stdout
    document = gateway("sessions", "list", "--state-dir", state, "--json").stdout

    assert "Ann\\u202e\\x1b[2J" in text
    assert not {"\u202e", "\x1b"} & {*text, *document}


def test_a_list_says_what_it_left_out(tmp_path: Path) -> None:
    state = three_sessions(tmp_path)

    outcome = gateway("sessions", "list", "--limit", "1", "--state-dir", state)
    document = gateway("sessions", "list", "--limit", "1", "--state-dir", state, "--json").document

    assert outcome.stderr.endswith("\n1 of 3 sessions (--limit)\n")
    assert [session["session_key"] for session in document["sessions"]] == [NEWEST]
    assert document["compared"] == 3
    assert document["all_compared"] is True


def test_a_list_can_be_of_one_platform(tmp_path: Path) -> None:
    state = three_sessions(tmp_path)

    outcome = gateway("sessions", "list", "--platform", "telegram", "--state-dir", state)

    assert (outcome.status, outcome.stdout) == (0, "")
    assert outcome.stderr.endswith("\nno sessions\n")


def test_changes_without_a_daemon_are_kept(tmp_path: Path) -> None:
    state = three_sessions(tmp_path)

    paused = gateway("sessions", "suspend", NEW, "--state-dir", state)
    after_pause = gateway("sessions", "show", NEW, "--state-dir", state, "--json").document
    reset = gateway("sessions", "reset", NEW, "--state-dir", state)
    undone = gateway("sessions", "undo", NEW, "--state-dir", state, "--json").document

    assert paused.stdout == f"{NEW}  conversation s-new, paused\n"
    assert after_pause["suspended_at"] is not None
    assert f"gateway sessions undo {NEW}" in reset.stderr
    assert undone["session_id"] == "s-new"


def test_prune_counts_first_and_then_removes(tmp_path: Path) -> None:
    state = three_sessions(tmp_path)
    arguments = ("sessions", "prune", "--max-age-days", "1000", "--state-dir", state)

    counted = gateway(*arguments, "--dry-run", "--json").document
    told = gateway(*arguments)
    left = orjson.loads((state / "sessions.json").read_bytes())["sessions"]

    assert (counted["pruned"], counted["dry_run"]) == (1, True)
    assert "pruned" in told.stdout
    assert set(left) == {NEW, NEWEST}


def test_a_removed_session_is_gone(tmp_path: Path) -> None:
    state = three_sessions(tmp_path)

    removed = gateway("sessions", "remove", OLD, "--state-dir", state)
    missing = gateway("sessions", "show", OLD, "--state-dir", state)

    assert removed.stdout == f"removed {OLD}\n"
    assert missing.status == 1
    assert missing.stderr == "gateway: Not found: There is no session with this key.\n"


def test_erasing_needs_a_yes_where_nobody_can_be_asked(tmp_path: Path) -> None:
    state = three_sessions(tmp_path)

    refused = gateway("sessions", "remove", OLD, "--erase", "--state-dir", state)
    erased = gateway("sessions", "remove", OLD, "--erase", "--yes", "--state-dir", state, "--json")

    assert refused.status == 2
    assert "--erase needs --yes" in refused.stderr
    assert erased.document["erased"] is True


@pytest.mark.parametrize("key", ["", "nokey", "../../v1/status", "agent:a:b:c:dm:e:f:g?erase=true"])
def test_what_is_no_session_key_is_refused_before_anything_is_opened(
    tmp_path: Path, key: str
) -> None:
    outcome = gateway("sessions", "show", key, "--state-dir", tmp_path / "state")

    assert outcome.status in {1, 69}
    assert outcome.stderr.startswith("gateway: ")
    assert not (tmp_path / "state").exists()


def test_no_command_makes_a_state_directory_of_any_place(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir(mode=0o700)

    outcome = gateway("sessions", "list", "--state-dir", place, "--json")

    assert outcome.status == 69
    assert outcome.problem["detail"].startswith(f"{place}: is no state directory of a gateway")
    assert list(place.iterdir()) == []


def test_adopting_in_a_place_that_is_no_state_directory_asks_nothing(tmp_path: Path) -> None:
    outcome = gateway("store", "adopt", "--state-dir", tmp_path / "state")

    assert outcome.status == 69
    assert outcome.stderr.startswith(f"gateway: {tmp_path}/state: is no state directory")
    assert outcome.stdout == ""
    assert not (tmp_path / "state").exists()


def test_adopting_asks_unless_told_not_to(tmp_path: Path) -> None:
    state = three_sessions(tmp_path)

    asked = gateway("store", "adopt", "--state-dir", state)
    adopted = gateway("store", "adopt", "-y", "--state-dir", state, "--json")

    assert asked.status == 1
    assert "[y/N]" in asked.stderr
    assert adopted.document["entries"] == 3


def test_damaged_data_ends_with_65_and_names_the_file(tmp_path: Path) -> None:
    state = three_sessions(tmp_path)
    gateway("sessions", "list", "--state-dir", state)
    (state / "gateway.db").write_bytes(b"\x07" * 8192)

    outcome = gateway("sessions", "list", "--state-dir", state)

    assert outcome.status == 65
    assert outcome.stdout == ""
    assert f"gateway: {state}/gateway.db: " in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_status_without_a_daemon_tells_what_is_there(tmp_path: Path) -> None:
    state = three_sessions(tmp_path)

    there = gateway("status", "--state-dir", state, "--json")
    nowhere = gateway("status", "--state-dir", tmp_path / "no")

    assert there.document["running"] is False
    assert there.document["file_bytes"]["sessions.json"] > 100
    assert nowhere.status == 0
    assert "running           no" in nowhere.stdout
    assert not (tmp_path / "no").exists()


def test_a_transcript_outlives_its_daemon(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running_gateway(state):
        for text in ("one", "two\nlines", "!tool 20"):
            gateway("chat", "--chat-id", "ann", text, "--state-dir", state)
    key = "agent:main:http::dm:ann::"

    shown = gateway("transcript", "show", key, "--state-dir", state)
    latest = gateway("transcript", "show", key, "--limit", "2", "--state-dir", state)
    exported = gateway("transcript", "export", key, "--state-dir", state)
    to_file = gateway("transcript", "export", key, "-o", tmp_path / "out", "--state-dir", state)

    lines = [orjson.loads(line) for line in exported.stdout.splitlines()]
    assert [line["role"] for line in lines[:4]] == ["user", "assistant"] * 2
    assert lines[2]["text"] == "two\nlines"
    assert "  two\n  lines\n" in shown.stdout
    assert '  calls echo_tool {"chars": 20}\n' in shown.stdout
    assert latest.stderr == f"{len(lines) - 2} earlier messages are left out (--limit)\n"
    assert to_file.stderr == f"wrote {len(lines)} messages to {tmp_path}/out\n"
    assert (tmp_path / "out").read_text() == exported.stdout
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o600


def test_a_failed_export_leaves_the_old_file(tmp_path: Path) -> None:
    state, file = three_sessions(tmp_path), tmp_path / "out"
    file.write_text("old")

    unknown = gateway(
        "transcript", "export", NEW, "--session-id", "x", "-o", file, "--state-dir", state
    )

    assert unknown.status == 1
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.glob("out*")] == ["out"]
