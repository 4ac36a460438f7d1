"""Laws of what is left out where a session does not fit."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gateway.context.estimate import estimate_context_chars
from gateway.context.window import FittedContext, fit_window
from gateway.model import Message, Role, ToolCall, TurnId


def _turn(number: int, *sizes: int) -> list[Message]:
    """Return a turn: a user message, a call, its result, a notice, an answer; one for each size."""
    turn_id = TurnId(f"t{number}")
    call = ToolCall("", "", "")
    shapes = [
        Message(Role.USER, "", turn_id=turn_id),
        Message(Role.ASSISTANT, "", tool_calls=(call,), turn_id=turn_id),
        Message(Role.TOOL, "", turn_id=turn_id),
        Message(Role.NOTICE, "", turn_id=turn_id),
        Message(Role.ASSISTANT, "", turn_id=turn_id),
    ]
    return [
        Message(shape.role, "x" * size, shape.tool_calls, turn_id=turn_id)
        for shape, size in zip(shapes, sizes, strict=False)
    ]


def _fit(messages: list[Message], tokens: int, *, overhead_chars: int = 0) -> FittedContext:
    return fit_window(
        messages, window_tokens=tokens + 10, reserve_tokens=10, overhead_chars=overhead_chars
    )


def test_what_fits_stays_whole() -> None:
    messages = _turn(1, 40) + _turn(2, 40)

    assert _fit(messages, 20) == FittedContext(tuple(messages), 80, 0, fits=True)


def test_the_oldest_turn_goes_first() -> None:
    messages = _turn(1, 40) + _turn(2, 40)

    assert _fit(messages, 19) == FittedContext(tuple(messages[1:]), 40, 1, fits=True)


def test_overhead_takes_room() -> None:
    messages = _turn(1, 40) + _turn(2, 40)

    assert _fit(messages, 20, overhead_chars=1) == FittedContext(
        tuple(messages[1:]), 41, 1, fits=True
    )


def test_a_small_old_turn_does_not_stay_behind_a_large_one() -> None:
    messages = _turn(1, 4) + _turn(2, 400) + _turn(3, 4)

    assert _fit(messages, 10).messages == tuple(_turn(3, 4))


def test_a_last_turn_that_is_too_large_is_returned_alone_and_does_not_fit() -> None:
    messages = _turn(1, 4) + _turn(2, 400)

    assert _fit(messages, 99) == FittedContext(tuple(messages[1:]), 400, 1, fits=False)
    assert _fit(messages, 100) == FittedContext(tuple(messages[1:]), 400, 1, fits=True)


def test_notices_are_not_sent_and_take_no_room() -> None:
    notice = Message(Role.NOTICE, "x" * 1000, turn_id=TurnId("t0"))
    messages = [notice, *_turn(1, 4), notice]

    assert _fit(messages, 1) == FittedContext(tuple(_turn(1, 4)), 4, 0, fits=True)


def test_a_message_of_no_turn_stays_and_takes_room() -> None:
    prompt = Message(Role.SYSTEM, "x" * 4)
    messages = [prompt, *_turn(1, 4), *_turn(2, 4)]

    assert _fit(messages, 2) == FittedContext((prompt, *_turn(2, 4)), 8, 1, fits=True)


def test_nothing_fits_in_nothing() -> None:
    assert _fit([], 0) == FittedContext((), 0, 0, fits=True)
    assert not _fit([], 0, overhead_chars=1).fits


_SIZES = st.lists(st.integers(0, 60), min_size=1, max_size=5)
_TURNS = st.lists(_SIZES, max_size=12).map(
    lambda turns: [_turn(number, *sizes) for number, sizes in enumerate(turns)]
)


@given(_TURNS, st.integers(0, 300), st.integers(0, 100))
def test_the_newest_turns_that_fit_stay_whole_and_no_fewer(
    turns: list[list[Message]], tokens: int, overhead_chars: int
) -> None:
    fitted = _fit(
        [message for turn in turns for message in turn], tokens, overhead_chars=overhead_chars
    )

    kept = turns[fitted.turns_left_out :]
    sent = [message for turn in kept for message in turn if message.role is not Role.NOTICE]
    assert fitted.messages == tuple(sent)
    assert fitted.chars == overhead_chars + estimate_context_chars(sent)
    assert fitted.fits == (fitted.chars <= tokens * 4)
    assert fitted.fits or len(kept) <= 1
    assert len(kept) >= min(1, len(turns))
    if fitted.turns_left_out:
        one_more = turns[fitted.turns_left_out - 1]
        chars = overhead_chars + estimate_context_chars(sent) + estimate_context_chars(one_more)
        assert chars > tokens * 4


@given(_TURNS, st.integers(0, 300))
def test_a_call_and_its_result_stay_or_go_together(turns: list[list[Message]], tokens: int) -> None:
    fitted = _fit([message for turn in turns for message in turn], tokens)

    for before, after in pairwise([Message(Role.USER, ""), *fitted.messages]):
        if after.role is Role.TOOL:
            assert before.tool_calls
            assert before.turn_id == after.turn_id


@given(_TURNS, st.integers(0, 300), st.integers(0, 100))
def test_a_known_size_changes_nothing(
    turns: list[list[Message]], tokens: int, overhead_chars: int
) -> None:
    messages = [one for turn in turns for one in turn if one.role is not Role.NOTICE]

    assert fit_window(
        messages,
        window_tokens=tokens,
        reserve_tokens=0,
        overhead_chars=overhead_chars,
        chars=estimate_context_chars(messages),
    ) == fit_window(messages, window_tokens=tokens, reserve_tokens=0, overhead_chars=overhead_chars)
