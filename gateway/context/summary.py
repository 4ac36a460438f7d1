"""A summary that takes the place of the oldest turns: what it replaces, how it stands in a context.

One that is empty or too long is refused, and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gateway.context.settings import CompactionSettings
from gateway.model import Message, Role, TurnId, clean_text

_BEFORE: Final = (
    "[Summary of the earlier conversation. The gateway put it here in place of messages that are "
    "too old to be sent; the user has not just said this.]\n\n"
)
_AFTER: Final = "\n\n[End of the summary. The conversation goes on from here.]"
FRAME_CHARS: Final = len(_BEFORE) + len(_AFTER)
"""What a summary takes beside its own text."""


@dataclass(frozen=True, slots=True)
class CompactionPlan:
    """The turns that a summary takes the place of; nothing is done yet."""

    messages: int
    """How many messages these are, from the first on; a summary in front is not counted."""
    turns: int
    """0 where the summary in front is made shorter alone."""
    last_turn: TurnId
    """The newest turn that the new summary covers."""
    replaced_chars: int
    """What leaves the context, the summary before included."""
    settings: CompactionSettings
    """What to ask for and to check by: the summary is shorter where the room is small."""


def summary_message(text: str, turn_id: TurnId) -> Message:
    """Return what stands in a context in place of turns.

    Args:
        text: The summary.
        turn_id: The newest turn that it covers.
    """
    return Message(Role.USER, f"{_BEFORE}{text}{_AFTER}", turn_id=turn_id)


def check_summary(text: str, replaced_chars: int, settings: CompactionSettings) -> str:
    """Return a summary as it is kept.

    Args:
        text: What the agent answered.
        replaced_chars: The characters that leave for it.
        settings: How long it may be.

    Raises:
        ValueError: It cannot be used; the message is a predicate, such as `is empty`.
    """
    clean = clean_text(text).strip()
    if not clean:
        raise ValueError("is empty")

    if len(clean) > settings.summary_chars:
        raise ValueError(
            f"has {len(clean)} characters, accepted are at most {settings.summary_chars}"
        )

    if len(clean) + FRAME_CHARS >= replaced_chars:
        raise ValueError(
            f"has {len(clean) + FRAME_CHARS} characters with its frame, accepted are fewer than "
            f"the {replaced_chars} that it replaces"
        )

    return clean
