"""What rules over items need of whoever runs turns, and what stands in where nobody does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.errors import UnavailableError

if TYPE_CHECKING:
    from gateway.pruning import ItemSummary, PrunableItem


class NoSummaries:
    """Stands where no agents are open."""

    async def summarize(
        self,
        item: PrunableItem,
        *,
        target_tokens: int | None,
        reason: str,
    ) -> ItemSummary:
        """Refuse.

        Raises:
            UnavailableError: always.
        """
        raise UnavailableError("summaries are written by agents: this needs a gateway that runs")


def _nothing(_: Collection[str]) -> None:
    pass


async def _measured() -> int:
    return 0


@dataclass(frozen=True, slots=True)
class TurnHooks:
    """Calls to whoever runs turns."""

    live_sessions: Callable[[], Mapping[str, str]] = dict
    """Returns the sessions with a turn under way, by session id; see `PruningManager`."""
    on_changed: Callable[[Collection[str]], None] = _nothing
    """Told, with their ids, of sessions whose items are not what they were; waits for nothing."""
    measure: Callable[[], Awaitable[int]] = _measured
    """Finds out how large the contexts of those are, and returns how many wait for another time."""
