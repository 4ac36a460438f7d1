"""Laws of the size estimate."""

from __future__ import annotations

import pytest

from gateway import context
from gateway.context.estimate import (
    CHARS_PER_TOKEN_ESTIMATE,
    IMAGE_CHARS,
    estimate_context_chars,
    message_chars,
    tokens_of_chars,
)
from gateway.model import Image, Message, Role, ToolCall


def test_a_token_is_four_characters() -> None:
    assert CHARS_PER_TOKEN_ESTIMATE == 4


@pytest.mark.parametrize(("chars", "tokens"), [(0, 0), (1, 1), (4, 1), (5, 2), (4000, 1000)])
def test_an_estimate_is_rounded_up(chars: int, tokens: int) -> None:
    assert tokens_of_chars(chars) == tokens


def test_texts_calls_and_ids_count() -> None:
    call = ToolCall("id-1", "search", '{"q": "x"}')
    messages = [
        Message(Role.USER, "find"),
        Message(Role.ASSISTANT, "ok", tool_calls=(call, call)),
        Message(Role.TOOL, "found", tool_call_id="id-1", tool_name="not sent"),
    ]

    assert estimate_context_chars(messages) == 4 + 2 + 2 * (4 + 6 + 10) + 5 + 4


def test_an_image_counts_as_much_whatever_its_size() -> None:
    images = (Image("image/png", "x" * 9), Image("image/jpeg", "x" * 100_000))

    assert IMAGE_CHARS == 8_000
    assert message_chars(Message(Role.USER, "see", images=images)) == 3 + 2 * 8_000
    assert message_chars(Message(Role.TOOL, "", tool_call_id="id", images=images[:1])) == 8_002


def test_the_room_exports_the_estimate() -> None:
    assert context.CHARS_PER_TOKEN_ESTIMATE == CHARS_PER_TOKEN_ESTIMATE
    assert context.estimate_context_chars([Message(Role.USER, "four")]) == 4


def test_a_notice_counts_nothing() -> None:
    assert estimate_context_chars([Message(Role.NOTICE, "the session was reset")]) == 0
