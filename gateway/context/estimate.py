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


def message_chars(message: Message) -> int:
    """Return how many characters of a message reach a model; none of a notice does."""
    if message.role is Role.NOTICE:
        return 0

    calls = sum(
        len(call.call_id) + len(call.name) + len(call.arguments) for call in message.tool_calls
    )
    return len(message.text) + len(message.tool_call_id) + calls


def estimate_context_chars(messages: Iterable[Message]) -> int:
    """Return the characters of a context: texts, tool calls and the ids of calls."""
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
