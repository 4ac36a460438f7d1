"""How a process ended, as its directory tells once its keeper is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.errors import UnavailableError
from gateway.processes.identity import boot_id
from gateway.processes.output import plain, tail
from gateway.processes.records import MAX_OUTPUT_CHARS, EndReason, ProcessEnd

if TYPE_CHECKING:
    from gateway.processes.directory import ProcessDirectory
    from gateway.processes.records import ProcessRecord

_BYTES_OF_CHARS = 4
"""A character has at most as many in UTF-8."""


def end_of(record: ProcessRecord, directory: ProcessDirectory, at: str) -> ProcessEnd:
    """Return how a process ended whose keeper is not there; reads files.

    Args:
        record: The process.
        directory: Where its keeper worked.
        at: What counts as the end of one that is lost: now.
    """
    status = directory.status()
    output = directory.output(_BYTES_OF_CHARS * MAX_OUTPUT_CHARS)
    text = tail(plain(output.data), MAX_OUTPUT_CHARS)
    if status is None:
        return ProcessEnd(
            at,
            EndReason.LOST,
            detail=_why_lost(record),
            output_bytes=output.total_bytes,
            output=text,
        )

    return ProcessEnd(
        status.ended_at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        status.reason,
        detail=status.detail,
        exit_status=status.exit_status,
        output_bytes=max(status.output_bytes, output.total_bytes),
        output=text,
    )


def _why_lost(record: ProcessRecord) -> str:
    if record.keeper is None:
        return "the gateway stopped before it was started"

    try:
        same_life = record.keeper.boot_id == boot_id()
    except UnavailableError as exc:
        return str(exc)

    return "it was killed together with its keeper" if same_life else "the machine was restarted"
