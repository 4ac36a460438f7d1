"""Laws of a state directory that cannot be written, or that others can: said, and left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import httpx2
import pytest

from gateway.errors import UnsafeStateDirectoryError
from gateway.sessions.recovery import PREVIOUS, SNAPSHOT
from tests.support.daemon import run_to_end, running_daemon
from tests.support.disk import small_disk
from tests.support.state import entry, key_of, open_state, power_cut

if TYPE_CHECKING:
    from pathlib import Path

NOBODY = 65534
SAID = [("user", "hello"), ("assistant", "hello")]
AS_NOBODY = """
import os, pathlib, sys
import anyio
from gateway.clock import FakeClock
from gateway.errors import GatewayError
from tests.support.state import create_all, entry, open_state

path = pathlib.Path(sys.argv[1])
os.chdir(path.parent)
os.setgroups([])
os.setgid(65534)
os.setuid(65534)

async def main():
    try:
        async with open_state(pathlib.Path(path.name)) as state:
            if len(sys.argv) > 2:
                await state.store.create(entry("a"))
                await state.store.snapshots.write()
                await state.store.create(entry("b"))
                await state.store.snapshots.write()
                os._exit(0)
            print(len(state.store))
    except GatewayError as error:
        print(int(error.exit_code), error)

anyio.run(main)
"""


def _mount(path: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", path], check=True)


async def test_a_read_only_file_system_at_start_ends_with_74_and_is_served_once_it_is_writable(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "state", size_mb=8, kind="ext4") as state:
        async with running_daemon(state) as daemon:
            await daemon.say("hello")
            await daemon.kill()
        _mount(state, "ro")
        ended = await run_to_end(state)
        assert ended.code == 74
        assert str(state) in ended.log[-1]["error"]
        assert "Read-only file system" in ended.log[-1]["error"]
        _mount(state, "rw")
        async with running_daemon(state) as daemon:
            assert await daemon.said(key_of()) == SAID


async def test_a_file_system_that_turns_read_only_ends_the_daemon_with_74_and_loses_nothing(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", size_mb=8, kind="ext4") as disk:
        async with running_daemon(disk / "state") as daemon:
            await daemon.say("hello")
            # What ext4 does by itself after an error; a plain remount is refused while files are
            # open for writing.
            _mount(disk, "abort")
            # It may have ended before it could answer.
            with anyio.fail_after(30), suppress(httpx2.TransportError):
                assert (await daemon.send("lost", message_id="m1")).status_code == 503
            assert await daemon.ended() == 74
            (failed,) = daemon.log.of("gateway.failed")
            assert failed["exit_code"] == 74
        image = disk.with_name("disk.image")
        again = disk.with_name("again")
        subprocess.run(["umount", disk], check=True)
        try:
            again.mkdir()
            subprocess.run(["fsck.ext4", "-p", image], check=False, capture_output=True)
            subprocess.run(["mount", "-o", "loop", image, again], check=True)
            async with running_daemon(again / "state") as daemon:
                said = await daemon.said(key_of())
                assert said[:2] == SAID
                assert said[2:] in ([], [("user", "lost"), ("assistant", "lost")])
        finally:
            subprocess.run(["umount", again], check=True)
            subprocess.run(["mount", "-o", "loop", image, disk], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT SHOWN: only root can give files away")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gateway.db", "74 state/gateway.db: cannot be opened for writing (Permission denied)"),
        ("gateway.db-wal", "74 state/gateway.db"),
        ("lock", "74 state: Permission denied"),
        (SNAPSHOT, "2"),
        (PREVIOUS, "2"),
    ],
)
def test_a_file_that_belongs_to_another_user_is_named_or_stood_in_for(
    tmp_path: Path, name: str, said: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    for parent in home.parents:
        if parent.stat().st_uid == 0 and parent.is_relative_to("/tmp"):  # noqa: S108 - a look only
            parent.chmod(parent.stat().st_mode | 0o011)
    command = [sys.executable, "-c", AS_NOBODY, str(home / "state")]
    subprocess.run([*command, "make"], check=True)
    victim = home / "state" / name
    os.chown(victim, 0, 0)
    before = victim.read_bytes()

    child = subprocess.run(command, check=True, capture_output=True, text=True)

    assert said in child.stdout
    if not said.startswith("2"):
        assert victim.read_bytes() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT SHOWN: only root can give files away")
async def test_a_directory_of_another_user_or_behind_a_link_is_refused(tmp_path: Path) -> None:
    other, link = tmp_path / "other", tmp_path / "link"
    other.mkdir(mode=0o700)
    os.chown(other, NOBODY, NOBODY)
    link.symlink_to(tmp_path / "real")
    (tmp_path / "real").mkdir(mode=0o700)

    for path, said in ((other, f"belongs to user id {NOBODY}"), (link, "links are not accepted")):
        ended = await run_to_end(path)
        assert ended.code == 78
        assert said in ended.log[-1]["error"]
        assert not any(path.iterdir())


@pytest.mark.parametrize("name", ["gateway.db", "gateway.db-wal", "lock", SNAPSHOT, PREVIOUS])
async def test_files_that_were_opened_to_all_are_refused_or_closed_again(
    tmp_path: Path, name: str
) -> None:
    before = os.umask(0)
    try:
        async with open_state(tmp_path / "state") as state:
            await state.store.create(entry("a"))
            await state.store.snapshots.write()
            left = power_cut(state, tmp_path / "left")
        (left / name).chmod(0o666)
        if name == "gateway.db":
            with pytest.raises(UnsafeStateDirectoryError, match="mode 0666, accepted is 0600"):
                async with open_state(left):
                    pass
            return

        async with open_state(left) as state:
            await state.store.create(entry("b"))
            modes = {one.name: one.stat().st_mode & 0o777 for one in left.iterdir()}
            assert modes == dict.fromkeys(modes, 0o600)
            assert {"gateway.db-wal", "lock", SNAPSHOT, PREVIOUS} <= modes.keys()
    finally:
        os.umask(before)
