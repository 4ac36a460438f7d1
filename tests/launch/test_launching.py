"""Laws of starting a program: it is as it was asked for, and does not outlive who started it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import pytest

import gateway.launch.launcher
from gateway.launch.starting import launching
from tests.tools.running import is_gone, until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LAUNCHER: Final = gateway.launch.launcher.__file__
ROOT: Final = Path(__file__).parents[2]
LOOPS: Final = pytest.mark.parametrize("uvloop", [False, True], ids=["asyncio", "uvloop"])
DEAF: Final = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
signal.pause()
"""
STARTS_AND_WAITS: Final = f"""
import subprocess, sys
from gateway.launch.starting import launching
with launching([sys.executable, "-I", "-S", "-c", {DEAF!r}], None) as launch:
    subprocess.Popen(launch.argv, pass_fds=launch.pass_fds).wait()
"""


async def said(
    argv: Sequence[str], env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> str:
    """Run a program to its end, and return what it said."""
    with anyio.fail_after(30), launching(argv, cwd) as launch:
        process = await anyio.open_process(
            launch.argv, env=env or {}, pass_fds=launch.pass_fds, stderr=None
        )
        async with process:
            await launch.begun()
            assert process.stdout is not None
            return b"".join([data async for data in process.stdout]).decode()


def run(argv: Sequence[str], env: Mapping[str, str] | None = None, *, uvloop: bool) -> str:
    return anyio.run(said, argv, env, backend_options={"use_uvloop": uvloop})


@LOOPS
def test_a_program_gets_exactly_the_variables_that_were_given(uvloop: bool) -> None:  # noqa: FBT001 - a column
    env = {"A": "b=c\n", "ü": "🙂", "PYTHONPATH": "/nowhere"}

    given = run(["/bin/cat", "/proc/self/environ"], env, uvloop=uvloop)

    assert dict(item.split("=", 1) for item in given.split("\0")[:-1]) == env


@LOOPS
def test_a_program_holds_the_three_standard_streams_and_no_file_of_ours(
    tmp_path: Path,
    uvloop: bool,  # noqa: FBT001 - a column
) -> None:
    with (tmp_path / "open").open("w") as held:
        os.set_inheritable(held.fileno(), True)  # noqa: FBT003 - named by os
        found = run(["/bin/ls", "/proc/self/fd"], uvloop=uvloop)

    assert found.split() == ["0", "1", "2", "3"]  # the last is the listing's own


@LOOPS
def test_a_program_ignores_no_signal_because_python_does(uvloop: bool) -> None:  # noqa: FBT001 - a column
    status = run(["/bin/grep", "SigIgn", "/proc/self/status"], uvloop=uvloop)

    # What whoever started us ignores, as nohup does, is not ours to change.
    ignored = int(status.split()[1], 16)
    assert not any(ignored >> (number - 1) & 1 for number in (signal.SIGPIPE, signal.SIGXFSZ))


async def test_words_stay_as_they_are_in_every_locale() -> None:
    words = ["a b", "$HOME", "", "--", "ü🙂", "\udcff"]
    code = "import os, sys; os.write(1, b'|'.join(map(os.fsencode, sys.argv[1:])))"
    with launching([sys.executable, "-c", code, *words], None) as launch:
        done = subprocess.run(
            launch.argv,
            env={"LC_ALL": "C"},
            pass_fds=launch.pass_fds,
            capture_output=True,
            check=True,
        )

    assert done.stdout == b"|".join(map(os.fsencode, words))


async def test_a_name_is_looked_for_on_the_path_and_in_the_directory_that_were_given(
    tmp_path: Path,
) -> None:
    program = tmp_path / "bin" / "prog"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\npwd\n")
    program.chmod(0o700)

    assert await said(["prog"], {"PATH": f"{tmp_path}/bin"}) == f"{Path.cwd()}\n"
    assert await said(["prog"], {"PATH": "bin"}, tmp_path) == f"{tmp_path}\n"
    assert await said(["bin/prog"], {}, tmp_path) == f"{tmp_path}\n"


@pytest.mark.parametrize(
    ("argv", "cwd", "number", "place"),
    [
        (["nosuch"], None, errno.ENOENT, "nosuch"),
        (["/no/such"], None, errno.ENOENT, "/no/such"),
        (["/"], None, errno.EACCES, "/"),
        ([__file__], None, errno.EACCES, __file__),
        (["/bin/true"], Path("/no/such"), errno.ENOENT, "/no/such"),
        (["/bin/true"], Path("/bin/true"), errno.ENOTDIR, "/bin/true"),
    ],
)
async def test_why_a_program_cannot_run_is_told_with_its_place(
    argv: list[str], cwd: Path | None, number: int, place: str
) -> None:
    with pytest.raises(OSError, match=place) as caught:
        await said(argv, cwd=cwd)

    assert (caught.value.errno, caught.value.filename) == (number, place)


async def test_a_text_without_a_first_line_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("echo hi\n")
    (tmp_path / "text").chmod(0o700)

    with pytest.raises(OSError, match="Exec format error"):
        await said([str(tmp_path / "text")])


async def test_a_program_ends_with_a_killed_parent_though_it_heeds_nothing() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", STARTS_AND_WAITS], stdout=subprocess.PIPE, cwd=ROOT
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())  # it says so once it heeds nothing
        os.kill(pid, signal.SIGTERM)
        assert not is_gone(pid)
        parent.kill()

    await until(lambda: is_gone(pid))


def test_nothing_is_executed_once_the_parent_has_ended(tmp_path: Path) -> None:
    """It ended before the kernel was asked, so that the kernel will not tell."""
    reader, writer = os.pipe()
    stranger = str(os.getppid())
    words = [stranger, str(writer), "", "/bin/touch", str(tmp_path / "ran")]
    try:
        subprocess.run(
            [sys.executable, "-I", "-S", LAUNCHER, *words], pass_fds=[writer], check=True
        )
    finally:
        os.close(reader)
        os.close(writer)

    assert list(tmp_path.iterdir()) == []
