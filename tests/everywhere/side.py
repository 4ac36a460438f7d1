"""One kind of client of the trial: its people, its server if it has one, and what they saw."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final

from tests.everywhere.book import Book

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from tests.support.daemon import Daemon

ASIDE: Final = "aside"
"""A word of each text that is said to others than the gateway."""
IN_GROUPS: Final = (3, 4)
"""Of five users who can speak in groups, these do: two share each group and its threads."""
_OF: Final = 5


class Side(ABC):
    """A platform, with its people: users 0, 1, ... who may talk, and strangers."""

    name: str
    """Begins each of its texts."""

    def __init__(self, *, idempotent: bool) -> None:
        self.book = Book(idempotent=idempotent, grows=self.grows)

    @abstractmethod
    def config(self) -> str:
        """Return its part of the configuration."""

    @abstractmethod
    def serving(self) -> AbstractAsyncContextManager[None]:
        """Be there: its server, and whatever watches it."""

    @abstractmethod
    def places_of(self, user: int) -> Sequence[str]:
        """Return the names in the book of the chats and threads that a user writes in."""

    @abstractmethod
    def key_of(self, place: str) -> str:
        """Return the session key that what is written in a place must come to."""

    def grows(self, place: str) -> bool:
        """Return whether the agent of a place is the one that takes its time."""
        return False

    @abstractmethod
    async def say(self, user: int, place: str, text: str) -> None:
        """Write to the gateway; return once the platform, or the gateway, has the message."""

    @abstractmethod
    async def say_as_stranger(self, text: str) -> None:
        """Write as somebody who may not talk, wherever such a one can write."""

    async def say_aside(self, text: str) -> None:  # noqa: B027 - for most, there are no groups
        """Write in a group as somebody who may talk, to the others there and not to the bot."""

    async def begin_life(self, daemon: Daemon) -> None:  # noqa: B027 - for most, there is nothing to do
        """Take note of a daemon that is ready."""

    async def end_life(self) -> None:  # noqa: B027 - for most, there is nothing to do
        """Take note that it is to end."""

    async def look(self) -> None:  # noqa: B027 - for most, there is nothing to do
        """Bring the book up to date, where that does not come by itself."""

    def note_dead(self, replies: list[dict[str, Any]]) -> None:  # noqa: B027 - an idempotent platform has none
        """Take note of the replies that the gateway has given up."""

    def owed(self) -> int:
        """Return how much is still to come to its people, as of the last look."""
        return self.book.owed()

    @abstractmethod
    def away(self) -> AbstractAsyncContextManager[None]:
        """Let its server be away meanwhile; by kill where it has a process of its own."""


def group_of(user: int) -> int | None:
    """Return the number of the group that a user speaks in; None: the user has a direct chat."""
    return user // _OF if user % _OF in IN_GROUPS else None


def takes_time(user: int) -> bool:
    """Return whether the agent that takes its time answers a user's direct chat."""
    return user % _OF == 0
