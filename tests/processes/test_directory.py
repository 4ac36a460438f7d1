"""Laws of what is read of a process' directory, in which its command may have put anything."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from gateway.errors import StorageError, UnsafeStateDirectoryError
from gateway.processes.directory import ProcessDirectory, Spec
from gateway.processes.records import EndReason
from tests.processes.running import caller, python, running_registry

if TYPE_CHECKING:
    from pathlib import Path

SPEC = Spec(("true",), {"A": "b"}, None, 0, 1, 1_000, "boot")
STATUS = {
    "exit_status": 3,
    "end_reason": "exited",
    "detail": "",
    "ended_at": 1.5,
    "output_bytes": 9,
}


def made(tmp_path: Path) -> ProcessDirectory:
    directory = ProcessDirectory(tmp_path, "p-1")
    directory.make(SPEC)
    return directory


def test_an_end_is_read_as_it_was_noted(tmp_path: Path) -> None:
    directory = made(tmp_path)
    assert directory.status() is None
    (directory.path / "status.json").write_bytes(orjson.dumps(STATUS))

    status = directory.status()

    assert status is not None
    assert (status.reason, status.exit_status, status.output_bytes) == (EndReason.EXITED, 3, 9)
    assert status.ended_at.isoformat() == "1970-01-01T00:00:01.500000+00:00"


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"exit_status": 2**63}, id="status-too-large"),
        pytest.param({"exit_status": "x"}, id="status-no-number"),
        pytest.param({"output_bytes": -(2**64)}, id="bytes-too-small"),
        pytest.param({"output_bytes": None}, id="no-bytes"),
        pytest.param({"ended_at": 1e300}, id="never"),
        pytest.param({"ended_at": "now"}, id="no-instant"),
        pytest.param({"end_reason": "bored"}, id="reason"),
        pytest.param({"end_reason": ["exited"]}, id="reasons"),
    ],
)
def test_an_end_that_cannot_be_is_none(tmp_path: Path, changed: dict[str, Any]) -> None:
    directory = made(tmp_path)
    fields = ",".join(f'"{name}":{_json(value)}' for name, value in (STATUS | changed).items())
    (directory.path / "status.json").write_text("{" + fields + "}")

    assert directory.status() is None


def _json(value: object) -> str:
    return str(value) if type(value) is int else orjson.dumps(value).decode()


def test_what_is_no_plain_file_holds_nobody_up(tmp_path: Path) -> None:
    directory = made(tmp_path)
    os.mkfifo(directory.path / "status.json")
    os.mkfifo(directory.path / "output.0")
    (directory.path / "output.x").mkdir()
    (directory.path / f"output.{10**30}").touch()

    assert directory.status() is None
    assert directory.output(100).data == b""
    directory.remove()
    assert not directory.path.exists()


def test_a_link_leads_nowhere(tmp_path: Path) -> None:
    directory = made(tmp_path)
    (tmp_path / "secret").write_text("secret")
    (directory.path / "output.0").symlink_to(tmp_path / "secret")

    assert directory.output(100).data == b""
    directory.remove()
    assert (tmp_path / "secret").exists()


def test_output_is_put_together_within_the_bound(tmp_path: Path) -> None:
    directory = made(tmp_path)
    (directory.path / "output.10").write_bytes(b"b" * 10)
    (directory.path / "output.20").write_bytes(b"c" * 5)

    assert directory.output(100).data == b"b" * 10 + b"c" * 5
    assert directory.output(8).data == b"bbbccccc"
    assert directory.output(8).total_bytes == 25


def test_a_file_that_a_full_disk_left_empty_hides_nothing(tmp_path: Path) -> None:
    directory = made(tmp_path)
    (directory.path / "output.0").write_bytes(b"a" * 10)
    (directory.path / "output.10").write_bytes(b"b" * 5)
    (directory.path / "output.25").touch()

    output = directory.output(100)

    assert (output.data, output.total_bytes) == (b"a" * 10 + b"b" * 5, 25)


def test_of_output_with_a_gap_the_end_stands_alone(tmp_path: Path) -> None:
    directory = made(tmp_path)
    (directory.path / "output.10").write_bytes(b"a" * 10)
    (directory.path / "output.25").write_bytes(b"c" * 5)

    assert directory.output(100).data == b"c" * 5


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "processes").mkdir(mode=0o755)
    (tmp_path / "processes").chmod(0o755)
    with pytest.raises(UnsafeStateDirectoryError):
        made(tmp_path)
    (tmp_path / "processes").chmod(0o700)
    made(tmp_path)
    with pytest.raises(StorageError):
        made(tmp_path)


async def test_a_command_that_spoils_its_directory_breaks_nothing(tmp_path: Path) -> None:
    script = (
        "import os, time\n"
        "for name in os.listdir('..'):\n"
        "    if name.startswith('output') or name == 'stdin': os.unlink('../' + name)\n"
        "os.mkfifo('../output.0'); os.mkfifo('../output.99'); os.mkdir('../status.json.tmp')\n"
        "print('hello')"
    )
    async with running_registry(tmp_path / "state") as running:
        spoilt = await running.registry.start(caller(), python(script))
        told = await running.told_of(spoilt.process_id)
        assert told.end is not None
        after = await running.registry.start(caller(), ["echo", "fine"])
        fine = await running.told_of(after.process_id)
        assert fine.end is not None
        assert fine.end.output == "fine\n"
