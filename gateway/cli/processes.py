"""`gateway processes`: what runs in the background of sessions; `gateway runner`: who starts it."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway.cli.options import ConfigOption, JsonOption, StateDirOption, Where
from gateway.cli.output import Screen, flat_facts, reporting, safe

if TYPE_CHECKING:
    from gateway.cli.client import Api

_COLUMNS: Final = ("ID", "SESSION", "COMMAND", "STATE", "AGE", "BLOCKS")
_COMMAND_CHARS: Final = 60
_UNITS: Final = (("d", 86_400), ("h", 3_600), ("min", 60))

app = typer.Typer(
    help="See and end background processes of sessions.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
IdArgument = Annotated[
    str, typer.Argument(metavar="ID", help="The process, as `gateway processes list` shows it.")
]


@app.command("list")
def list_processes(
    *,
    session: Annotated[
        str | None, typer.Option(metavar="KEY", help="Only those of one session.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, metavar="NUMBER", help="How many.")] = 50,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """List processes, and what each keeps from being done."""
    with reporting(as_json=as_json) as screen:
        from gateway.cli.client import call

        given: dict[str, str | int] = {"limit": limit}
        if session is not None:
            given["session_key"] = session
        listed = call(Where(config, state_dir), partial(_get, path="/v1/processes", given=given))
        if as_json:
            screen.document(listed)
        else:
            _show_list(screen, listed)


@app.command()
def show(
    process_id: IdArgument,
    *,
    chars: Annotated[
        int, typer.Option(min=1, max=1_000_000, metavar="NUMBER", help="How much of its output.")
    ] = 20_000,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a process and the end of its output."""
    with reporting(as_json=as_json) as screen:
        from gateway.cli.client import call

        path = _path_of(process_id)
        given: dict[str, str | int] = {"max_chars": chars}
        shown = call(Where(config, state_dir), partial(_get, path=path, given=given))
        if as_json:
            screen.document(shown)
            return

        output = str(shown.pop("output"))
        screen.facts(flat_facts(_readable(shown)))
        if output:
            screen.line("")
            screen.line(safe(output).rstrip("\n"))


@app.command()
def stop(
    process_id: IdArgument,
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a process and all that it started in its group."""
    with reporting(as_json=as_json) as screen:
        from gateway.cli.client import call

        path = _path_of(process_id) + "/stop"
        stopped = call(Where(config, state_dir), partial(_post, path=path))
        if as_json:
            screen.document(stopped)
        else:
            state = "is ending" if stopped["state"] == "running" else str(stopped["state"])
            screen.line(f"{stopped['process_id']}  {state}")


def runner(
    *,
    socket: Annotated[
        Path,
        typer.Option(
            metavar="PATH", help="Where it listens; `runner` of [processes] names the same."
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Start background processes for a gateway, which outlive it.

    It belongs into a service of its own (gateway-runner.service): what it has started ends with
    that, and not with the gateway's. Ctrl-C or SIGTERM ends it.
    """
    with reporting(as_json=as_json):
        import anyio

        from gateway.log import LogSettings, configure

        os.umask(0o077)
        configure(LogSettings(format="json" if as_json else "auto"), sys.stdout.buffer)
        anyio.run(_run, socket, backend_options={"use_uvloop": True})


async def _run(socket: Path) -> None:
    import anyio

    from gateway.clock import SystemClock
    from gateway.errors import gateway_errors
    from gateway.log import get_logger
    from gateway.processes.runner import run_runner
    from gateway.systemd import Notifier

    try:
        async with anyio.create_task_group() as tasks:
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                await tasks.start(run_runner, socket, SystemClock())
                get_logger().info("runner.ready", pid=os.getpid(), socket=str(socket))
                Notifier(os.environ).send("READY=1")
                async for _ in signals:
                    break
                Notifier(os.environ).send("STOPPING=1")
                tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        found = gateway_errors(group)
        if not found:
            raise

        raise found[0] from None
    get_logger().info("runner.stopped")


async def _get(api: Api, *, path: str, given: dict[str, str | int]) -> dict[str, Any]:
    found: dict[str, Any] = await api.get(path, **given)
    return found


async def _post(api: Api, *, path: str) -> dict[str, Any]:
    found: dict[str, Any] = await api.post(path)
    return found


def _path_of(process_id: str) -> str:
    from urllib.parse import quote

    return f"/v1/processes/{quote(process_id, safe='')}"


def _show_list(screen: Screen, listed: dict[str, Any]) -> None:
    found = listed["processes"]
    if not found:
        screen.note("no processes")
        return

    screen.table(_COLUMNS, [_row(process) for process in found])
    if listed["more"]:
        screen.note(f"there are more than {len(found)} (--limit)")
    for process in found:
        if process["state"] == "gone":
            screen.note(f"{process['process_id']} is {process['detail']}")
        if process["overdue"]:
            screen.note(
                f"{process['process_id']} is older than guard_max_age_s of [processes]: "
                "it keeps its session from nothing any more"
            )


def _row(process: dict[str, Any]) -> tuple[str, ...]:
    command = shlex.join(process["command"])
    cut = command if len(command) <= _COMMAND_CHARS else f"{command[: _COMMAND_CHARS - 3]}..."
    return (
        process["process_id"],
        process["session_key"],
        cut,
        _state(process),
        _age(process),
        ", ".join(process["blocks"]) or "-",
    )


def _state(process: dict[str, Any]) -> str:
    status = process["exit_status"]
    return process["state"] if status is None else f"{process['state']} ({status})"


def _age(process: dict[str, Any]) -> str:
    """Return how long it runs, or ran."""
    seconds = process["age_s"]
    for unit, size in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _readable(shown: dict[str, Any]) -> dict[str, Any]:
    return shown | {
        "command": shlex.join(shown["command"]),
        "blocks": ", ".join(shown["blocks"]),
    }
