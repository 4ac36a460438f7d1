"""What became of a request that is made again: it starts nothing a second time."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from gateway.errors import UnavailableError
from gateway.processes import records
from gateway.processes.records import EndReason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.durable.database import Database
    from gateway.processes.kept import Kept
    from gateway.processes.records import ProcessRecord


async def requested(
    process_id: str, kept_by_id: Mapping[str, Kept], database: Database
) -> ProcessRecord | None:
    """Return what a request has started; None where it left nothing, so that it may be tried anew.

    Waits for a try that is under way. After None, whoever tries is the only one until it waits.

    Raises:
        UnavailableError: It failed.
    """
    while True:
        kept = kept_by_id.get(process_id)
        if kept is None:
            record = await database.read(partial(records.find, process_id=process_id))
            if record is None and process_id in kept_by_id:
                continue  # meanwhile another one tries
            if record is not None:
                _check_started(record)
            return record

        await kept.begun.wait()
        if not kept.failure:
            _check_started(kept.record)
            return kept.record
        if kept.stored:
            raise UnavailableError(kept.failure)


def _check_started(record: ProcessRecord) -> None:
    end = record.end
    if end is not None and (end.reason is EndReason.FAILED or record.keeper is None):
        raise UnavailableError(end.detail)
