"""Laws of a server that is a program of ours."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import orjson
import pytest
from structlog.testing import capture_logs

from gateway.clock import SystemClock
from gateway.settings import SecretSource
from gateway.tools.server import ServerState
from gateway.tools.stdio import DRAIN_S, GRACE_S, MAX_ERROR_LINE_BYTES
from tests.support.command_programs.playing import children
from tests.tools.running import PatientClock, is_gone, running, tiny, until

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_program_gets_the_variables_it_was_given_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("our secret\n")
    monkeypatch.setenv("GATEWAY_TOKEN", "canary")
    monkeypatch.setenv("WANTED", "taken")
    settings = tiny(
        env={"PLAIN": "$HOME"},
        secret_env={"KEY": SecretSource(file=str(tmp_path / "key"))},
        inherit_env=["PATH", "WANTED", "NOT_SET"],
    )
    async with running(settings) as server:
        given = orjson.loads(await server.call("env"))

    given.pop("LC_CTYPE", None)  # Python sets it by itself
    assert given == {
        "PLAIN": "$HOME",
        "KEY": "our secret",
        "PATH": os.environ["PATH"],
        "WANTED": "taken",
    }


async def test_a_program_runs_where_it_should_and_leads_a_session_of_its_own(
    tmp_path: Path,
) -> None:
    async with running(tiny(cwd=str(tmp_path))) as server:
        where, _, leads_group, leads_session = (await server.call("where")).split()

    assert (where, leads_group, leads_session) == (str(tmp_path), "True", "True")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"command": ["/no/such/program"]}, "FileNotFoundError"),
        ({"command": ["/"]}, "PermissionError"),
        ({"cwd": "/no/such/directory"}, "FileNotFoundError"),
        ({"command": ["/bin/sh", "-c", "exit 4"]}, "it ended with status 4"),
        ({"command": ["/bin/sh", "-c", "kill -9 $$"]}, "it was ended by signal 9"),
        ({"command": ["/bin/sh", "-c", "exec >&-; read -r _; read -r _"]}, "it closed its output"),
        ({"command": ["/bin/sleep", "9"], "start_timeout_s": 0.3}, "not start within 0.3 seconds"),
        ({"command": ["/bin/cat"]}, "Method not found"),
    ],
)
async def test_a_program_that_is_no_server_is_told(
    settings: dict[str, object], reason: str
) -> None:
    clock = PatientClock() if "closed" in reason else PatientClock(DRAIN_S)
    async with running(tiny(**settings), clock=clock) as server:
        await until(lambda: server.told().state is ServerState.BACKING_OFF)
        told = server.told()

    assert reason in told.last_error


@pytest.mark.parametrize("behaviour", ["mute", "leaves"])
async def test_a_program_that_the_newer_handshake_confuses_is_asked_by_the_older(
    behaviour: str,
) -> None:
    clock = PatientClock()

    async def run_out_once_asked() -> None:
        await until(lambda: any(line.get("line") == "asked" for line in logs))
        clock.run_out()

    with capture_logs() as logs:
        async with anyio.create_task_group() as tasks:
            if behaviour == "mute":
                tasks.start_soon(run_out_once_asked)
            async with running(tiny(behaviour), clock=clock) as server:
                await until(lambda: server.told().state is ServerState.RUNNING)

                assert await server.call("echo", a="b") == '{"a":"b"}'
                assert server.told().restarts == 1


@pytest.mark.parametrize(
    ("tool", "arguments", "reason"),
    [
        ("exit", {"status": 3}, "it ended with status 3"),
        ("exit", {"status": 0}, "it ended with status 0"),
        ("kill", {"signal": 9}, "it was ended by signal 9"),
        ("raw", {"pieces": ['{"jsonrpc":"2.0","id":ID,"result":\n']}, "an answer that is not"),
        (
            "raw",
            {"pieces": ["x" * 60_000], "times": 20},
            "it sent a message of more than 1,000,000 bytes",
        ),
        ("raw", {"pieces": ["noise\n" * 2_000]}, "it sent 1,000 lines that are no messages"),
        ("raw", {"pieces": ["[" * 30_000] * 2}, "it sent a message of more than 50,000 values"),
        ("ask", {"times": 30_000}, "it asks faster than it takes answers"),
    ],
)
async def test_a_program_that_breaks_off_a_call_is_started_again(
    tool: str, arguments: dict[str, object], reason: str
) -> None:
    clock = PatientClock(DRAIN_S)
    async with running(tiny(max_message_bytes=1_000_000), clock=clock) as server:
        text = await server.call(tool, **arguments)
        after = await server.call("echo", a="b")

    assert text.startswith("The tool server odd broke off the call: ")
    assert text.endswith("Whether the tool did its work is not known.")
    assert reason in text
    assert reason in server.told().last_error
    assert after == '{"a":"b"}'
    assert server.told().restarts == 1


async def test_questions_of_a_program_are_answered_as_it_takes_them() -> None:
    async with running(tiny()) as server:
        for _ in range(5):
            assert await server.call("ask", times=20, answers=True) == "asked"

        assert server.told().restarts == 0


async def test_lines_that_are_no_messages_and_half_characters_harm_no_call() -> None:
    line = r'{"jsonrpc":"2.0","id":ID,"result":{"content":[{"type":"text","text":"cut \ud83d"}]}}'
    pieces = ["Listening on 127.0.0.1\n\n[INFO] \xff\n", line[:40], line[40:] + "\r\n"]
    async with running(tiny()) as server:
        assert await server.call("raw", pieces=pieces) == "cut �"
        assert server.told().restarts == 0


async def test_a_frozen_program_is_found_out_and_started_again() -> None:
    clock, texts = PatientClock(), list[str]()

    async def freeze() -> None:
        texts.append(await server.call("freeze"))

    async with running(tiny(start_timeout_s=3.0), clock=clock) as server:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(freeze)
            await anyio.wait_all_tasks_blocked()
            clock.run_out()
        # It answers no question either; until that is known, calls wait.
        await anyio.wait_all_tasks_blocked()
        clock.run_out()
        await until(lambda: server.told().last_error)
        await until(lambda: server.told().state is ServerState.RUNNING)
        after = await server.call("echo", a="b")

    assert "no answer within 60 seconds" in texts[0]
    assert server.told().last_error == "it did not answer within 3 seconds"
    assert after == '{"a":"b"}'


async def test_children_of_a_program_that_crashed_are_killed_though_they_hold_its_output(
    tmp_path: Path,
) -> None:
    noted = tmp_path / "pid"
    async with running(tiny()) as server:
        text = await server.call("child", path=str(noted), exit=True)
        after = await server.call("echo", a="b")
        await until(lambda: is_gone(int(noted.read_text())))

    assert "it ended with status 3" in text
    assert after == '{"a":"b"}'


async def test_nobody_of_the_group_is_left_behind_at_the_end(tmp_path: Path) -> None:
    noted = tmp_path / "pid"
    async with running(tiny()) as server:
        await server.call("child", path=str(noted))
        pid = int((await server.call("where")).split()[1])
        assert not is_gone(int(noted.read_text()))

    assert is_gone(pid)
    await until(lambda: is_gone(int(noted.read_text())))


@pytest.mark.alone
async def test_a_program_that_will_not_end_is_killed_in_bounded_time() -> None:
    clock = SystemClock()
    async with running(tiny("stubborn"), clock=clock) as server:
        pid = int((await server.call("where")).split()[1])
        began = clock.monotonic()

    assert is_gone(pid)
    assert clock.monotonic() - began < 2 * GRACE_S + 1.5


@pytest.mark.alone
async def test_a_program_that_heeds_the_end_of_its_input_ends_at_once() -> None:
    clock = SystemClock()
    async with running(tiny(), clock=clock) as server:
        assert await server.call("echo") == "{}"
        began = clock.monotonic()

    assert clock.monotonic() - began < GRACE_S / 2


async def test_a_cancelled_start_leaves_no_program_behind(tmp_path: Path) -> None:
    noted = tmp_path / "pid"
    command = ["/bin/sh", "-c", f"echo $$ > {noted}; exec sleep 100"]

    async def start() -> None:
        async with running(tiny(command=command)):
            pytest.fail("it started")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(start)
        await until(lambda: noted.exists() and noted.read_text().endswith("\n"))
        tasks.cancel_scope.cancel()

    assert is_gone(int(noted.read_text()))


async def test_a_start_that_is_cancelled_anywhere_leaves_nobody_unreaped() -> None:
    before, begun = children(), 0

    async def start() -> None:
        async with running(tiny(command=["cat"])):
            pytest.fail("it started")

    for steps in range(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(start)
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            begun += children() > before
            tasks.cancel_scope.cancel()
        assert children() <= before

    assert 0 < begun < 60


async def test_errors_of_a_program_are_logged_in_part_and_go_nowhere_else(
    capfd: pytest.CaptureFixture[str],
) -> None:
    said = "plain \x1b[31m\n" + "x" * 100_000 + "\nlast without an end"
    with capture_logs() as logs:
        async with running(tiny()) as server:
            await server.call("say", text=said)

    lines = [line for line in logs if line["event"] == "tools.server_stderr"]
    assert [line["line"][:21] for line in lines] == [
        "plain \x1b[31m",
        "x" * 21,
        "last without an end",
    ]
    assert all(len(line["line"]) <= MAX_ERROR_LINE_BYTES for line in lines)
    assert {(line["log_level"], line["server"]) for line in lines} == {("debug", "odd")}
    assert capfd.readouterr() == ("", "")


def test_all_of_this_holds_on_the_event_loop_of_the_daemon(tmp_path: Path) -> None:
    noted = tmp_path / "pid"

    async def crash_and_go_on() -> list[str]:
        async with running(tiny()) as server:
            texts = [
                await server.call("child", path=str(noted), exit=True),
                await server.call("echo", a="b"),
                await server.call("child", path=str(noted)),
            ]
        await until(lambda: is_gone(int(noted.read_text())))
        return texts

    texts = anyio.run(crash_and_go_on, backend_options={"use_uvloop": True})

    assert "it ended with status 3" in texts[0]
    assert texts[1:] == ['{"a":"b"}', "started"]
