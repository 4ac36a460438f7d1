"""The tool `process`: background processes as a model starts and asks for them.

A failure is a result that says so. Only processes of the caller's own session are there for it.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

from gateway.errors import BadRequestError, GatewayError, NotFoundError
from gateway.model import ToolResult, ToolSpec
from gateway.processes.records import EndReason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.model import ToolCaller
    from gateway.processes.records import ProcessRecord
    from gateway.processes.registry import ProcessRegistry

NAME: Final = "process"
MAX_LOG_CHARS: Final = 20_000
"""The longest output that `log` shows, in characters."""
POLL_CHARS: Final = 2_000
"""The same of `poll`."""
LISTED: Final = 20
MAX_COMMAND_CHARS: Final = 32_768
_HOW: Final = {
    EndReason.EXITED: "ended",
    EndReason.STOPPED: "stopped",
    EndReason.TIMED_OUT: "ended because its time was over",
    EndReason.FAILED: "failed",
    EndReason.LOST: "lost",
}
_SHOWN_CHARS: Final = 200
_BYTES_OF_CHARS: Final = 4

_TAKEN: Final[Mapping[str, tuple[str, ...]]] = {
    "start": ("command",),
    "poll": ("process_id",),
    "log": ("process_id", "max_chars"),
    "write": ("process_id", "text", "end_input"),
    "stop": ("process_id",),
    "list": (),
}
"""The arguments of each action."""


class ProcessTool:
    """Answers the calls of models."""

    def __init__(self, registry: ProcessRegistry) -> None:
        """Work on a registry."""
        self._registry = registry
        self._actions = {
            "start": self._start,
            "poll": self._poll,
            "log": self._log,
            "write": self._write,
            "stop": self._stop,
            "list": self._list,
        }

    def spec(self) -> ToolSpec:
        """Return the tool as a model is told of it; the same for the life of the gateway."""
        words: dict[str, Any] = {"type": "array", "items": {"type": "string"}, "minItems": 1}
        command = {"description": "The program and its arguments; no shell reads them.", **words}
        if self._registry.settings.shell:
            text = {"type": "string", "description": "A command line, read by a shell."}
            command = {"anyOf": [text, command]}
        who = "the user is" if self._registry.settings.report == "message" else "you are"
        return ToolSpec(
            NAME,
            "Run programs in the background of this conversation. start returns at once with a "
            f"process_id; when the process ends, {who} told. poll shows its state and the end of "
            "its output, log more of it, write gives it input, stop ends it, list shows all.",
            {
                "type": "object",
                "properties": {
                    "action": {"type": "string", "enum": list(_TAKEN)},
                    "command": {**command, "description": "For start: what to run."},
                    "process_id": {
                        "type": "string",
                        "description": "For poll, log, write, stop: as start returned it.",
                    },
                    "text": {
                        "type": "string",
                        "description": "For write: the input, with its line breaks.",
                    },
                    "end_input": {
                        "type": "boolean",
                        "description": "For write: whether the input ends with it.",
                    },
                    "max_chars": {
                        "type": "integer",
                        "minimum": 1,
                        "maximum": MAX_LOG_CHARS,
                        "description": "For log: how much of the end of the output.",
                    },
                },
                "required": ["action"],
                "additionalProperties": False,
            },
        )

    async def call(self, caller: ToolCaller, arguments: Mapping[str, Any]) -> ToolResult:
        """Do what a model asks; a failure is a result whose text says so."""
        try:
            return ToolResult(await self._actions[_action(arguments)](caller, arguments))
        except GatewayError as exc:
            return ToolResult(f"[The tool reports an error.]\n{exc}")

    async def _start(self, caller: ToolCaller, arguments: Mapping[str, Any]) -> str:
        command = arguments.get("command")
        parts = command if isinstance(command, list) else [command]
        if not parts or not all(isinstance(part, str) for part in parts):
            raise BadRequestError("command: accepted is a list of strings, program and arguments.")
        if sum(map(len, parts)) > MAX_COMMAND_CHARS:
            raise BadRequestError(f"command: accepted are up to {MAX_COMMAND_CHARS} characters.")

        record = await self._registry.start(caller, command if command is not None else [])
        told = "You will be told when it ends."
        if self._registry.settings.report == "message":
            told = "The user will be told when it ends; you see it with poll."
        return f"Started as {record.process_id}. {told}"

    async def _poll(self, caller: ToolCaller, arguments: Mapping[str, Any]) -> str:
        return await self._shown(await self._own(caller, arguments), POLL_CHARS)

    async def _log(self, caller: ToolCaller, arguments: Mapping[str, Any]) -> str:
        chars = arguments.get("max_chars", MAX_LOG_CHARS)
        if type(chars) is not int or not 0 < chars <= MAX_LOG_CHARS:
            raise BadRequestError(
                f"max_chars: accepted is a whole number from 1 to {MAX_LOG_CHARS}."
            )

        return await self._shown(await self._own(caller, arguments), chars)

    async def _write(self, caller: ToolCaller, arguments: Mapping[str, Any]) -> str:
        text, ends = arguments.get("text", ""), arguments.get("end_input", False)
        if not isinstance(text, str) or not isinstance(ends, bool) or not (text or ends):
            raise BadRequestError(
                "text: accepted is a string that is not empty, or end_input true."
            )

        record = await self._own(caller, arguments)
        await self._registry.write(record.process_id, text, last=ends)
        return "Written; its input ends there." if ends else "Written."

    async def _stop(self, caller: ToolCaller, arguments: Mapping[str, Any]) -> str:
        record = await self._own(caller, arguments)
        return state_of(await self._registry.stop(record.process_id))

    async def _list(self, caller: ToolCaller, _: Mapping[str, Any]) -> str:
        found = await self._registry.list(caller.session_key, limit=LISTED)
        lines = [f"{one.process_id}: {state_of(one)}: {shown_command(one)}" for one in found]
        return "\n".join(lines) or "No processes."

    async def _own(self, caller: ToolCaller, arguments: Mapping[str, Any]) -> ProcessRecord:
        """Return a process of the caller's session; another's is as if there were none."""
        process_id = arguments.get("process_id")
        if not isinstance(process_id, str):
            raise BadRequestError("process_id: accepted is a string, as start returned it.")

        record = await self._registry.get(process_id)
        if record.session_key != caller.session_key:
            raise NotFoundError("There is no process with this id.")

        return record

    async def _shown(self, record: ProcessRecord, max_chars: int) -> str:
        output = await self._registry.read_output(
            record.process_id, max_bytes=_BYTES_OF_CHARS * max_chars
        )
        text = output.text(max_chars)
        if not text:
            text = "[no output that can be shown]" if output.total_bytes else "[no output]"
        return f"{state_of(record)}\n{text}"


def _action(arguments: Mapping[str, Any]) -> str:
    """Return what is asked for, where the other arguments are those that it takes."""
    action = arguments.get("action")
    if not isinstance(action, str) or action not in _TAKEN:
        raise BadRequestError(f"action: accepted is one of {', '.join(_TAKEN)}.")

    foreign = sorted(arguments.keys() - {"action", *_TAKEN[action]})
    if foreign:
        taken = ", ".join(_TAKEN[action]) or "nothing else"
        raise BadRequestError(f"{foreign[0]!r} is not for {action}, which takes {taken}.")

    return action


def state_of(record: ProcessRecord) -> str:
    """Return in a few words how a process is."""
    end = record.end
    if end is None:
        return "running"

    how, status = _HOW[end.reason], end.exit_status
    if status is None:
        return f"{how} ({end.detail})" if end.detail else how

    return f"{how}, exit status {status}" if status >= 0 else f"{how}, by signal {-status}"


def shown_command(record: ProcessRecord) -> str:
    """Return the beginning of a command as it would be typed, on one line."""
    text = " ".join(shlex.join(record.command).split())
    return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 3]}..."
