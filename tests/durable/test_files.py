"""Laws of files that are replaced whole."""

from __future__ import annotations

import errno
import re
import resource
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from gateway.durable.files import (
    SHRINK_BYTES,
    SYNC_EVERY_BYTES,
    Replacement,
    old_name,
    shrink,
    storage_errors,
    write_whole,
)
from gateway.errors import StorageError, StorageFullError

if TYPE_CHECKING:
    from pathlib import Path

REPLACE = """
import pathlib, sys
from gateway.durable.files import SYNC_EVERY_BYTES, Replacement
path = pathlib.Path(sys.argv[1])
replacement = Replacement(path)
for _ in range(5):
    replacement.write(b"x" * (SYNC_EVERY_BYTES // 2))
replacement.commit(keep_previous=path.with_name("file.prev"))
"""
TOO_LARGE = """
import pathlib, resource, sys
from gateway.durable.files import write_whole
from gateway.errors import StorageError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_whole(pathlib.Path(sys.argv[1]), b"new" * 50_000)
except StorageError as error:
    print(error)
"""


def _names(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir()}


def test_nothing_is_seen_before_the_commit_and_all_of_it_after(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")

    replacement = Replacement(path)
    replacement.write(b"n")
    replacement.write(b"ew")
    assert path.read_bytes() == b"old"
    replacement.commit()

    assert path.read_bytes() == b"new"
    assert replacement.written_bytes == 3
    assert _names(tmp_path) == {"file"}


def test_what_is_discarded_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")

    replacement = Replacement(path)
    replacement.write(b"new")
    replacement.discard()
    replacement.discard()

    assert path.read_bytes() == b"old"
    assert _names(tmp_path) == {"file"}


def test_discarding_after_the_commit_is_harmless(tmp_path: Path) -> None:
    replacement = Replacement(tmp_path / "file")
    replacement.write(b"new")
    replacement.commit()
    replacement.discard()

    assert (tmp_path / "file").read_bytes() == b"new"


def test_the_replaced_file_stays_as_the_previous_one(tmp_path: Path) -> None:
    path, previous = tmp_path / "file", tmp_path / "file.prev"
    for content in (b"1", b"2", b"3"):
        replacement = Replacement(path)
        replacement.write(content)
        replacement.commit(keep_previous=previous)

    assert (path.read_bytes(), previous.read_bytes()) == (b"3", b"2")
    assert old_name(previous).read_bytes() == b"1"
    assert _names(tmp_path) == {"file", "file.prev", "file.prev.old"}


def test_leftovers_of_a_crash_are_overwritten(tmp_path: Path) -> None:
    path, previous = tmp_path / "file", tmp_path / "file.prev"
    write_whole(path, b"old")
    (tmp_path / "file.tmp").write_bytes(b"left over and longer than what comes")
    # A crash between the two renames: the file has its second name already.
    previous.hardlink_to(path)
    (tmp_path / "file.prev.tmp").write_bytes(b"left over")

    replacement = Replacement(path)
    replacement.write(b"new")
    replacement.commit(keep_previous=previous)

    assert (path.read_bytes(), previous.read_bytes()) == (b"new", b"old")
    assert _names(tmp_path) == {"file", "file.prev", "file.prev.old"}


def _large(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(2 * SHRINK_BYTES + 1)
    return path


def test_a_large_file_is_taken_away_in_steps(tmp_path: Path) -> None:
    path, sizes = _large(tmp_path / "old"), []
    while shrink(path):
        sizes.append(path.stat().st_size)

    assert sizes == [SHRINK_BYTES + 1, 1]


def test_a_file_that_has_another_name_or_is_being_read_is_not_shrunk(tmp_path: Path) -> None:
    path = _large(tmp_path / "old")
    whole = path.stat().st_size
    with path.open("rb"):
        assert not shrink(path)
    (tmp_path / "previous").hardlink_to(path)
    assert not shrink(path)
    assert not shrink(tmp_path / "nothing")

    assert path.stat().st_size == whole
    (tmp_path / "previous").unlink()
    assert shrink(path)


def test_a_leftover_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"precious")
    (tmp_path / "file.tmp").symlink_to(tmp_path / "other")

    with pytest.raises(StorageError):
        Replacement(tmp_path / "file")

    assert (tmp_path / "other").read_bytes() == b"precious"


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_a_file_has_the_mode_asked_for_whatever_was_there(tmp_path: Path, mode: int) -> None:
    (tmp_path / "file.tmp").touch(mode=0o666)

    write_whole(tmp_path / "file", b"x", mode=mode)

    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_a_failing_rename_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.mkdir()
    (path / "inside").touch()

    with pytest.raises(StorageError, match=re.escape(str(path))):
        write_whole(path, b"new")

    assert _names(tmp_path) == {"file"}
    assert _names(path) == {"inside"}


def test_a_failing_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")

    child = subprocess.run(
        [sys.executable, "-c", TOO_LARGE, str(path)], capture_output=True, check=True, text=True
    )

    assert child.stdout == f"{path}: File too large\n"
    assert path.read_bytes() == b"old"
    assert _names(tmp_path) == {"file"}
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StorageFullError),
        (errno.EDQUOT, StorageFullError),
        (errno.EIO, StorageError),
        (errno.EROFS, StorageError),
    ],
)
def test_a_full_disk_is_told_from_a_broken_one(
    tmp_path: Path, number: int, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match=str(tmp_path)) as raised, storage_errors(tmp_path):
        raise OSError(number, "refused")

    assert type(raised.value) is kind


@pytest.mark.skipif(shutil.which("strace") is None, reason="NOT SHOWN: there is no strace here")
def test_content_is_synced_before_the_rename_and_the_directory_after_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    trace = tmp_path / "trace"
    strace = ["strace", "-f", "-y", "-s", "8"]
    calls = "openat,write,fsync,fdatasync,link,linkat,rename,renameat,renameat2"
    subprocess.run(
        [*strace, "-o", trace, "-e", f"trace={calls}", sys.executable, "-c", REPLACE, path],
        check=True,
    )

    seen = []
    for line in trace.read_text().splitlines():
        call = re.match(r"\d+ +(\w+)\((.*)", line)
        if call and str(path) in line and call[1] != "openat":
            seen.append(call[1])
        elif call and call[1] == "fsync" and f"<{tmp_path}>" in line:
            seen.append("fsync of the directory")
    piece = SYNC_EVERY_BYTES // 2

    assert piece * 2 == SYNC_EVERY_BYTES
    assert seen == [
        *("write", "write", "fdatasync", "write", "write", "fdatasync", "write", "fsync"),
        *("link", "rename", "rename", "fsync of the directory"),
    ]


@pytest.mark.parametrize(
    ("given", "mode", "kept"),
    [
        pytest.param(0o644, 0o600, 0o600, id="open-to-everyone"),
        pytest.param(0o664, 0o640, 0o640, id="open-to-more-than-the-group"),
        pytest.param(0o600, 0o640, 0o600, id="closed-and-stays-so"),
    ],
)
def test_the_file_before_is_open_to_nobody_that_the_new_one_is_not(
    tmp_path: Path, given: int, mode: int, kept: int
) -> None:
    path, previous = tmp_path / "file", tmp_path / "file.prev"
    path.write_bytes(b"imported")
    path.chmod(given)

    replacement = Replacement(path, mode=mode)
    replacement.write(b"new")
    replacement.commit(keep_previous=previous)

    assert previous.read_bytes() == b"imported"
    assert previous.stat().st_mode & 0o777 == kept
    assert path.stat().st_mode & 0o777 == mode
