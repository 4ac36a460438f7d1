"""Laws of the process registry, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest
import structlog

from gateway.clock import FakeClock
from gateway.errors import (
    BadRequestError,
    BusyError,
    ConflictError,
    NotFoundError,
    UnavailableError,
)
from gateway.model import SessionKey
from gateway.processes import records
from gateway.processes.records import EndReason
from gateway.processes.watching import FIRST_PAUSE_S
from tests.processes.running import (
    PATIENCE_S,
    WAITS,
    Running,
    caller,
    execute,
    is_alive,
    python,
    running_registry,
)
from tests.support.state import key_of

if TYPE_CHECKING:
    from pathlib import Path

KEY = key_of()


async def test_a_command_runs_and_its_end_is_told_with_output_and_status(tmp_path: Path) -> None:
    async with running_registry(tmp_path / "state") as running:
        started = await running.registry.start(
            caller(), python("print('hello'); raise SystemExit(3)")
        )
        told = await running.told_of(started.process_id)

        assert told.end is not None
        assert (told.end.reason, told.end.exit_status) == (EndReason.EXITED, 3)
        assert (told.end.output, told.end.output_bytes) == ("hello\n", 6)
        assert (told.session_key, told.session_id, told.source) == (
            KEY,
            "main-alice",
            caller().source,
        )
        assert started.process_id.startswith("p-")
        assert len(started.process_id) == 12
        assert (await running.registry.get(started.process_id)).end == told.end


async def test_directories_go_with_the_report_and_are_private_before(tmp_path: Path) -> None:
    async with running_registry(tmp_path / "state") as running:
        started = await running.registry.start(caller(), ["cat"])
        directory = running.directory(started.process_id)
        modes = {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()}
        modes["."] = directory.stat().st_mode & 0o777
        await running.registry.write(started.process_id, "", last=True)
        await running.told_of(started.process_id)
        await running.deleted(started.process_id)

    assert modes == {".": 0o700, "work": 0o700, "status.json": 0o600, "stdin": 0o600}


async def test_the_daemons_environment_does_not_leak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "leak")
    monkeypatch.setenv("GIVEN", "secret-value")
    monkeypatch.setenv("TZ", "Europe/Berlin")
    settings = {"env": {"OWN": "1"}, "secret_env": {"KEY": {"env": "GIVEN"}}, "inherit_env": ["TZ"]}
    script = "import os; print(*sorted(os.environ.items()))"
    async with running_registry(tmp_path / "state", settings=settings) as running:
        started = await running.registry.start(caller(), python(script))
        told = await running.told_of(started.process_id)
        raw = (tmp_path / "state" / "gateway.db").read_bytes()
        raw += (tmp_path / "state" / "gateway.db-wal").read_bytes()

    assert told.end is not None
    assert "('KEY', 'secret-value')" in told.end.output
    assert "('OWN', '1')" in told.end.output
    assert "('TZ', 'Europe/Berlin')" in told.end.output
    assert "A_SECRET" not in told.end.output
    assert "PATH" not in told.end.output
    # The row holds what the command printed, and of its environment nothing else.
    assert raw.count(b"secret-value") == raw.count(b"('KEY', 'secret-value')")


async def test_a_secret_that_is_gone_starts_nothing(tmp_path: Path) -> None:
    settings = {"secret_env": {"KEY": {"env": "NOT_THERE_AT_ALL"}}}
    async with running_registry(tmp_path / "state", settings=settings) as running:
        with pytest.raises(UnavailableError, match=r"processes\.secret_env\.KEY"):
            await running.registry.start(caller(), list(WAITS))
        await settled(running)
        assert await running.registry.list() == ()


async def settled(running: Running) -> None:
    """Wait until the registry holds nothing any more."""
    with anyio.fail_after(PATIENCE_S):
        while running.registry.statistics().unreported or len(running.registry):
            await anyio.lowlevel.checkpoint()


async def test_a_start_that_fails_is_told_to_who_asked_and_to_nobody_else(tmp_path: Path) -> None:
    async with running_registry(tmp_path / "state") as running:
        with pytest.raises(BadRequestError, match="no-such-program: No such file or directory"):
            await running.registry.start(caller(), ["no-such-program"])
        await settled(running)

        (record,) = await running.registry.list()
        assert record.end is not None
        assert record.end.reason is EndReason.FAILED
        assert "No such file or directory" in record.end.detail
        assert record.reported_at is not None
        assert running.told == []
        await running.deleted(record.process_id)
        assert not running.registry.has_active_for_session(KEY)


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        pytest.param([], "empty", id="no-words"),
        pytest.param([" "], "empty", id="blank"),
        pytest.param(["a\0b"], "NUL", id="nul"),
        pytest.param(["a", "\ud800"], "surrogate", id="surrogate"),
        pytest.param("echo hello", "No shell is configured", id="text-without-shell"),
    ],
)
async def test_what_is_no_command_is_refused_without_a_trace(
    tmp_path: Path, command: str | list[str], problem: str
) -> None:
    async with running_registry(tmp_path / "state") as running:
        with pytest.raises(BadRequestError, match=problem):
            await running.registry.start(caller(), command)
        assert await running.registry.list() == ()


async def test_a_text_goes_to_the_configured_shell(tmp_path: Path) -> None:
    settings = {"shell": ["/bin/sh", "-c"]}
    async with running_registry(tmp_path / "state", settings=settings) as running:
        started = await running.registry.start(caller(), "echo a b | tr a-z A-Z")
        told = await running.told_of(started.process_id)

    assert told.command == ("/bin/sh", "-c", "echo a b | tr a-z A-Z")
    assert told.end is not None
    assert told.end.output == "A B\n"


async def test_off_means_off(tmp_path: Path) -> None:
    async with running_registry(tmp_path / "state", settings={"enabled": False}) as running:
        with pytest.raises(BadRequestError, match="off"):
            await running.registry.start(caller(), list(WAITS))


async def test_no_more_run_than_may_and_who_asks_is_told_whose_limit_it_is(tmp_path: Path) -> None:
    settings = {"max_running": 3, "max_running_per_session": 2}
    async with running_registry(
        tmp_path / "state", clock=FakeClock(), settings=settings
    ) as running:
        registry = running.registry
        first = await registry.start(caller(), list(WAITS))
        await registry.start(caller(), list(WAITS))
        with pytest.raises(BusyError, match="2 of the 2 processes") as own:
            await registry.start(caller(), list(WAITS))
        await registry.start(caller("bob"), list(WAITS))
        with pytest.raises(BusyError, match="3 of 3 processes") as all_of_them:
            await registry.start(caller("carol"), list(WAITS))
        await registry.stop(first.process_id)
        await registry.start(caller(), list(WAITS))

        assert (own.value.caller_limit, all_of_them.value.caller_limit) == (True, False)
        assert len(registry) == 3


async def test_starts_at_once_keep_to_the_limit(tmp_path: Path) -> None:
    outcomes: list[str] = []
    async with running_registry(tmp_path / "state") as running:

        async def start() -> None:
            try:
                await running.registry.start(caller(), list(WAITS))
                outcomes.append("started")
            except BusyError:
                outcomes.append("refused")

        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(start)

    assert sorted(outcomes) == ["refused"] * 4 + ["started"] * 2


async def test_a_process_that_is_stopped_ends_with_all_of_its_group(tmp_path: Path) -> None:
    script = "import os\nif os.fork(): os.write(1, b'ready')\nos.read(0, 1)"
    async with running_registry(tmp_path / "state", clock=FakeClock()) as running:
        started = await running.registry.start(caller(), python(script))
        await running.output_has(started.process_id, "ready")
        stopped = await running.registry.stop(started.process_id)
        told = await running.told_of(started.process_id)

        assert stopped.end == told.end
        assert told.end is not None
        assert (told.end.reason, told.end.exit_status) == (EndReason.STOPPED, -15)
        with pytest.raises(ConflictError):
            await running.registry.stop(started.process_id)
        with pytest.raises(NotFoundError):
            await running.registry.stop("p-0000000000")


async def test_input_and_output_of_a_running_process(tmp_path: Path) -> None:
    async with running_registry(tmp_path / "state") as running:
        registry = running.registry
        started = await registry.start(caller(), ["cat"])
        await registry.write(started.process_id, "one\n")
        await running.output_has(started.process_id, "one")
        await registry.write(started.process_id, "zwei ü\n", last=True)
        told = await running.told_of(started.process_id)
        later = await registry.read_output(started.process_id, max_bytes=100)

    assert told.end is not None
    assert told.end.output == "one\nzwei ü\n" == later.text(100)


async def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    clock = FakeClock()
    async with running_registry(tmp_path / "state", clock=clock) as running:
        registry = running.registry
        started = await registry.start(caller(), list(WAITS))
        with pytest.raises(BadRequestError, match="65537 bytes"):
            await registry.write(started.process_id, "x" * 65_537)
        errors: list[str] = []

        async def fill() -> None:
            try:
                for _ in range(100):
                    await registry.write(started.process_id, "x" * 65_536)
            except ConflictError as exc:
                errors.append(str(exc))

        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(fill)
                while not errors:
                    await clock.advance(10)
        assert "does not read its input" in errors[0]


async def test_two_writers_do_not_mix(tmp_path: Path) -> None:
    async with running_registry(tmp_path / "state", clock=FakeClock()) as running:
        started = await running.registry.start(caller(), ["cat"])
        async with anyio.create_task_group() as tasks:
            for letter in "abc":
                text = letter * 60_000 + "\n"
                tasks.start_soon(running.registry.write, started.process_id, text)
        await running.registry.write(started.process_id, "", last=True)
        await running.output_has(started.process_id, "\n")
        await running.told_of(started.process_id)
        output = (await running.row(started.process_id)).end  # type: ignore[union-attr]

    assert output is not None
    assert output.output_bytes == 3 * 60_001


async def test_an_end_is_told_until_it_is_marked_and_then_never_again(tmp_path: Path) -> None:
    clock = FakeClock()
    async with running_registry(tmp_path / "state", clock=clock) as running:
        running.refuse = True
        started = await running.registry.start(caller(), ["true"])
        await running.tried()
        with anyio.fail_after(PATIENCE_S):
            while not running.registry.statistics().unreported:
                await anyio.lowlevel.checkpoint()
        assert running.registry.has_active_for_session(KEY), "its end is still owed to the session"
        assert running.registry.unreported()[0].process_id == started.process_id
        running.refuse = False
        with anyio.fail_after(PATIENCE_S):
            while not running.told:
                await clock.advance(FIRST_PAUSE_S)
        await settled(running)
        await clock.advance(10_000)

        assert [record.process_id for record in running.told] == [started.process_id]
        assert not running.registry.has_active_for_session(KEY)
        again = partial(records.stage_reported, process_id=started.process_id, at="later")
        assert not await running.database.write(again)


async def test_what_runs_cannot_be_marked_as_told(tmp_path: Path) -> None:
    async with running_registry(tmp_path / "state") as running:
        started = await running.registry.start(caller(), list(WAITS))
        mark = partial(records.stage_reported, process_id=started.process_id, at="now")
        assert not await running.database.write(mark)


async def test_a_gateway_that_is_stopping_starts_nothing(tmp_path: Path) -> None:
    async with running_registry(tmp_path / "state") as running:
        registry = running.registry
    with pytest.raises(UnavailableError):
        await registry.start(caller(), list(WAITS))


async def test_a_start_goes_on_whose_caller_is_gone(tmp_path: Path) -> None:
    async with running_registry(tmp_path / "state") as running:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(running.registry.start, caller(), ["true"])
            await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        (record,) = await running.registry.list()
        told = await running.told_of(record.process_id)

    assert told.end is not None
    assert told.end.exit_status == 0


async def plant(running: Running, when: str) -> None:
    """Have the database refuse one kind of change of the table of processes."""
    raising = "BEGIN SELECT RAISE(FAIL, 'planted'); END"
    script = f"CREATE TRIGGER planted BEFORE {when} ON processes {raising}"
    await execute(running.database, script)


async def test_where_the_row_cannot_be_stored_nothing_is_started(tmp_path: Path) -> None:
    async with running_registry(tmp_path / "state") as running:
        await plant(running, "INSERT")
        with pytest.raises(Exception, match="planted"):
            await running.registry.start(caller(), ["touch", str(tmp_path / "ran")])
        await settled(running)

        assert await running.registry.list() == ()
        assert not running.registry.has_active_for_session(KEY)
    assert not (tmp_path / "ran").exists()


async def test_where_its_keeper_cannot_be_stored_the_command_is_not_started(
    tmp_path: Path,
) -> None:
    async with running_registry(tmp_path / "state") as running:
        await plant(running, "UPDATE OF pid")
        with pytest.raises(Exception, match="planted"):
            await running.registry.start(caller(), ["touch", str(tmp_path / "ran")])
        await settled(running)

        (record,) = await running.registry.list()
        assert record.end is not None
        assert record.end.reason is EndReason.FAILED
        assert "planted" in record.end.detail
        assert running.told == []
    assert not (tmp_path / "ran").exists()


async def test_an_end_that_cannot_be_stored_is_recorded_once_it_can(tmp_path: Path) -> None:
    clock = FakeClock()
    async with running_registry(tmp_path / "state", clock=clock) as running:
        await plant(running, "UPDATE OF ended_at")
        started = await running.registry.start(caller(), python("raise SystemExit(9)"))
        with structlog.testing.capture_logs() as logs, anyio.fail_after(PATIENCE_S):
            while not logs:
                await clock.advance(0.1)
        assert [line["event"] for line in logs] == ["process.not_reported"]
        await execute(running.database, "DROP TRIGGER planted")
        with anyio.fail_after(PATIENCE_S):
            while not running.told:
                await clock.advance(FIRST_PAUSE_S)

    assert running.told[0].process_id == started.process_id
    assert running.told[0].end is not None
    assert running.told[0].end.exit_status == 9


async def test_a_keeper_that_is_killed_leaves_a_lost_process_with_its_output(
    tmp_path: Path,
) -> None:
    script = "import os, signal; os.write(1, b'so far\\n'); signal.pause()"
    async with running_registry(tmp_path / "state") as running:
        started = await running.registry.start(caller(), python(script))
        await running.output_has(started.process_id, "so far")
        assert started.keeper is not None
        os.kill(started.keeper.pid, signal.SIGKILL)
        told = await running.told_of(started.process_id)

    assert told.end is not None
    assert (told.end.reason, told.end.exit_status) == (EndReason.LOST, None)
    assert told.end.detail == "it was killed together with its keeper"
    assert told.end.output == "so far\n"


async def test_colours_make_whole_output_no_part(tmp_path: Path) -> None:
    settings = {"max_output_bytes": 1_024}
    async with running_registry(tmp_path / "state", settings=settings) as running:
        whole = await running.registry.start(caller(), ["printf", "\\033[32mok\\033[0m\\n"])
        part = await running.registry.start(caller(), python("print('x\\n' * 1000)"))
        ends = [(await running.told_of(one.process_id)).end for one in (whole, part)]
        await settled(running)
        shown = [
            (await running.registry.read_output(one.process_id, max_bytes=99_999)).text(9_999)
            for one in (whole, part)
        ]

    assert [end.output_whole for end in ends if end] == [True, False]
    assert ends[0] is not None
    assert (ends[0].output, ends[0].output_bytes) == ("ok\n", 12)
    assert shown[0] == "ok\n"
    assert shown[1].startswith("[the end of 2001 bytes of output]\n")


async def test_no_child_is_left_unreaped(tmp_path: Path) -> None:
    async with running_registry(tmp_path / "state") as running:
        started = [await running.registry.start(caller(name), ["true"]) for name in "abc"]
        for one in started:
            await running.told_of(one.process_id)
        keepers = [one.keeper.pid for one in started if one.keeper is not None]

    shown = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(os.getpid())],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    assert not {str(pid) for pid in keepers} & set(shown.split())


async def test_a_session_is_kept_by_its_own_processes_alone(tmp_path: Path) -> None:
    async with running_registry(tmp_path / "state") as running:
        registry = running.registry
        started = await registry.start(caller(), list(WAITS))

        assert registry.has_active_for_session(KEY)
        assert registry.blocking(KEY) == (started.process_id,)
        assert registry.guards(started)
        for other in ("main-alice", started.process_id, key_of("bob"), key_of(agent="other")):
            assert not registry.has_active_for_session(SessionKey(other))
        await registry.stop(started.process_id)
        await running.told_of(started.process_id)
        await settled(running)
        assert not registry.has_active_for_session(KEY)
        assert not registry.guards(started)


async def test_an_old_process_keeps_its_session_no_more_and_is_told_once_and_goes_on(
    tmp_path: Path,
) -> None:
    clock = FakeClock()
    settings = {"guard_max_age_s": 3_600.0, "timeout_s": 0.0}
    with structlog.testing.capture_logs() as logs:
        async with running_registry(tmp_path / "state", clock=clock, settings=settings) as running:
            registry = running.registry
            started = await registry.start(caller(), list(WAITS))
            await clock.advance(3_599)
            assert registry.has_active_for_session(KEY)
            assert registry.overdue() == ()
            await clock.advance(1)
            assert not registry.has_active_for_session(KEY)
            assert [record.process_id for record in registry.overdue()] == [started.process_id]
            assert registry.statistics().overdue == 1
            await clock.advance(100_000)

            assert started.keeper is not None
            assert is_alive(started.keeper.pid)
            assert len(registry) == 1
    warnings = [line for line in logs if line["event"] == "process.no_longer_guards"]
    assert [(line["process_id"], line["log_level"]) for line in warnings] == [
        (started.process_id, "warning")
    ]


async def test_a_clock_that_is_set_back_lets_no_process_go(tmp_path: Path) -> None:
    clock = FakeClock()
    async with running_registry(tmp_path / "state", clock=clock) as running:
        await running.registry.start(caller(), list(WAITS))
        clock.step_wall(timedelta(days=-400))
        assert running.registry.has_active_for_session(KEY)


async def test_any_thread_may_ask(tmp_path: Path) -> None:
    answers: list[bool] = []
    async with running_registry(tmp_path / "state") as running:
        registry = running.registry
        await registry.start(caller(), list(WAITS))
        threads = [
            threading.Thread(target=lambda: answers.append(registry.has_active_for_session(KEY)))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert answers == [True] * 8


async def test_the_latest_come_first_and_what_runs_before_all(tmp_path: Path) -> None:
    async with running_registry(tmp_path / "state") as running:
        registry = running.registry
        runs = await registry.start(caller(), list(WAITS))
        ended = []
        for name in ("alice", "bob"):
            started = await registry.start(caller(name), ["true"])
            await running.told_of(started.process_id)
            ended.append(started.process_id)

        assert [one.process_id for one in await registry.list()] == [runs.process_id, *ended[::-1]]
        assert [one.process_id for one in await registry.list(KEY)] == [runs.process_id, ended[0]]
        assert len(await registry.list(limit=1)) == 1


async def test_commands_and_output_go_into_no_log(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        async with running_registry(tmp_path / "state") as running:
            started = await running.registry.start(caller(), python("print('quite private')"))
            await running.told_of(started.process_id)

    assert [line["event"] for line in logs] == ["process.started", "process.ended"]
    assert "private" not in str(logs)


async def test_the_same_request_starts_one_process_also_after_a_restart(tmp_path: Path) -> None:
    async with running_registry(tmp_path, leave=True) as bench:
        first = await bench.registry.start(caller(), ["sleep", "600"], request="m1")
        again = await bench.registry.start(caller(), ["sleep", "600"], request="m1")
        other = await bench.registry.start(caller(), ["true"], request="m2")
        assert again.process_id == first.process_id != other.process_id

    async with running_registry(tmp_path) as bench:
        again = await bench.registry.start(caller(), ["sleep", "600"], request="m1")
        assert (again.process_id, again.keeper) == (first.process_id, first.keeper)
        theirs = await bench.registry.start(caller("bob"), ["true"], request="m1")
        assert theirs.process_id != first.process_id


async def test_a_request_that_failed_fails_again_also_after_a_restart(tmp_path: Path) -> None:
    missing = ["no-such-program"]
    why = "no-such-program: No such file or directory"
    async with running_registry(tmp_path / "state") as bench:
        with pytest.raises(BadRequestError, match=why):
            await bench.registry.start(caller(), missing, request="m1")
        with pytest.raises(UnavailableError, match=f"^{why}$"):
            await bench.registry.start(caller(), missing, request="m1")
        await settled(bench)
        with pytest.raises(UnavailableError, match=f"^{why}$"):
            await bench.registry.start(caller(), missing, request="m1")

    async with running_registry(tmp_path / "state") as bench:
        with pytest.raises(UnavailableError, match=f"^{why}$"):
            await bench.registry.start(caller(), ["touch", str(tmp_path / "ran")], request="m1")
        assert len(await bench.registry.list()) == 1
    assert not (tmp_path / "ran").exists()


async def test_a_request_of_which_nothing_was_stored_is_tried_anew(tmp_path: Path) -> None:
    async with running_registry(tmp_path / "state") as bench:
        await plant(bench, "INSERT")
        for _ in range(2):
            with pytest.raises(Exception, match="planted"):
                await bench.registry.start(caller(), ["echo", "ran"], request="m1")
            assert not bench.registry.has_active_for_session(KEY)
        await execute(bench.database, "DROP TRIGGER planted")
        started = await bench.registry.start(caller(), ["echo", "ran"], request="m1")
        told = await bench.told_of(started.process_id)

    assert told.end is not None
    assert told.end.output == "ran\n"


async def test_a_request_waits_for_its_first_try(tmp_path: Path) -> None:
    told: list[tuple[str, object]] = []
    async with running_registry(tmp_path / "state") as bench:

        async def start(command: list[str], request: str) -> None:
            try:
                record = await bench.registry.start(caller(), command, request=request)
                told.append((record.process_id, record.keeper))
            except (BadRequestError, UnavailableError) as exc:
                told.append((request, "No such file" in str(exc)))

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(start, [*WAITS], "m1")
        runs, told[:] = set(told), []
        (record,) = await bench.registry.list()
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(start, ["no-such-program"], "m2")

    assert runs == {(record.process_id, record.keeper)}
    assert record.keeper is not None
    assert told == [("m2", True)] * 3


async def test_a_request_fails_again_also_while_its_failure_cannot_be_stored(
    tmp_path: Path,
) -> None:
    async with running_registry(tmp_path / "state", clock=FakeClock()) as bench:
        await plant(bench, "UPDATE OF ended_at")
        with pytest.raises(BadRequestError):
            await bench.registry.start(caller(), ["no-such-program"], request="m1")
        with (
            pytest.raises(UnavailableError, match=r"^no-such-program: "),
            anyio.fail_after(PATIENCE_S),
        ):
            await bench.registry.start(caller(), ["no-such-program"], request="m1")
