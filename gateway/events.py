"""What happened, told to whoever subscribed within this process; nothing of it is kept.

A subscriber that fails is logged and harms neither the others nor who published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from gateway.log import get_logger
from gateway.model import SessionId, SessionKey

if TYPE_CHECKING:
    from collections.abc import Callable


E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class ContextPruned:
    """A pruning round changed what is sent of a session; it holds nothing that anybody wrote."""

    session_key: SessionKey
    session_id: SessionId
    trimmed: int
    """Tool results that were trimmed."""
    cleared: int
    """Tool results that were cleared."""
    tool_names: tuple[str, ...]
    tokens_before: int
    """Size of the request, estimated, had there been no round."""
    tokens_after: int


class Events:
    """Subscribers by kind of event; called in the order they came, on the publisher's thread."""

    def __init__(self) -> None:
        """Start without subscribers."""
        self._handlers: dict[type[object], list[Callable[[Any], None]]] = {}

    def subscribe(self, kind: type[E], handler: Callable[[E], None]) -> Callable[[], None]:
        """Call a handler for each event of a kind; return what ends that."""
        handlers = self._handlers.setdefault(kind, [])
        handlers.append(handler)

        def unsubscribe() -> None:
            if handler in handlers:
                handlers.remove(handler)

        return unsubscribe

    def publish(self, event: object) -> None:
        """Tell everybody who subscribed to this kind of event."""
        for handler in tuple(self._handlers.get(type(event), ())):
            try:
                handler(event)
            except Exception as error:  # noqa: BLE001 - boundary around a subscriber
                get_logger().warning(
                    "event.handler_failed", kind=type(event).__name__, error=repr(error)
                )
