"""`/bg` and `/ps`: background processes as people in a chat start and see them."""

from __future__ import annotations

import shlex
from datetime import datetime
from typing import TYPE_CHECKING, Final

from gateway.commands.words import NO_SESSION, span_text
from gateway.errors import ForbiddenError, NotFoundError, RefusedError, UnavailableError
from gateway.log import get_logger
from gateway.model import ToolCaller, TurnId
from gateway.processes.records import EndReason, stage_reported
from gateway.processes.settings import typed_words
from gateway.sessions.history import stamp
from gateway.transcripts.inbox import OWN_ID
from gateway.turns.reports import Report

if TYPE_CHECKING:
    from gateway.clock import Clock
    from gateway.model import Inbound, SessionKey
    from gateway.processes.records import ProcessEnd, ProcessRecord
    from gateway.processes.registry import ProcessRegistry
    from gateway.sessions.store import SessionStore
    from gateway.turns.pipeline import Turns

MAX_LISTED: Final = 20
_SHOWN_CHARS: Final = 80
"""How much of a command is shown."""
_ENDINGS: Final = {
    EndReason.STOPPED: "was stopped",
    EndReason.TIMED_OUT: "took too long and was ended",
    EndReason.FAILED: "could not be started",
    EndReason.LOST: "is lost",
}
ADMINS_ONLY: Final = "Only admins may start commands here."


class Backgrounds:
    """The background processes of sessions, in words."""

    def __init__(
        self, processes: ProcessRegistry, store: SessionStore, turns: Turns, clock: Clock
    ) -> None:
        """Start and show the processes of one gateway, and tell how they end."""
        self._processes = processes
        self._store = store
        self._turns = turns
        self._clock = clock

    @property
    def enabled(self) -> bool:
        """Whether there may be any."""
        return self._processes.settings.enabled

    def may_start(self, *, admin: bool) -> bool:
        """Return whether somebody may start one with `/bg`."""
        return self.enabled and (admin or self._processes.settings.bg == "everybody")

    def count(self, key: SessionKey) -> int:
        """Return how many run for a session."""
        return self._processes.running_of(key)

    def guards(self, key: SessionKey) -> bool:
        """Return whether one keeps a session from being reset and pruned."""
        return self._processes.has_active_for_session(key)

    async def start(self, inbound: Inbound, key: SessionKey, text: str, *, admin: bool) -> str:
        """Start a command for a session and return what is answered.

        Raises:
            RefusedError: it may not be, or cannot be started.
        """
        settings = self._processes.settings
        if not (admin or settings.bg == "everybody"):
            raise ForbiddenError(ADMINS_ONLY)
        if not text:
            raise RefusedError("Say which command: /bg COMMAND")

        entry = self._store.get(key)
        if entry is None:
            raise RefusedError(NO_SESSION)

        caller = ToolCaller(key, entry.session_id, entry.agent, inbound.source, TurnId(""))
        words = typed_words(settings, text)
        try:
            # A platform that repeats the message, after a crash say, must not start it again.
            record = await self._processes.start(caller, words, request=inbound.message_id)
        except (UnavailableError, OSError) as error:
            # The message is settled with it: coming again, it would be no other one.
            raise RefusedError(f"It could not be started: {error}") from error

        return f"Started as {record.process_id}. /ps shows how it goes."

    async def listing(self, key: SessionKey) -> str:
        """Return the answer to `/ps`."""
        if not self.enabled:
            return "Commands in the background are off."

        found = await self._processes.list(key, limit=MAX_LISTED)
        if not found:
            return "Nothing runs in the background, nor has anything lately."

        now = self._clock.now()
        return "\n".join(self._line(record, now) for record in found)

    async def stop(self, key: SessionKey, process_id: str) -> str:
        """End a process of a session and return what is answered.

        Raises:
            RefusedError: there is none of that id, or it has ended.
        """
        record = await self._processes.get(process_id)
        if record.session_key != key:
            raise NotFoundError("There is no process with this id.")

        record = await self._processes.stop(process_id)
        how = "is being stopped" if record.end is None else ended_text(record.end)
        return f"{process_id} {how}."

    async def tell_end(self, record: ProcessRecord) -> None:
        """Tell a session how a process of it ended: once, whatever happens meanwhile.

        Durability: on return it survives power loss that it is told.
        """
        end = record.end
        if end is None:
            raise AssertionError("it runs")

        at = stamp(self._clock.now())
        await self._turns.report(
            Report(
                message_id=f"{OWN_ID}process:{record.process_id}",
                key=record.session_key,
                session_id=record.session_id,
                agent=record.agent,
                source=record.source,
                text=report_text(record, end),
                as_turn=self._processes.settings.report == "turn",
                settle=lambda tx: stage_reported(tx, record.process_id, at),
            )
        )
        if self._store.get(record.session_key) is None:
            get_logger().info(
                "process.session_gone",
                process_id=record.process_id,
                session_key=record.session_key,
            )

    def _line(self, record: ProcessRecord, now: datetime) -> str:
        shown = shlex.join(record.command)
        if len(shown) > _SHOWN_CHARS:
            shown = shown[:_SHOWN_CHARS] + "..."
        if record.end is not None:
            ago = span_text((now - datetime.fromisoformat(record.end.at)).total_seconds())
            return f"{record.process_id}: {ended_text(record.end)} {ago} ago: {shown}"

        runs = span_text((now - datetime.fromisoformat(record.created_at)).total_seconds())
        keeps = ", keeps this conversation" if self._processes.guards(record) else ""
        return f"{record.process_id}: runs for {runs}{keeps}: {shown}"


def ended_text(end: ProcessEnd) -> str:
    """Return how a process ended."""
    if end.reason is EndReason.EXITED:
        status = end.exit_status or 0
        return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"

    return _ENDINGS[end.reason] + (f" ({end.detail})" if end.detail else "")


def report_text(record: ProcessRecord, end: ProcessEnd) -> str:
    """Return what a session is told of a process that ended; a model reads it as well."""
    lines = [f"[Background process {record.process_id}: {shlex.join(record.command)[:1_000]}]"]
    lines.append(f"It {ended_text(end)}.")
    output = end.output.rstrip("\n")
    if output:
        whole = end.output_whole
        lines += ["Its output:" if whole else f"The end of its {end.output_bytes:,} bytes:", output]
    elif not end.output_bytes:
        lines.append("It wrote nothing.")
    elif end.output_whole:
        lines.append("It wrote nothing that can be shown.")
    else:
        lines.append(f"Of its output, {end.output_bytes:,} bytes, nothing could be kept.")
    return "\n".join(lines)
