"""Clients of a daemon that may die at any moment: each change is in the history, before and after.

A client has sessions of its own, which nobody else changes but a prune, and one that all share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Final

import httpx2
import orjson

from gateway.sessions.key import encode_part
from tests.support.daemon import Daemon
from tests.torture.history import Attempt, History, Kind, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable


SHARED: Final = "shared"
AT_ONCE_DAYS: Final = 1e-9
"""A prune with this age drops every session that is not in use; 0 would drop none."""
_WEIGHTS: Final = {
    Kind.SAY: 82,
    Kind.RESET: 4,
    Kind.UNDO: 4,
    Kind.SUSPEND: 2,
    Kind.RESUME: 4,
    Kind.REMOVE: 2,
    Kind.ERASE: 1,
    Kind.PRUNE: 1,
}


def key_of_chat(chat: str) -> str:
    """Return the session key of a direct chat."""
    return f"agent:main:http::dm:{encode_part(chat)}::"


@dataclass(slots=True)
class Caller:
    """Asks a daemon for changes, one after the other, and notes them."""

    name: str
    history: History
    daemon: Daemon
    """Replaced after a restart."""

    async def say(self, chat: str, text: str, message_id: str = "") -> Outcome | None:
        """Send a message; None where no answer came."""
        body = {"chat_id": chat, "text": text} | ({"message_id": message_id} if message_id else {})
        attempt = self.history.attempt(
            self.name, Kind.SAY, key_of_chat(chat), text=text, message_id=message_id
        )
        return await self._ask(attempt, "POST", "/v1/messages", body)

    async def change(self, kind: Kind, chat: str) -> Outcome | None:
        """Change a session as a whole; None where no answer came."""
        attempt = self.history.attempt(self.name, kind, key_of_chat(chat))
        path = f"/v1/sessions/{attempt.key}"
        if kind is Kind.REMOVE:
            return await self._ask(attempt, "DELETE", path)
        if kind is Kind.ERASE:
            return await self._ask(attempt, "DELETE", f"{path}?erase=true")
        return await self._ask(attempt, "POST", f"{path}/{kind.value}", {})

    async def prune(self) -> Outcome | None:
        """Drop every session that is neither in use nor paused; None where no answer came."""
        attempt = self.history.attempt(self.name, Kind.PRUNE)
        return await self._ask(attempt, "POST", "/v1/prune", {"max_age_days": AT_ONCE_DAYS})

    async def _ask(
        self, attempt: Attempt, method: str, path: str, body: object = None
    ) -> Outcome | None:
        content = None if body is None else orjson.dumps(body)
        headers = {"Content-Type": "application/json"} if content else {}
        try:
            response = await self.daemon.client.request(
                method, path, content=content, headers=headers
            )
        except httpx2.TransportError:
            return None

        answer: dict[str, Any] = orjson.loads(response.content)
        return self.history.outcome(attempt, response.status_code, answer)


@dataclass(slots=True)
class Client:
    """A caller that makes up what to ask for."""

    caller: Caller
    numbers: Random
    count: int = 0
    said: list[tuple[str, str, str]] = field(default_factory=list)
    """Messages with an id that were sent: chat, text, message id."""

    async def run(self, told: Callable[[], None]) -> None:
        """Ask until no answer comes; each answer is reported."""
        while await self._one() is not None:
            told()

    async def _one(self) -> Outcome | None:
        kind = self.numbers.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        name = self.caller.name
        if kind is Kind.PRUNE:
            return await self.caller.prune()
        own = f"{name}-{self.numbers.randrange(3)}"
        if kind is not Kind.SAY:
            return await self.caller.change(kind, own)
        if self.said and self.numbers.random() < 0.15:
            # The newest most often: it is the one that a kill may have cut off.
            back = int(self.numbers.expovariate(0.7)) % len(self.said)
            return await self.caller.say(*self.said[-1 - back])
        self.count += 1
        chat = SHARED if self.numbers.random() < 0.15 else own
        text = f"{name} says {self.count}"
        if self.numbers.random() < 0.15:
            return await self.caller.say(chat, text)
        self.said.append((chat, text, f"{name}-m{self.count}"))
        return await self.caller.say(*self.said[-1])
