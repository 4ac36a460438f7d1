"""Laws of the programs that a real daemon starts: they end with it, and what they told is kept."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import httpx2
import orjson

from gateway.turns.outcome import NO_RESULT
from tests.support.command_programs.playing import python
from tests.support.daemon import running_daemon
from tests.support.long_sessions import KEY
from tests.tools.running import TINY, is_gone, until

if TYPE_CHECKING:
    from tests.support.daemon import Daemon

WAITS: Final = "signal.signal(signal.SIGTERM, signal.SIG_IGN); say('text', text='x')"


def program(code: str) -> str:
    """Return the table of an agent that is this program."""
    return f"[agents.main]\nkind = 'command'\nargv = {orjson.dumps(python(code)).decode()}\n"


def children_of(daemon: Daemon) -> set[int]:
    found: set[int] = set()
    for path in Path(f"/proc/{daemon.pid}/task").glob("*/children"):
        # A thread may end meanwhile.
        with suppress(FileNotFoundError, ProcessLookupError):
            found.update(int(pid) for pid in path.read_text().split())
    return found


async def test_programs_that_heed_nothing_end_with_a_killed_daemon(tmp_path: Path) -> None:
    config = f"""{program(f"{WAITS}; time.sleep(600)")}
[tools.servers.odd]
command = ["{sys.executable}", "{TINY}", "stubborn"]
"""
    async with running_daemon(tmp_path / "state", config) as daemon:
        (server,) = children_of(daemon)

        async def say() -> None:
            with suppress(httpx2.TransportError):
                await daemon.send("hello")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(say)
            started = await until(lambda: children_of(daemon) - {server})
            (agent,) = started
            await until(lambda: _heeds_no_end(agent))
            assert not is_gone(server)
            await daemon.kill()

        await until(lambda: is_gone(server) and is_gone(agent))


async def test_what_a_program_told_of_its_tools_before_the_deadline_is_in_the_transcript(
    tmp_path: Path,
) -> None:
    code = """
say("text", text="I look.")
say("tool_call", id="a", name="look", arguments={"at": 1})
say("tool_call", id="b", name="look")
say("tool_result", id="a", text="seen")
time.sleep(600)
"""
    config = f"{program(code)}\n[turns]\nturn_deadline_s = 6\n"
    async with running_daemon(tmp_path / "state", config) as daemon:
        answer = await daemon.say("hello")
        said = await daemon.said(KEY)

    assert answer["status"] == "deadline"
    assert said == [
        ("user", "hello"),
        ("assistant", "I look."),
        ("tool", "seen"),
        ("tool", NO_RESULT),
        ("notice", "This took longer than 6 seconds and was stopped."),
    ]


def _heeds_no_end(pid: int) -> bool:
    """Return whether a process ignores SIGTERM by now."""
    status = Path(f"/proc/{pid}/status").read_text()
    ignored = int(status.partition("SigIgn:")[2].split()[0], 16)
    return bool(ignored >> (signal.SIGTERM - 1) & 1)
