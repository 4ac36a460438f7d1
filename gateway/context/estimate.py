"""How large a context is, estimated from its characters.

An estimate serves where no provider has counted yet. It knows no tokenizer: texts in scripts that
take a token for nearly every character are underestimated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.model import Role

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.model import Message

CHARS_PER_TOKEN_ESTIMATE: Final = 4
"""Characters a token is taken to have: what English prose and code come to on the average."""
IMAGE_CHARS: Final = 8_000
"""Characters an image is taken for, whatever its size: providers count 1,000 to 2,000 tokens."""


def message_chars(message: Message) -> int:
    """Return how many characters of a message reach a model; none of a notice does."""
    if message.role is Role.NOTICE:
        return 0

    chars = len(message.text) + len(message.tool_call_id)
    if message.tool_calls:
        for call in message.tool_calls:
            chars += len(call.call_id) + len(call.name) + len(call.arguments)
    if message.images:
        chars += IMAGE_CHARS * len(message.images)
    return chars


def estimate_context_chars(messages: Iterable[Message]) -> int:
    """Return the characters of a context: texts, tool calls and ids of calls, images as a sum."""
    return sum(map(message_chars, messages))


def estimate_context_tokens(messages: Iterable[Message], overhead_chars: int = 0) -> int:
    """Estimate the size of a request, rounded up.

    Args:
        messages: The context; notices count nothing.
        overhead_chars: What the request carries beside the messages, such as a system prompt.
    """
    return tokens_of_chars(estimate_context_chars(messages) + overhead_chars)


def tokens_of_chars(chars: int) -> int:
    """Return the tokens a number of characters is taken for, rounded up."""
    return -(-chars // CHARS_PER_TOKEN_ESTIMATE)
