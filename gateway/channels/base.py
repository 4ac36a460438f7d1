"""The contract between the gateway and a platform.

A channel is one account on one platform. Messages in: each is acknowledged to the platform only
once the gateway has stored or refused it. Messages out: `send` shows one, or says as exactly as the
platform allows what became of it; where the platform can, `edit` changes what is shown.

`tests/contract` holds the laws that every channel keeps, whatever the platform.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from gateway.errors import BusyError, ExitCode, GatewayError
from gateway.model import SessionSource

if TYPE_CHECKING:
    from gateway.model import Inbound


REPEAT: Final = "(This may be a repeat.)\n\n"
"""What is said before a text that may have been shown before."""
LONGEST_WISH_S: Final = 3_600.0
"""For how long a platform that asks for it is left alone at most."""


class ChannelError(GatewayError):
    """The connection to the platform is lost, or cannot be had."""

    exit_code = ExitCode.UNAVAILABLE

    def __init__(self, message: str | None = None, *, retry_after_s: float | None = None) -> None:
        """Take why, for the operator, and how long the platform asks to be left alone, in s."""
        self.retry_after_s = retry_after_s
        super().__init__(message)


class SendError(GatewayError):
    """The platform did not take a message, or nobody knows whether it did."""

    def __init__(
        self,
        message: str,
        *,
        retryable: bool,
        retry_after_s: float | None = None,
        ambiguous: bool = False,
    ) -> None:
        """Say what may be done about it.

        Args:
            message: Why, for the operator; never the text of the message itself.
            retryable: Whether the same message may be taken another time.
            retry_after_s: How long the platform asks to be left alone, in seconds.
            ambiguous: Whether the message may have been shown all the same.
        """
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.ambiguous = ambiguous
        super().__init__(message)


class NotConnectedError(SendError):
    """The platform cannot be reached: nothing was sent, and it does not count as a try."""

    def __init__(self, message: str | None = None) -> None:
        """Take the first sentence of the docstring where no message is given."""
        super().__init__(message or "the platform cannot be reached", retryable=True)


@dataclass(frozen=True, slots=True)
class Outbound:
    """One message to be shown."""

    target: SessionSource
    """Where: chat, thread and, of a direct chat without an id of its own, the user."""
    text: str
    """Never blank, at most `max_text_chars` of the channel; CommonMark, as models write it. The
    channel renders it for its platform and escapes all else. Nothing in it notifies a whole
    room, and only links that stand in it are links."""
    delivery_id: str
    """Stays the same however often this message is sent; each edit of a message has its own."""
    reply_to: str = ""
    """The platform's id of the message that it answers; empty: of none. Where that one is gone,
    the text is shown all the same."""
    repeat: bool = False
    """Whether it may have been shown before; the text says so, unless the channel is idempotent and
    it was a message, no edit."""
    plain: bool = False
    """Whether the text is shown as it stands, no mark in it rendered: questions about tools must
    read as they are."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a message that was handed in; either way the gateway is done with it."""

    accepted: bool = True
    """Whether it is stored; False: it was refused, and left no trace."""
    text: str = ""
    """What the channel tells the sender at once, as it stands; empty: nothing."""
    busy: BusyError | None = None
    """The bound for which it was refused: the same may be taken later. None: for no bound."""


Receive = Callable[["Inbound"], Awaitable[Receipt]]
"""Hands a message to the gateway, and returns once it is stored or refused.

Raises a GatewayError where it could be neither: the platform is not told that it came, so that it
is handed over again.
"""


class Channel(Protocol):
    """One account on a platform."""

    @property
    def platform(self) -> str:
        """The platform's name; sources of its messages bear it."""
        ...

    @property
    def account(self) -> str:
        """The name of the account's table; sources of its messages bear it."""
        ...

    @property
    def idempotent(self) -> bool:
        """Whether the same delivery id, sent twice, is shown once."""
        ...

    @property
    def max_text_chars(self) -> int:
        """The longest text that `send` and `edit` take, in code points; at least 256."""
        ...

    @property
    def edits(self) -> bool:
        """Whether answers grow in the chat: `edit` may be called."""
        ...

    @property
    def edit_interval_s(self) -> float:
        """The shortest time between two edits in one chat, in seconds, whatever they edit."""
        ...

    @property
    def typing_s(self) -> float:
        """For how long one call of `show_typing` is seen, in seconds; 0: it does nothing."""
        ...

    async def run(self, receive: Receive, *, ready: Callable[[], None]) -> None:
        """Hand over messages until cancelled; of one chat in their order, changes among them.

        Args:
            receive: Takes a message. Only once it has returned is the platform told.
            ready: Called each time the platform can be reached, or can be again.

        Raises:
            ChannelError: the connection is lost; whoever runs the channel runs it again later.

        Cancellation: leaves no message acknowledged that was not stored.
        """
        ...

    async def send(self, outbound: Outbound) -> str:
        """Show a message; return the platform's id of it. May be called while `run` is not.

        Raises:
            SendError: it was not shown, or may not have been.

        Cancellation: whether it was shown is not known then.
        """
        ...

    async def edit(self, outbound: Outbound, shown_id: str) -> None:
        """Let a message that `send` has shown read otherwise; that it reads so already is well.

        Never called where `edits` is false, nor twice at once for one message.

        Args:
            outbound: How it is to read, in the chat it was sent to.
            shown_id: What `send` returned.

        Raises:
            SendError: it reads as before, or may. Not `retryable`: it cannot be edited any more.

        Cancellation: whether it reads otherwise is not known then.
        """
        ...

    async def show_typing(self, target: SessionSource) -> None:
        """Show that an answer is being made, until the next `send` there or for `typing_s`.

        Raises:
            SendError: it could not be shown; that harms nothing.
        """
        ...


@runtime_checkable
class Probed(Protocol):
    """A channel whose platform can be asked whether it is there, without showing anything."""

    async def probe(self) -> None:
        """Ask; called before what may have been shown is sent once more, the last time.

        Raises:
            SendError: it is not there, or not well.
        """
        ...
