"""The windows of well-known models, for agents whose table does not give one, and their reserves.

Names are patterns; the first that matches counts. Where a provider limits input and answer apart,
it is the input's limit. An endpoint of your own may be run with less: then its table says so.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Final

WINDOWS: Final[tuple[tuple[str, int], ...]] = (
    ("claude-*", 200_000),
    ("gpt-5-chat*", 128_000),
    ("gpt-5*", 272_000),
    ("gpt-4.1*", 1_047_576),
    ("gpt-4o*", 128_000),
    ("gpt-4-turbo*", 128_000),
    ("gpt-4-1106*", 128_000),
    ("gpt-4-0125*", 128_000),
    ("gpt-4*", 8_192),
    ("gpt-3.5-turbo*", 16_384),
    ("o1-mini*", 128_000),
    ("o1-preview*", 128_000),
    ("o[134]*", 200_000),
    ("gemini-*", 1_048_576),
    ("deepseek-*", 128_000),
    ("mistral-large*", 128_000),
)
"""Patterns of model names, each with the window in tokens."""

USUAL_RESERVE_TOKENS: Final = 16_384
"""How much of a window is kept free for the answer, where it is large enough."""


def window_of(model: str, otherwise: int) -> int:
    """Return the window of a model in tokens; `otherwise` where it is not known.

    A provider's prefix, as routers have it (`anthropic/claude-...`), is not part of the name.
    """
    name = model.rpartition("/")[2].lower()
    return next((size for pattern, size in WINDOWS if fnmatchcase(name, pattern)), otherwise)


def reserve_of(window_tokens: int) -> int:
    """Return how much of a window is kept free for the answer, in tokens, where no table says it.

    At most a quarter, so that a small window keeps room for a conversation.
    """
    return min(USUAL_RESERVE_TOKENS, window_tokens // 4)
