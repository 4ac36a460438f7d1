"""Laws of the state directory."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import orjson
import pytest

from gateway.durable.directory import LockHolder, hold, hold_unchanged, read_holder
from gateway.errors import AlreadyRunningError, StorageError, UnsafeStateDirectoryError
from tests.support.state import START

if TYPE_CHECKING:
    from pathlib import Path

HOLD = """
import sys, pathlib, datetime
from gateway.durable.directory import hold
at = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
with hold(pathlib.Path(sys.argv[1]), started_at=at) as directory:
    directory.announce("http://127.0.0.1:1")
    print("held", flush=True)
    sys.stdin.read()
"""

HOLD_ONCE = """
import sys, pathlib, datetime
from gateway.durable.directory import hold
with hold(pathlib.Path(sys.argv[1]), started_at=datetime.datetime.now(datetime.timezone.utc)):
    pass
"""
HOLD_FOR_A_GROUP = """
import datetime, os, pathlib, sys
from gateway.durable.directory import hold
from gateway.durable.files import Replacement
from gateway.errors import ConfigurationError, StorageError
os.chdir(sys.argv[1])
if os.geteuid() == 0:
    os.chown(".", 12345, 12345)
    os.setgroups([])
    os.setgid(12345)
    os.setuid(12345)
at = datetime.datetime.now(datetime.timezone.utc)
try:
    with hold(pathlib.Path("state"), started_at=at, dashboard_group_id=0):
        pass
except ConfigurationError as error:
    print(error.exit_code, *error.problems)
before = os.listdir("/proc/self/fd")
try:
    Replacement(pathlib.Path("file"), group_id=0)
except StorageError as error:
    print(error)
print(os.listdir("/proc/self/fd") == before, os.listdir())
"""


def _holding_child(path: Path) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    return child


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_new_directory_and_all_in_it_are_private(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state"

    with hold(path, started_at=START) as directory:
        aside = directory.set_aside("x.json", b"{}", reason="because", at=START)

        assert _mode(path) == 0o700
        assert _mode(path / "lock") == 0o600
        assert _mode(aside.parent) == 0o700
        assert {_mode(one) for one in aside.parent.iterdir()} == {0o600}


def test_a_dashboard_group_may_pass_through(tmp_path: Path) -> None:
    with hold(tmp_path / "state", started_at=START, dashboard_group_id=os.getgid()):
        assert _mode(tmp_path / "state") == 0o710


def test_a_group_that_this_process_may_not_give_to_is_told_by_its_key(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()

    child = subprocess.run(
        [sys.executable, "-c", HOLD_FOR_A_GROUP, home], capture_output=True, check=True, text=True
    )

    assert child.stdout.splitlines() == [
        (
            "78 store.dashboard_group: this process may not give state to the group id 0, "
            "accepted is a group that it belongs to"
        ),
        "file: Operation not permitted",
        "True ['state']",
    ]


@pytest.mark.skipif(shutil.which("strace") is None, reason="NOT SHOWN: there is no strace here")
def test_a_new_directory_and_those_made_above_it_are_synced_by_name(tmp_path: Path) -> None:
    path, trace = tmp_path / "deep" / "state", tmp_path / "trace"
    strace = ["strace", "-f", "-y", "-e", "trace=mkdir,mkdirat,fsync,flock"]

    subprocess.run([*strace, "-o", trace, sys.executable, "-c", HOLD_ONCE, path], check=True)

    before_the_lock = trace.read_text().partition(" flock(")[0]
    made = before_the_lock.rindex(f'"{path}", 0700) = 0')
    synced = re.findall(r" fsync\(\d+<([^>]*)>", before_the_lock[made:])
    assert set(synced) == {str(tmp_path), str(tmp_path / "deep")}


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701, 0o777, 0o710])
def test_a_directory_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "state"
    path.mkdir()
    path.chmod(mode)

    with (
        pytest.raises(UnsafeStateDirectoryError, match=f"mode {mode:04o}, accepted is 0700"),
        hold(path, started_at=START),
    ):
        pass

    assert list(path.iterdir()) == []


def test_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "state").symlink_to(tmp_path / "real")

    with (
        pytest.raises(UnsafeStateDirectoryError, match="links are not accepted"),
        hold(tmp_path / "state", started_at=START),
    ):
        pass


@pytest.mark.parametrize("kind", ["dangling link", "file"])
def test_what_is_no_directory_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "state"
    path.write_text("x") if kind == "file" else path.symlink_to(tmp_path / "nowhere")

    with (
        pytest.raises(UnsafeStateDirectoryError, match="not a directory"),
        hold(path, started_at=START),
    ):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_another_users_directory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    os.chown(path, 12345, -1)

    with (
        pytest.raises(UnsafeStateDirectoryError, match="belongs to user id 12345"),
        hold(path, started_at=START),
    ):
        pass


def test_a_lock_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    (path / "lock").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(StorageError), hold(path, started_at=START):
        pass

    assert not (tmp_path / "elsewhere").exists()


def test_a_second_holder_in_this_process_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with hold(path, started_at=START) as directory:
        directory.announce("http://127.0.0.1:8080")
        with pytest.raises(AlreadyRunningError) as refused, hold(path, started_at=START):
            pass

        assert f"pid {os.getpid()}" in str(refused.value)
        assert "since 2026-01-01T00:00:00Z, http://127.0.0.1:8080" in str(refused.value)
        assert refused.value.path == path / "lock"
        # The refused one has not let the lock go.
        assert read_holder(path) is not None

    with hold(path, started_at=START):
        pass


def test_another_process_is_refused_until_the_holder_is_gone_even_by_sigkill(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state"
    child = _holding_child(path)
    with child:
        try:
            holder = LockHolder(child.pid, "2026-01-01T00:00:00Z", "http://127.0.0.1:1")
            assert read_holder(path) == holder
            with (
                pytest.raises(AlreadyRunningError, match=f"pid {child.pid}"),
                hold(path, started_at=START),
            ):
                pass
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()

    assert read_holder(path) is None
    with hold(path, started_at=START):
        pass


def test_a_later_announcement_replaces_a_longer_one(tmp_path: Path) -> None:
    with hold(tmp_path / "state", started_at=START) as directory:
        directory.announce("http://a-very-long-name.example:65535")
        directory.announce("")

        assert read_holder(directory.path) == LockHolder(os.getpid(), "2026-01-01T00:00:00Z", "")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"pid":"x"}', b"\xff"])
def test_a_holder_whose_note_cannot_be_read_is_still_a_holder(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "state"
    with hold(path, started_at=START):
        (path / "lock").write_bytes(content)

        assert read_holder(path) == LockHolder(0, "", "")
        with (
            pytest.raises(AlreadyRunningError, match="starting or ending"),
            hold(path, started_at=START),
        ):
            pass


def test_a_holder_that_has_written_nothing_is_not_taken_for_the_one_before(tmp_path: Path) -> None:
    """Nobody clears the note of a process that was killed: it stands until the next has written."""
    path = tmp_path / "state"
    child = _holding_child(path)
    with child:
        child.kill()
    assert f'"pid":{child.pid}' in (path / "lock").read_text()

    with hold_unchanged(path):
        assert read_holder(path) == LockHolder(0, "", "")
        with (
            pytest.raises(AlreadyRunningError, match="starting or ending"),
            hold(path, started_at=START),
        ):
            pass
    with hold(path, started_at=START):
        assert read_holder(path) == LockHolder(os.getpid(), "2026-01-01T00:00:00Z", "")


def test_nobody_holds_what_is_not_there(tmp_path: Path) -> None:
    assert read_holder(tmp_path / "state") is None


def test_asking_who_holds_never_stops_who_starts(tmp_path: Path) -> None:
    path, stop = tmp_path / "state", threading.Event()

    def ask() -> None:
        while not stop.is_set():
            read_holder(path)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(300):
            with hold(path, started_at=START):
                pass
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_what_is_set_aside_keeps_its_bytes_and_its_reason(tmp_path: Path) -> None:
    with hold(tmp_path / "state", started_at=START) as directory:
        aside = directory.set_aside("entries.jsonl", b"\xff\0x", reason="not valid", at=START)

        assert aside.name == "20260101T000000.000000Z-entries.jsonl"
        assert aside.read_bytes() == b"\xff\0x"
        assert aside.with_name(aside.name + ".reason").read_text() == "not valid\n"


def test_what_is_set_aside_later_replaces_nothing(tmp_path: Path) -> None:
    with hold(tmp_path / "state", started_at=START) as directory:
        damaged = directory.path / "x"
        damaged.write_bytes(b"2")
        kept = [directory.set_aside("x", b"0", reason="a", at=START)]
        kept.append(directory.set_aside("x", b"1", reason="b", at=START))
        kept.append(directory.set_aside_link(damaged, reason="c", at=START))

        assert [one.read_bytes() for one in kept] == [b"0", b"1", b"2"]
        assert [one.with_name(one.name + ".reason").read_text() for one in kept] == [
            *("a\n", "b\n", "c\n")
        ]


def test_a_file_set_aside_stays_in_its_place(tmp_path: Path) -> None:
    with hold(tmp_path / "state", started_at=START) as directory:
        damaged = directory.path / "sessions.json"
        damaged.write_bytes(b"damaged")

        aside = directory.set_aside_link(damaged, reason="torn", at=START)
        damaged.unlink()

        assert aside.read_bytes() == b"damaged"
        assert aside.with_name(aside.name + ".reason").read_text() == "torn\n"


def test_the_lock_file_is_json(tmp_path: Path) -> None:
    with hold(tmp_path / "state", started_at=START) as directory:
        fields = orjson.loads((directory.path / "lock").read_bytes())

    assert fields == {"pid": os.getpid(), "started_at": "2026-01-01T00:00:00Z", "url": ""}


def test_it_can_be_kept_from_others_without_a_byte_written(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with hold(path, started_at=START), pytest.raises(AlreadyRunningError), hold_unchanged(path):
        pass
    before = (path / "lock").read_bytes(), (path / "lock").stat().st_mtime_ns

    with hold_unchanged(path), pytest.raises(AlreadyRunningError), hold(path, started_at=START):
        pass

    assert ((path / "lock").read_bytes(), (path / "lock").stat().st_mtime_ns) == before
    with hold(path, started_at=START):
        pass


def test_nobody_needs_keeping_from_what_was_never_held(tmp_path: Path) -> None:
    with hold_unchanged(tmp_path):
        assert list(tmp_path.iterdir()) == []
