"""What was accepted and what was shown, and the laws that hold of both: pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.delivery.planning import REPEAT

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_TIMES: Final = 2
"""How often one answer may be shown where nobody can know: once more, marked."""
WAITS: Final = " answered first; yours is kept and comes next."


@dataclass
class Book:
    """One platform's chats; the agent answers each text with itself, and no text comes twice."""

    idempotent: bool
    """Whether the platform shows what is sent twice only once."""
    accepted: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """By chat, what the gateway has to answer, in the order in which the platform took it."""
    shown: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """By chat, what people see of the gateway, in its order."""
    strangers: set[str] = field(default_factory=set)
    """Chats of people who may not talk."""
    notices: int = 0
    """How often people were told that their message waits for its turn."""

    def show(self, chat: str, text: str) -> None:
        """Take note of what people see."""
        if chat not in self.strangers and text.endswith(WAITS):
            self.notices += 1
        else:
            self.shown[chat].append(text)

    def owed(self) -> int:
        """Return how many answers are still to come."""
        return sum(
            len(set(texts) - {text.removeprefix(REPEAT) for text in self.shown[chat]})
            for chat, texts in self.accepted.items()
            if chat not in self.strangers
        )

    def repeats(self) -> int:
        """Return how many answers were shown marked as what may be a repeat."""
        return sum(text.startswith(REPEAT) for texts in self.shown.values() for text in texts)

    def violations(self) -> Iterator[str]:
        """Yield what is not as it must be, once nothing is owed any more."""
        for chat in sorted(self.accepted.keys() | self.shown.keys()):
            shown = self.shown[chat]
            if chat in self.strangers:
                if shown:
                    yield f"{chat}: a stranger was shown {shown}"
                continue

            if self.idempotent and any(text.startswith(REPEAT) for text in shown):
                yield f"{chat}: marked as a repeat where none can be: {shown}"
            plain = [text for text in shown if not text.startswith(REPEAT)]
            twice = [text for text, count in Counter(plain).items() if count > 1]
            if twice:
                yield f"{chat}: shown twice, unmarked: {twice}"
            often = Counter(text.removeprefix(REPEAT) for text in shown)
            if any(count > MOST_TIMES for count in often.values()):
                yield f"{chat}: shown more than twice: {often}"
            answers = list(dict.fromkeys(text.removeprefix(REPEAT) for text in shown))
            if answers != self.accepted[chat]:
                yield f"{chat}: accepted {self.accepted[chat]}, answered {answers}"
