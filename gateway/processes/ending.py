"""How a process ended, as its directory tells once its keeper is gone, or that nobody knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.errors import UnavailableError
from gateway.processes.identity import boot_id
from gateway.processes.leftovers import Left
from gateway.processes.output import plain, tail
from gateway.processes.records import MAX_OUTPUT_CHARS, EndReason, ProcessEnd

if TYPE_CHECKING:
    from gateway.processes.directory import ProcessDirectory
    from gateway.processes.records import ProcessRecord

_BYTES_OF_CHARS = 4
"""A character has at most as many in UTF-8."""
_KILLED = {
    Left.NOTHING: "it was killed together with its keeper",
    Left.ENDED: "it was killed together with its keeper; what it had started was ended",
    Left.UNKNOWN: "its keeper is gone; what it had started may still run",
}


def may_have_left(record: ProcessRecord, directory: ProcessDirectory) -> bool:
    """Return whether what a process has started may run though its keeper is gone; reads files."""
    if record.keeper is None or directory.status() is not None:
        return False

    try:
        return record.keeper.boot_id == boot_id()
    except UnavailableError:
        return False


def end_of(
    record: ProcessRecord, directory: ProcessDirectory, at: str, left: Left = Left.UNKNOWN
) -> ProcessEnd:
    """Return how a process ended whose keeper is not there; reads files.

    Args:
        record: The process.
        directory: Where its keeper worked.
        at: What counts as the end of one that is lost: now.
        left: What became of what it had started, where its keeper was killed.
    """
    status = directory.status()
    output = directory.output(_BYTES_OF_CHARS * MAX_OUTPUT_CHARS)
    total = output.total_bytes if status is None else max(status.output_bytes, output.total_bytes)
    shown = plain(output.data)
    text = tail(shown, MAX_OUTPUT_CHARS)
    whole = len(output.data) == total and text == shown
    if status is None:
        return ProcessEnd(
            at,
            EndReason.LOST,
            detail=_why_lost(record, left),
            output_bytes=total,
            output=text,
            output_whole=whole,
        )

    return ProcessEnd(
        status.ended_at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        status.reason,
        detail=status.detail,
        exit_status=status.exit_status,
        output_bytes=total,
        output=text,
        output_whole=whole,
    )


def _why_lost(record: ProcessRecord, left: Left) -> str:
    if record.keeper is None:
        return "the gateway stopped before it was started"

    try:
        same_life = record.keeper.boot_id == boot_id()
    except UnavailableError as exc:
        return str(exc)

    return _KILLED[left] if same_life else "the machine was restarted"
