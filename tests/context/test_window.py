"""Laws of what leaves a context that does not fit."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.context.counted import CountedContext
from gateway.context.summary import summary_message
from gateway.context.window import FILL, Overflow, overflow, room_chars, too_many_images
from gateway.model import Message, Role
from tests.context.conversations import CONVERSATIONS, context_of, result, says, tool_turn, user


def _turns(*sizes: int) -> list[Message]:
    """Return turns of two messages; a size is that of a turn."""
    return [
        one
        for number, size in enumerate(sizes)
        for one in (user(f"t{number}", "x"), says(f"t{number}", "x" * (size - 1)))
    ]


def test_the_room_is_what_reserve_and_the_rest_of_the_request_leave() -> None:
    assert room_chars(1_000, 100, 50) == 3_400
    assert room_chars(1_000, 100, -50) == 3_800
    assert room_chars(100, 100, 50) == -200


@pytest.mark.parametrize(
    ("sizes", "room", "turns"),
    [
        pytest.param([100, 100, 100], 300, 0, id="just-fits"),
        pytest.param([100, 100, 100], 299, 1, id="one-too-many"),
        pytest.param([100] * 8, 799, 3, id="to-three-quarters-of-the-room"),
        pytest.param([100] * 8, 667, 3, id="just-to-three-quarters"),
        pytest.param([100] * 8, 666, 4, id="just-not-to-three-quarters"),
        pytest.param([100, 10, 10, 790], 800, 3, id="the-newest-stays-where-it-fits"),
        pytest.param([100, 800], 800, 1, id="the-newest-fills-the-room"),
        pytest.param([100, 801], 800, 2, id="the-newest-does-not-fit"),
        pytest.param([4, 400, 4], 100, 2, id="no-small-old-turn-stays-behind-a-large-one"),
        pytest.param([100], 99, 1, id="all-leave"),
        pytest.param([100, 100], 0, 2, id="no-room"),
        pytest.param([100, 100], -400, 2, id="less-than-no-room"),
        pytest.param([], 0, 0, id="nothing-in-nothing"),
        pytest.param([], -400, 0, id="nothing-in-less"),
    ],
)
def test_the_oldest_turns_leave(sizes: list[int], room: int, turns: int) -> None:
    expected = Overflow(2 * turns, turns, user(f"t{turns - 1}").turn_id) if turns else None

    assert overflow(context_of(_turns(*sizes)), room) == expected


def test_answers_whose_question_is_gone_leave_with_the_turn_before_them() -> None:
    """Else a request would begin with them; behind a summary they may stay."""
    said = _turns(400, 100, 100, 100)
    del said[2]
    context = context_of(said)
    beyond = overflow(context, context.chars - 1)
    assert beyond == Overflow(3, 2, user("t1").turn_id)
    context.leave_out(beyond.messages, beyond.turns)
    assert context.messages[0].role is Role.USER

    behind = CountedContext(summary=summary_message("so far", user("t-1").turn_id))
    behind.extend(said)
    assert overflow(behind, behind.chars - 1) == Overflow(2, 1, user("t0").turn_id)


def test_a_summary_stays_in_front_of_what_leaves_behind_it() -> None:
    summary = summary_message("so far", user("t-1").turn_id)
    context = CountedContext(summary=summary, summarised_turns=5, left_out_turns=5)
    context.extend(_turns(1_000, 1_000, 1_000))
    own = context.sizes[0]

    assert overflow(context, own + 3_000) is None
    beyond = overflow(context, own + 2_999)
    assert beyond == Overflow(2, 1, user("t0").turn_id)
    context.leave_out(beyond.messages, beyond.turns)
    assert [one.turn_id for one in context.messages] == ["t-1", "t1", "t1", "t2", "t2"]
    assert overflow(context, 0) == Overflow(4, 2, user("t2").turn_id)
    context.leave_out(4, 2)
    # There is nothing more that may leave.
    assert (context.messages, overflow(context, 0)) == ([summary], None)
    assert (context.left_out_turns, context.summarised_turns) == (8, 5)


def test_turns_leave_whose_images_are_too_large_to_be_held() -> None:
    said = [one for turn in "abcdefgh" for one in (user(turn), result(turn, "x", images=2))]
    context = context_of(said)
    one = context.image_chars // 8

    assert too_many_images(context, 8 * one) is None
    # To three quarters: five of seven.
    assert too_many_images(context, 7 * one) == Overflow(6, 3, user("c").turn_id)
    assert too_many_images(context, one) == Overflow(14, 7, user("g").turn_id)
    assert too_many_images(context, one - 1) == Overflow(16, 8, user("h").turn_id)
    assert too_many_images(context_of([]), 0) is None


def test_calls_and_results_leave_with_their_turn() -> None:
    context = context_of([*tool_turn("t0", 10, 10), *tool_turn("t1", 10, 300)])

    assert overflow(context, context.chars - 1) == Overflow(6, 1, user("t0").turn_id)


def test_after_turns_have_left_several_more_fit_before_the_next_leave() -> None:
    context = context_of(_turns(*[100] * 20))
    left = []
    for number in range(20, 60):
        beyond = overflow(context, 2_000)
        left.append(0 if beyond is None else beyond.turns)
        if beyond is not None:
            context.leave_out(beyond.messages, beyond.turns)
        turn = f"t{number}"
        context.extend([user(turn, "x"), says(turn, "x" * 99)])

    # 15 turns are three quarters of the room; with the 21st they are one too many.
    assert left == [0] + ([6] + [0] * 5) * 6 + [6, 0, 0]
    assert context.left_out_turns == sum(left)


@given(CONVERSATIONS, st.integers(-10, 3_000))
def test_whole_turns_leave_so_that_the_rest_fits_and_no_more_than_three_quarters_stay(
    messages: list[Message], room: int
) -> None:
    context = context_of(messages)
    turns = [list(group) for _, group in groupby(context.messages, key=lambda one: one.turn_id)]
    beyond = overflow(context, room)
    if beyond is None:
        assert context.chars <= room or not context.messages
        return

    assert context.chars > room
    gone, stay = turns[: beyond.turns], turns[beyond.turns :]
    assert beyond.messages == sum(map(len, gone))
    assert beyond.last_turn == gone[-1][0].turn_id
    context.leave_out(beyond.messages, beyond.turns)
    assert context.messages == [one for turn in stay for one in turn]
    assert context.chars <= (room if len(stay) == 1 else max(0, FILL * room))
    # One turn less would have been too few.
    assert context_of([*gone[-1], *context.messages]).chars > (FILL * room if stay else room)
    assert {one.role for one in context.messages[:1]} <= {Role.USER}
