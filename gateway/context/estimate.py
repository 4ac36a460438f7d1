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
"""Characters an image is taken for, whatever its size: providers count 1,000 to 2,000 tokens.

So does one of a tool result, although some wires send a marker in its place: a context is counted
once, whoever is asked, and which wire that is changes. Where images are not sent the provider
counts less, which the account of the session takes for its rate; until then the context is taken
for larger than it is, so that no window overflows for it."""


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


def tokens_of_chars(chars: int) -> int:
    """Return the tokens a number of characters is taken for, rounded up."""
    return -(-chars // CHARS_PER_TOKEN_ESTIMATE)
