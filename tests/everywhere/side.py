"""One kind of client of the trial: its people, its server if it has one, and what they saw."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from tests.everywhere.book import Book

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from tests.support.daemon import Daemon


class Side(ABC):
    """A platform, with its people: users 0, 1, ... who may talk, and strangers."""

    name: str
    """Begins each of its texts."""

    def __init__(self, *, idempotent: bool) -> None:
        self.book = Book(idempotent=idempotent)

    @abstractmethod
    def config(self) -> str:
        """Return its part of the configuration."""

    @abstractmethod
    def serving(self) -> AbstractAsyncContextManager[None]:
        """Be there: its server, and whatever watches it."""

    @abstractmethod
    def chat_of(self, user: int) -> str:
        """Return the name of a user's chat in the book."""

    @abstractmethod
    def key_of(self, user: int) -> str:
        """Return the session key that the user's messages must come to."""

    @abstractmethod
    async def say(self, user: int, text: str) -> None:
        """Write to the gateway; return once the platform, or the gateway, has the message."""

    @abstractmethod
    async def say_as_stranger(self, text: str) -> None:
        """Write as somebody who may not talk."""

    async def begin_life(self, daemon: Daemon) -> None:  # noqa: B027 - for most, there is nothing to do
        """Take note of a daemon that is ready."""

    async def end_life(self) -> None:  # noqa: B027 - for most, there is nothing to do
        """Take note that it is to end."""

    async def look(self) -> None:  # noqa: B027 - for most, there is nothing to do
        """Bring the book up to date, where that does not come by itself."""

    def owed(self) -> int:
        """Return how much is still to come to its people, as of the last look."""
        return self.book.owed()

    @abstractmethod
    def away(self) -> AbstractAsyncContextManager[None]:
        """Let its server be away meanwhile; by kill where it has a process of its own."""
