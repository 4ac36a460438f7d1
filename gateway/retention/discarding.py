"""How long stored messages live beside the transcript."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from gateway.processes import records as processes
from gateway.processes.registry import KEPT_DAYS
from gateway.sessions.history import stamp
from gateway.transcripts import outbox

if TYPE_CHECKING:
    from gateway.access.pairing import Pairing
    from gateway.clock import Clock
    from gateway.durable.database import Database

DELIVERED_DAYS: Final = 7
"""How long sent replies stay: the time in which a message id that comes again is recognised.
Platforms repeat for at most a day."""
DEAD_DAYS: Final = 30
"""How long replies stay that were given up, unless the operator drops them."""
_CHUNK: Final = 1_000


async def discard_old(database: Database, clock: Clock, pairing: Pairing) -> int:
    """Delete what nobody needs any more beside transcripts; return how many rows went.

    These are replies that were delivered, or given up, long ago, processes whose end was told long
    ago, and requests to be paired that have expired.
    """
    now, gone = clock.now(), await pairing.discard_expired()
    for discard, days in (
        (outbox.discard_sent, DELIVERED_DAYS),
        (outbox.discard_dead, DEAD_DAYS),
        (processes.discard_reported, KEPT_DAYS),
    ):
        work = partial(discard, before=stamp(now - timedelta(days=days)), limit=_CHUNK)
        count = _CHUNK
        while count == _CHUNK:
            count = await database.write(work)
            gone += count
    return gone
