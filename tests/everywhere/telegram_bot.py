"""One bot's side of Telegram in the trial: it asks for pauses at times, and tells what it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import httpx2
import orjson
from typing_extensions import override

from gateway.clock import SystemClock
from tests.support.telegram_api import BOT_NAME, Failure, Posted, TelegramServer, message, user

if TYPE_CHECKING:
    from tests.everywhere.book import Book
    from tests.support.daemon import Daemon

PAUSE_S: Final = 1
"""How long a chat is to be left alone that was written to too fast."""
DEAF_EVERY: Final = 7
"""Each so many calls of the webhook, what is answered is lost on the way back."""
HASTE: Final = 5
"""So much faster than Telegram a call is repeated: after 1 s there, then 2 s, 4 s, ..."""
LONGEST_S: Final = 60.0
SENDS: Final = frozenset({"sendMessage", "editMessageText"})
UNREACHED: Final = 502
NO_ANSWER: Final = 504


class Bot(TelegramServer):
    """The Bot API of one account, which is called through a front or asks for itself."""

    def __init__(self, account: str, token: str, book: Book, *, busy_every: int) -> None:
        """Take the account; each `busy_every` of its messages and edits is put off."""
        super().__init__(token)
        self.account = account
        self._book = book
        self._busy_every = busy_every
        self._clock = SystemClock()
        self._numbers: dict[int, int] = {}
        """By chat, the number of its last message."""
        self._asked = 0
        self._free_at: dict[str, float] = {}
        """By place, when it may be written to again, monotonic."""
        self.pauses = 0
        """How often a pause was asked for."""
        self._front: httpx2.AsyncClient | None = None
        self.calls = 0
        self.unproven: list[int] = []
        """What was answered to calls with another secret."""
        self.call = self._call

    def place(self, chat: int | str, topic: int | str = "") -> str:
        """Return the name of a chat, or of a topic in it, in the book."""
        return f"{self.account}/{chat}" + (f"/{topic}" if topic else "")

    def write(
        self, sender: int, place: str, text: str, *, named: bool = True, taken: bool = True
    ) -> None:
        """Have somebody write; in groups the bot is named behind the text.

        Args:
            sender: Who.
            place: Where.
            text: What.
            named: Whether the bot is named in a group.
            taken: Whether it has to be answered.
        """
        update = self._update(sender, place, text, named=named)
        name = message_name(self.account, update["chat"]["id"], update["message_id"])
        note = self._book.accept if taken else self._book.refuse
        note(place, name, update["text"], self._clock.now())
        self.push(message=update)

    async def call_unproven(self, sender: int, place: str, text: str) -> None:
        """Call the webhook in somebody's name, with no secret and with another one."""
        update = {"update_id": self.next_id(), "message": self._update(sender, place, text)}
        for headers in ({}, {"x-telegram-bot-api-secret-token": "guessed"}):
            status = await self._post(headers, orjson.dumps(update))
            if status != UNREACHED:
                self.unproven.append(status)

    def _update(self, sender: int, place: str, text: str, *, named: bool = True) -> dict[str, Any]:
        _, at, topic = (*place.split("/"), "")[:3]
        chat = int(at)
        number = self._numbers[chat] = self._numbers.get(chat, 0) + 1
        if chat > 0:
            private = {"id": chat, "type": "private", "first_name": "A"}
            return message(text, number, sender=user(sender), chat=private)

        more: dict[str, object] = {"chat": {"id": chat, "type": "supergroup", "title": "G"}}
        if topic:
            more |= {"message_thread_id": int(topic), "is_topic_message": True}
        if not named:
            return message(text, number, sender=user(sender), **more)

        entity = {"type": "mention", "offset": len(text) + 1, "length": len(BOT_NAME) + 1}
        return message(
            f"{text} @{BOT_NAME}", number, sender=user(sender), entities=[entity], **more
        )

    # -- what the gateway asks for ---------------------------------------------------------------

    @override
    def failure_of(self, method: str) -> Failure:
        fields = self.asked[-1][1]
        if method not in SENDS or fields.get("disable_notification") == "true":
            return super().failure_of(method)

        place, now = self._place_of(fields), self._clock.monotonic()
        left_s = self._free_at.get(place, 0.0) - now
        if left_s > 0:
            self._book.faults.append(
                f"{place}: {method} {fields['text']!r} came {left_s:.3f} s before the end of a "
                f"pause of {PAUSE_S} s that was asked for"
            )
        self._asked += 1
        if self._asked % self._busy_every:
            return super().failure_of(method)

        self.pauses += 1
        self._free_at[place] = now + PAUSE_S
        why = f"Too Many Requests: retry after {PAUSE_S}"
        return Failure(429, why, {"retry_after": PAUSE_S})

    def _place_of(self, fields: dict[str, str]) -> str:
        """Return where a message is to be shown or edited; an edit does not name its topic."""
        edited = fields.get("message_id", "")
        topics = [
            one.topic
            for one in self.posted
            if (one.chat, str(one.message_id)) == (fields["chat_id"], edited)
        ]
        return self.place(fields["chat_id"], *(topics or [fields.get("message_thread_id", "")]))

    @override
    def on_posted(self, posted: Posted) -> None:
        place = self.place(posted.chat, posted.topic)
        if posted.fields.get("disable_notification") == "true":
            self._book.told.append((place, posted.text))
            return

        reply = orjson.loads(posted.fields.get("reply_parameters", "{}"))
        answers = message_name(self.account, posted.chat, reply.get("message_id", ""))
        shown = message_name(self.account, posted.chat, posted.message_id)
        self._book.show(place, shown, answers, posted.text, self._clock.now())

    @override
    def on_edited(self, posted: Posted) -> None:
        shown = message_name(self.account, posted.chat, posted.message_id)
        self._book.edit(shown, posted.text)

    # -- the webhook -----------------------------------------------------------------------------

    def begin_life(self, daemon: Daemon) -> None:
        """Have the front lead to a daemon."""
        self._front = httpx2.AsyncClient(
            base_url=str(daemon.client.base_url), timeout=30, trust_env=False
        )

    async def end_life(self) -> None:
        """Have the front lead nowhere."""
        front, self._front = self._front, None
        if front is not None:
            await front.aclose()

    @override
    def recall_s(self, failures: int) -> float:
        return min(LONGEST_S, float(2 ** (failures - 1))) / HASTE

    async def _call(self, headers: dict[str, str], body: bytes) -> int:
        self.calls += 1
        status = await self._post(headers, body)
        return status if self.calls % DEAF_EVERY else NO_ANSWER

    async def _post(self, headers: dict[str, str], body: bytes) -> int:
        if self._front is None:
            return UNREACHED

        headers = {"content-type": "application/json", **headers}
        try:
            path = f"/hooks/{self.account}"
            return (await self._front.post(path, content=body, headers=headers)).status_code
        except (httpx2.TransportError, RuntimeError):
            return UNREACHED


def message_name(account: str, chat: object, number: object) -> str:
    """Return the name of a message in the book."""
    return f"{account}/{chat}#{number}"
