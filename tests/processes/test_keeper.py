"""Laws of the keeper: what it keeps, how it ends a process, and what it leaves behind."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from gateway.processes import keeper
from gateway.processes.directory import ProcessDirectory, Spec
from tests.processes.running import PATIENCE_S, is_alive, python, wait_readable

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

SCRIPT = Path(keeper.__file__)


@dataclass(slots=True)
class Kept:
    """A keeper, and the directory it works in."""

    popen: subprocess.Popen[bytes]
    directory: ProcessDirectory

    @property
    def path(self) -> Path:
        return self.directory.path

    def go(self) -> str:
        """Let it start; return what it says."""
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.popen.stdin.write(b"g")
        self.popen.stdin.close()
        return self.popen.stdout.read().decode()

    def ended(self) -> dict[str, Any]:
        """Return the last status, once the keeper has ended."""
        assert self.popen.wait(PATIENCE_S) == 0
        return self.status()

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = orjson.loads((self.path / "status.json").read_bytes())
        return status

    def wait_for(self, text: bytes) -> bytes:
        """Return the output once it holds a text; the keeper's end fails the test."""
        while True:
            # Asked before: what it has written at its end is there then.
            ended = self.popen.poll() is not None
            data = self.directory.output(1_000_000).data
            if text in data:
                return data
            assert not ended, data
            os.sched_yield()


@contextmanager
def kept(
    tmp_path: Path,
    argv: Sequence[str],
    *,
    timeout_s: float = 0,
    grace_s: float = PATIENCE_S,
    max_output_bytes: int = 1_000_000,
    cwd: Path | None = None,
) -> Generator[Kept]:
    """Hold a keeper that waits for the word."""
    directory = ProcessDirectory(tmp_path, "p-1")
    env = {"PATH": os.environ["PATH"], "NAME": "value"}
    boot = "boot"
    directory.make(Spec(tuple(argv), env, cwd, timeout_s, grace_s, max_output_bytes, boot))
    with subprocess.Popen(
        [sys.executable, "-I", "-S", SCRIPT, directory.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={},
    ) as popen:
        try:
            yield Kept(popen, directory)
        finally:
            popen.kill()


@pytest.mark.parametrize(
    ("script", "status"),
    [
        pytest.param("print('done')", 0, id="well"),
        pytest.param("raise SystemExit(3)", 3, id="status"),
        pytest.param("import os; os.kill(os.getpid(), 9)", -9, id="signal"),
        pytest.param("import os; os.close(1); os.close(2); raise SystemExit(4)", 4, id="silent"),
    ],
)
def test_how_a_command_ended_is_noted(tmp_path: Path, script: str, status: int) -> None:
    with kept(tmp_path, python(script)) as process:
        assert process.go() == "started\n"
        end = process.ended()

    assert (end["exit_status"], end["end_reason"]) == (status, "exited")
    assert end["keeper"]["pid"] == process.popen.pid


def test_both_outputs_are_kept_in_their_order_and_counted(tmp_path: Path) -> None:
    script = "import os\nfor n in range(100): os.write(1 + n % 2, b'%d\\n' % n)"
    with kept(tmp_path, python(script)) as process:
        process.go()
        end = process.ended()

    lines = b"".join(b"%d\n" % n for n in range(100))
    assert process.directory.output(10_000).data == lines
    assert end["output_bytes"] == len(lines)


def sizes(path: Path) -> list[int]:
    """Return how large the files of output are that are there."""
    found = []
    for output in path.glob("output.*"):
        with suppress(FileNotFoundError):
            found.append(output.stat().st_size)
    return found


def test_of_a_flood_the_end_is_kept_within_the_bound(tmp_path: Path) -> None:
    block = "import os\nfor n in range(1600): os.write(1, b'x' * 65536)\nos.write(1, b'the end')"
    most = 0
    # Not ended before its files were looked at.
    with kept(tmp_path, python(f"{block}; os.read(0, 1)"), max_output_bytes=200_000) as process:
        process.go()
        while process.directory.output(1).total_bytes < 1600 * 65536 + 7:
            most = max(most, sum(sizes(process.path)))
        most = max(most, sum(sizes(process.path)))
        feed(process, b"x")
        end = process.ended()

    output = process.directory.output(1_000_000)
    assert end["output_bytes"] == output.total_bytes == 1600 * 65536 + 7
    assert 100_000 <= len(output.data) <= 200_000
    assert output.data.endswith(b"xthe end")
    assert 0 < most <= 200_000
    assert len(sizes(process.path)) == 2


def test_the_keeper_of_a_flood_stays_small(tmp_path: Path) -> None:
    script = "import os\nfor n in range(1600): os.write(1, b'x' * 65536)\nos.read(0, 1)"
    with kept(tmp_path, python(script), max_output_bytes=200_000) as process:
        process.go()
        while process.directory.output(1).total_bytes < 1600 * 65536:
            os.sched_yield()
        status = Path(f"/proc/{process.popen.pid}/status").read_text()

    peak_kib = int(status.partition("VmHWM:")[2].split()[0])
    assert peak_kib < 20_000


def test_the_environment_is_gone_once_it_is_read_and_exact(tmp_path: Path) -> None:
    script = (
        "import os; print(sorted(os.environb.items()), os.getcwd(), os.getpgrp() == os.getpid())"
    )
    with kept(tmp_path, python(script)) as process:
        assert (process.path / "spec.json").stat().st_mode & 0o777 == 0o600
        process.go()
        assert not (process.path / "spec.json").exists()
        process.ended()

    told = process.directory.output(10_000).data.decode()
    items = [(b"NAME", b"value"), (b"PATH", os.environb[b"PATH"])]
    work = process.directory.work()
    assert told in {
        f"{items} {work} True\n",
        f"{[(b'LC_CTYPE', b'C.UTF-8'), *items]} {work} True\n",
    }
    assert b"value" not in b"".join(
        path.read_bytes() for path in process.path.iterdir() if path.is_file()
    ).replace(told.encode(), b"")


def test_words_arrive_as_they_are(tmp_path: Path) -> None:
    words = ["a b", "$HOME", "*", "", "'", "ü", "\udcff", "a\nb"]
    with kept(tmp_path, [*python("import sys, os; print(sys.argv[1:])"), *words]) as process:
        process.go()
        process.ended()

    assert process.directory.output(10_000).data.decode() == f"{words}\n"


@pytest.mark.parametrize(
    ("argv", "detail"),
    [
        pytest.param(["no-such-program"], "no-such-program: No such file or directory", id="gone"),
        pytest.param(["/"], "/: Permission denied", id="no-program"),
    ],
)
def test_what_cannot_be_executed_is_told_with_its_reason(
    tmp_path: Path, argv: list[str], detail: str
) -> None:
    with kept(tmp_path, argv) as process:
        assert process.go() == f"{detail}\n"
        end = process.ended()

    assert (end["end_reason"], end["detail"], end["exit_status"]) == ("failed", detail, None)


def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    with kept(tmp_path, ["true"], cwd=tmp_path / "gone") as process:
        assert process.go() == f"{tmp_path / 'gone'}: No such file or directory\n"


def test_without_the_word_nothing_is_started(tmp_path: Path) -> None:
    with kept(tmp_path, ["touch", str(tmp_path / "ran")]) as process:
        assert process.popen.stdin is not None
        process.popen.stdin.close()
        end = process.ended()

    assert (end["end_reason"], end["detail"]) == ("failed", keeper.NOT_ASKED)
    assert not (tmp_path / "ran").exists()


def test_a_command_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    script = (
        "import signal, os; signal.signal(15, signal.SIG_IGN); os.write(1, b'deaf'); os.read(0, 1)"
    )
    with kept(tmp_path, python(script), grace_s=0.2) as process:
        process.go()
        process.wait_for(b"deaf")
        process.popen.terminate()
        end = process.ended()

    assert (end["exit_status"], end["end_reason"]) == (-9, "stopped")


def test_one_that_heeds_sigterm_may_end_in_order(tmp_path: Path) -> None:
    script = (
        "import signal, os, sys\n"
        "signal.signal(15, lambda *_: (os.write(1, b'bye'), sys.exit(7)))\n"
        "os.write(1, b'here')\nos.read(0, 1)"
    )
    with kept(tmp_path, python(script)) as process:
        process.go()
        process.wait_for(b"here")
        process.popen.terminate()
        end = process.ended()

    assert (end["exit_status"], end["end_reason"]) == (7, "stopped")
    assert process.directory.output(100).data == b"herebye"


def test_one_that_was_paused_is_ended_too(tmp_path: Path) -> None:
    with kept(
        tmp_path, python("import os; os.write(1, b'x'); os.kill(os.getpid(), 19)")
    ) as process:
        process.go()
        process.wait_for(b"x")
        process.popen.terminate()
        end = process.ended()

    assert (end["exit_status"], end["end_reason"]) == (-15, "stopped")


def test_a_command_is_ended_when_its_time_is_over(tmp_path: Path) -> None:
    with kept(tmp_path, ["sleep", "1000"], timeout_s=0.2) as process:
        process.go()
        end = process.ended()

    assert (end["exit_status"], end["end_reason"]) == (-15, "timed_out")


def test_a_time_limit_of_a_month_ends_nothing_at_once(tmp_path: Path) -> None:
    script = "import os; os.write(1, b'x'); os.read(0, 1)"
    with kept(tmp_path, python(script), timeout_s=2_592_000) as process:
        process.go()
        process.wait_for(b"x")
        feed(process, b"y")
        end = process.ended()

    assert (end["exit_status"], end["end_reason"]) == (0, "exited")


FAMILY = (
    "import os, signal, sys\n"
    "signal.signal(15, signal.SIG_IGN)\n"
    "if not os.fork():\n"
    "    if not os.fork():\n"
    "        os.write(1, b'%d\\n' % os.getpid()); os.read(0, 1)\n"
    "    os._exit(0)\n"
    "os.wait()\n"
)


def test_of_a_stopped_group_nobody_is_left(tmp_path: Path) -> None:
    with kept(tmp_path, python(FAMILY + "os.read(0, 1)"), grace_s=0.2) as process:
        process.go()
        grandchild = int(process.wait_for(b"\n"))
        process.popen.terminate()
        end = process.ended()

    assert end["end_reason"] == "stopped"
    assert not is_alive(grandchild)


def test_what_a_command_leaves_behind_in_its_group_is_ended(tmp_path: Path) -> None:
    with kept(tmp_path, python(FAMILY + "sys.exit(5)"), grace_s=0.2) as process:
        process.go()
        grandchild = int(process.wait_for(b"\n"))
        end = process.ended()

    assert (end["exit_status"], end["end_reason"]) == (5, "exited")
    assert not is_alive(grandchild)


JOB = (
    "import os, signal, sys\n"
    "ready, told = os.pipe()\n"
    "if not os.fork():\n"
    "    os.setpgid(0, 0); HOW\n"
    "    os.write(1, b'%d\\n' % os.getpid()); os.write(told, b'x')\n"
    "    while True: signal.pause()\n"
    "os.read(ready, 1)\n"
)
"""What a shell with job control does: each job has a group of its own."""


@pytest.mark.parametrize("how", ["pass", "signal.signal(15, signal.SIG_IGN)"], ids=["good", "deaf"])
@pytest.mark.parametrize("ends", ["signal.pause()", "sys.exit(5)"], ids=["stopped", "left"])
def test_a_group_of_its_own_lets_nobody_get_away(tmp_path: Path, how: str, ends: str) -> None:
    with kept(tmp_path, python(JOB.replace("HOW", how) + ends), grace_s=0.2) as process:
        process.go()
        job = int(process.wait_for(b"\n"))
        if "pause" in ends:
            process.popen.terminate()
        end = process.ended()

    assert not is_alive(job)
    assert end["end_reason"] == ("stopped" if "pause" in ends else "exited")


def test_who_left_the_session_holds_up_no_end(tmp_path: Path) -> None:
    script = (
        "import os\n"
        "if not os.fork():\n"
        "    os.setsid(); os.write(1, b'%d\\n' % os.getpid())\n"
        "    os.execvp('sleep', ['sleep', '1000'])\n"
        "os.read(0, 1)"
    )
    with kept(tmp_path, python(script)) as process:
        process.go()
        stranger = int(process.wait_for(b"\n"))
        process.popen.terminate()
        try:
            end = process.ended()
            assert is_alive(stranger)
        finally:
            os.kill(stranger, signal.SIGKILL)

    assert end["end_reason"] == "stopped"


def test_a_command_dies_with_its_keeper(tmp_path: Path) -> None:
    with kept(tmp_path, ["sleep", "1000"]) as process:
        process.go()
        child = os.pidfd_open(process.status()["child"]["pid"])
        process.popen.kill()
        wait_readable(child)
        os.close(child)

    assert "end_reason" not in process.status()


def test_a_hang_up_ends_neither(tmp_path: Path) -> None:
    with kept(tmp_path, python("import os; os.write(1, b'x'); os.read(0, 1)")) as process:
        process.go()
        process.wait_for(b"x")
        process.popen.send_signal(signal.SIGHUP)
        feed(process, b"y")
        assert process.ended()["exit_status"] == 0


def test_the_command_heeds_a_hang_up_as_ever(tmp_path: Path) -> None:
    script = (
        "import os, signal; print(signal.getsignal(1) == signal.SIG_DFL); os.kill(os.getpid(), 1)"
    )
    with kept(tmp_path, python(script)) as process:
        process.go()
        assert process.ended()["exit_status"] == -1


def feed(process: Kept, data: bytes) -> None:
    with process.directory.input.open("wb", buffering=0) as fifo:
        while data:
            data = data[fifo.write(data) :]


def test_input_arrives_whole_and_in_order_and_ends_when_asked(tmp_path: Path) -> None:
    sent = b"".join(b"%06d\n" % n for n in range(40_000))
    with kept(tmp_path, ["cat"]) as process:
        process.go()
        feed(process, sent[:100_000])
        feed(process, sent[100_000:])
        process.popen.send_signal(signal.SIGUSR1)
        end = process.ended()

    assert process.directory.output(1_000_000).data == sent
    assert end["exit_status"] == 0


def write_for_ever(fifo: Path) -> None:
    while True:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))


def test_who_writes_to_a_command_that_reads_no_more_is_told(tmp_path: Path) -> None:
    script = "import os, signal; os.close(0); os.write(1, b'deaf'); signal.pause()"
    with kept(tmp_path, python(script)) as process:
        process.go()
        process.wait_for(b"deaf")
        with pytest.raises(OSError, match="No such device"):
            write_for_ever(process.directory.input)
        process.popen.terminate()
        assert process.ended()["end_reason"] == "stopped"


def test_output_that_finds_no_place_is_counted_and_ends_nothing(tmp_path: Path) -> None:
    script = "import os\nfor n in range(3): os.write(1, b'%d' % n * 600); os.read(0, 1)"
    with kept(tmp_path, python(script), max_output_bytes=1_000) as process:
        process.go()
        process.wait_for(b"0" * 600)
        in_the_way = process.path / "output.1000"
        in_the_way.mkdir()
        for _ in range(2):
            feed(process, b"x")
        while not any(path.is_file() for path in process.path.glob("output.1*")):
            assert process.popen.poll() is None
        in_the_way.rmdir()
        feed(process, b"x")
        end = process.ended()

    assert (end["output_bytes"], end["exit_status"]) == (1_800, 0)
    output = process.directory.output(10_000)
    assert output.total_bytes == 1_800
    assert output.data in {b"2" * 600, b"2" * 300}, "nothing from before the gap"


@contextmanager
def full_disk() -> Generator[None]:
    """Have writing to files fail, in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_takes_nothing_that_was_kept_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = ProcessDirectory(tmp_path, "p-1")
    directory.make(Spec(("true",), {}, None, 0, 1, 1_000, "boot"))
    monkeypatch.chdir(directory.path)
    output = keeper.Output(1_000)
    output.write(b"a" * 900)
    with full_disk():
        for _ in range(5):
            output.write(b"b" * 10)
        kept_then = directory.output(10_000)
    output.write(b"c" * 20)
    kept_later = directory.output(10_000)

    assert (kept_then.data, output.total_bytes) == (b"a" * 900, 970)
    assert (kept_later.data, kept_later.total_bytes) == (b"c" * 20, 970), "nothing before the gap"
    assert len(sizes(directory.path)) == 2


def test_a_keeper_starts_quickly_and_imports_nothing_of_the_gateway(tmp_path: Path) -> None:
    del tmp_path
    told = subprocess.run(
        [sys.executable, "-I", "-S", "-X", "importtime", SCRIPT, "/nonexistent"],
        capture_output=True,
        text=True,
        check=False,
        env={},
    ).stderr
    modules = {line.rpartition("|")[2].strip() for line in told.splitlines() if "|" in line}

    assert {"json", "ctypes", "select"} <= modules
    assert not modules & {"asyncio", "threading", "subprocess", "pathlib", "gateway", "orjson"}
