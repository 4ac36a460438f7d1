"""What others are told of turns as they go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.model import SessionSource
from gateway.transcripts.inbox import InboxRow
from gateway.turns.commit import OnCommit
from gateway.turns.ticket import Progress


def _nothing(*_: object) -> None:
    pass


@dataclass(slots=True)
class Hooks:
    """Calls that must neither wait nor raise; set by who puts the parts together."""

    on_begun: Callable[[InboxRow, Progress], None] = _nothing
    """With the message and the progress of each turn that begins."""
    on_replied: Callable[[SessionSource], None] = _nothing
    """With the source of each message whose reply is stored."""
    on_commit: OnCommit | None = None
    """With each turn that ends, in the transaction of its commit; None costs nothing."""
