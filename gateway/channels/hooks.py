"""Channels that a platform calls: its requests to `POST /hooks/NAME` are handed to the channel.

The API reads the body, within its limits, and knows nothing of who may call: each channel proves
that for itself, over the bytes as they came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class HookRequest:
    """A request of a platform, not proven yet."""

    headers: Mapping[str, str]
    """By lower-case name; of one given twice, the values with `, ` between."""
    body: bytes
    """As it came: signatures are over these bytes."""


@dataclass(frozen=True, slots=True)
class HookAnswer:
    """What the platform is answered."""

    status: int
    """2xx only once all that the request holds is stored or refused; 401 where it is not proven,
    which is counted against its address, and 5xx where it is to come again."""
    text: str = ""
    """One sentence for who set the hook up; empty: no body."""
    retry_after_s: float | None = None
    """When it is to come again, of 429 and 5xx; None: nobody knows."""


@runtime_checkable
class HookedChannel(Protocol):
    """A channel that is called; its account is the NAME of its path."""

    @property
    def account(self) -> str:
        """The name of the account's table."""
        ...

    @property
    def called(self) -> bool:
        """Whether it takes calls as it is configured; where not, its path does not exist."""
        ...

    async def call(self, request: HookRequest) -> HookAnswer:
        """Take what a platform sends; answer 503 while the channel does not run.

        Raises nothing of its own. Cancellation: nothing is acknowledged that was not stored.
        """
        ...


@runtime_checkable
class JudgesHeads(Protocol):
    """A channel that is called, and turns some requests away before their body is read."""

    def refusal(self, headers: Mapping[str, str]) -> HookAnswer | None:
        """Return why a request can be none of the platform's, before its body is read.

        None: the body decides. Cheap, and it changes nothing; `call` checks the head again.

        Args:
            headers: As in `HookRequest`.
        """
        ...
