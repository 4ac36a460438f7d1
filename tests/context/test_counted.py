"""Laws of a context that is kept from turn to turn: it is what counting all of it anew gives."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.context.counted import SILENT, CountedContext
from gateway.context.estimate import estimate_context_chars, message_chars
from gateway.context.projection import project, tool_item
from gateway.context.settings import CompactionSettings
from gateway.context.summary import CompactionPlan, summary_message
from gateway.model import Message, Projection, ProjectionMode, Role, TurnId
from tests.context.conversations import (
    CONVERSATIONS,
    PICTURE,
    calls,
    context_of,
    facts,
    notice,
    plan,
    pruning,
    result,
    says,
    sent_of,
    talk,
    tool_turn,
    user,
)

if TYPE_CHECKING:
    from random import Random


def _made(item: str, mode: ProjectionMode) -> dict[str, Projection]:
    if mode is ProjectionMode.CLEAR:
        return {item: Projection(item, mode, placeholder="[gone]")}
    return {item: Projection(item, mode, max_chars=20, head_chars=5, tail_chars=5)}


@given(CONVERSATIONS, st.randoms(use_true_random=False))
def test_a_context_counted_in_pieces_is_the_one_counted_at_once(
    messages: list[Message], chance: Random
) -> None:
    pieces = CountedContext()
    rest = list(messages)
    while rest:
        size = chance.randint(0, 5)
        pieces.extend(rest[:size])
        del rest[:size]

    assert facts(pieces) == facts(context_of(messages))


@given(CONVERSATIONS)
def test_places_and_sizes_are_those_of_what_is_sent(messages: list[Message]) -> None:
    context = context_of(messages)
    sent = sent_of(messages)
    places = {role: [place for place, one in enumerate(sent) if one.role is role] for role in Role}

    assert context.messages == sent
    assert context.sizes == [message_chars(one) for one in sent]
    assert context.chars == estimate_context_chars(sent)
    assert context.assistants == places[Role.ASSISTANT]
    assert context.results == context.untrimmed == places[Role.TOOL]
    assert context.first_user == next(iter(places[Role.USER]), None)


@given(CONVERSATIONS, st.integers(0, 400), st.booleans())
def test_a_context_after_rounds_is_the_one_built_with_their_projections(
    messages: list[Message],
    window: int,
    enabled: bool,  # noqa: FBT001 - drawn
) -> None:
    context = context_of(messages)
    settings = pruning(
        soft_trim={"max_chars": 100, "head_chars": 10, "tail_chars": 10},
        hard_clear={"enabled": enabled, "placeholder": "[gone]"},
        hard_clear_ratio=0.5,
    )
    made: dict[str, Projection] = {}
    for share in (4, 2, 1):
        done = plan(context, settings, window=max(1, window * share))
        done.apply(context)
        made |= {change.projection.item: change.projection for change in done.changes}

    assert facts(context) == facts(context_of(messages, made))
    assert context.sizes == [message_chars(one) for one in context.messages]
    assert context.chars == sum(context.sizes)


@given(CONVERSATIONS, st.integers(0, 8), st.integers(0, 300))
def test_leaving_turns_out_keeps_every_count_and_projection_right(
    messages: list[Message], turns: int, window: int
) -> None:
    context = context_of(messages)
    done = plan(context, window=max(1, window))
    done.apply(context)
    made = {change.projection.item: change.projection for change in done.changes}
    places = {change.projection.item: change.place for change in done.changes}
    groups = [list(group) for _, group in groupby(messages, key=lambda one: one.turn_id)]
    gone, stays = groups[:turns], groups[turns:]
    left = sum(one.turn_id in {turn[0].turn_id for turn in gone} for one in context.messages)

    dropped = context.leave_out(left, len(gone))

    assert sorted(dropped) == sorted(item for item, place in places.items() if place < left)
    assert context.dropped == dropped
    answers = [one for turn in gone for one in turn if one.role is Role.ASSISTANT]
    anew = CountedContext(
        made, left_out_turns=len(gone), after_answer=answers[-1] if answers else None
    )
    anew.extend(one for turn in stays for one in turn)
    assert facts(context) == facts(anew)
    # And it goes on as the other does.
    for one in (context, anew):
        one.extend([says("t9", SILENT), *tool_turn("t9", 300)])
        plan(one).apply(one)
    assert facts(context) == facts(anew)


def test_leaving_out_keeps_what_was_made_of_results_that_are_not_added_yet() -> None:
    early, late = (tool_item(TurnId(turn), "c0", 0) for turn in ("t0", "t1"))
    made = _made(early, ProjectionMode.CLEAR) | _made(late, ProjectionMode.CLEAR)
    context = context_of(tool_turn("t0", 100), made)
    context.leave_out(4, 1)
    context.extend(tool_turn("t1", 100))

    assert [one.text for one in context.messages if one.role is Role.TOOL] == ["[gone]"]


@given(CONVERSATIONS, st.integers(1, 8), st.integers(0, 300), st.booleans(), st.data())
def test_a_context_with_a_summary_is_the_one_built_with_it(
    messages: list[Message],
    turns: int,
    window: int,
    earlier: bool,  # noqa: FBT001 - drawn
    data: st.DataObject,
) -> None:
    """Whether it had a summary before or not, and pruned before and after as well."""
    before = summary_message("old", TurnId("t-1")) if earlier else None
    context = CountedContext(summary=before, summarised_turns=2 * earlier, left_out_turns=3)
    context.extend(messages)
    done = plan(context, window=max(1, window))
    done.apply(context)
    made = {change.projection.item: change.projection for change in done.changes}
    groups = [list(group) for _, group in groupby(messages, key=lambda one: one.turn_id)]
    gone, stays = groups[:turns], groups[turns:]
    if not gone:
        return

    ids = {turn[0].turn_id for turn in gone}
    count = sum(one.turn_id in ids for one in context.messages[context.begins :])
    settings = CompactionSettings()
    whole = CompactionPlan(count, len(gone), gone[-1][0].turn_id, 10_000, settings)
    context.summarise(whole, "new")

    answers = [one for turn in gone for one in turn if one.role is Role.ASSISTANT]
    anew = CountedContext(
        made,
        left_out_turns=3 + len(gone),
        after_answer=answers[-1] if answers else None,
        summary=summary_message("new", whole.last_turn),
        summarised_turns=2 * earlier + len(gone),
    )
    anew.extend(one for turn in stays for one in turn)
    assert facts(context) == facts(anew)
    more = data.draw(st.integers(0, 3))
    for one in (context, anew):
        one.leave_out(sum(m.turn_id == f"t{turns}" for m in one.messages[1:]), 1)
        one.extend([says("t9", SILENT), *tool_turn("t9", *[300] * more)])
        plan(one).apply(one)
        assert one.messages[0] == one.summary
        assert one.sizes == [message_chars(message) for message in one.messages]
        assert one.chars == sum(one.sizes)
    assert facts(context) == facts(anew)


def test_results_right_after_a_summary_may_be_pruned_and_those_before_any_user_may_not() -> None:
    rest = [calls("t1", "c"), result("t1", "x" * 500), says("t1")]
    summed = CountedContext(summary=summary_message("so far", TurnId("t0")), summarised_turns=1)
    bare = CountedContext()
    for context in (summed, bare):
        context.extend(rest)
        plan(context).apply(context)

    assert [one.text for one in summed.messages if one.role is Role.TOOL] != ["x" * 500]
    assert [one.text for one in bare.messages if one.role is Role.TOOL] == ["x" * 500]
    assert (summed.first_user, bare.first_user) == (0, None)


def test_a_turn_that_is_never_sent_is_forgotten_with_the_turns_around_it() -> None:
    skips = {f"t{number}": Projection(f"t{number}", ProjectionMode.SKIP) for number in (0, 2, 4)}
    said = [one for number in range(6) for one in (user(f"t{number}"), notice(f"t{number}"))]
    context = context_of(said, skips)
    assert [one.turn_id for one in context.messages] == ["t1", "t3", "t5"]

    assert context.leave_out(2, 2) == ["t0", "t2"]
    assert context.left_out_turns == 5
    # The last of them stands behind the turns that left: it would be read again.
    assert context.leave_out(1, 1) == ["t4"]


def test_images_are_weighed_as_long_as_they_are_there() -> None:
    size = len(PICTURE.data)
    said = [user("t0"), result("t0", "a", call_id="a", images=3), *tool_turn("t1", 5)]
    context = context_of([*said, result("t1", "b" * 300, call_id="b", images=2)])
    assert context.image_chars == 5 * size

    plan(context, pruning(keep_last_assistants=1)).apply(context)
    assert context.image_chars == 2 * size
    context.leave_out(len(context.messages), 2)
    assert (context.image_chars, context.chars) == (0, 0)


@pytest.mark.parametrize(
    ("answers", "sent"),
    [
        pytest.param([SILENT], [SILENT], id="one-stays"),
        pytest.param([SILENT, SILENT, SILENT], [SILENT], id="of-many-the-first-stays"),
        pytest.param([SILENT, "hi", SILENT], [SILENT, "hi", SILENT], id="an-answer-between"),
        pytest.param(["hi", SILENT, f" {SILENT}\n"], ["hi", SILENT], id="space-around"),
        pytest.param([SILENT, f"{SILENT}!"], [SILENT, f"{SILENT}!"], id="more-is-an-answer"),
        pytest.param(["", ""], ["", ""], id="empty-is-not-silent"),
    ],
)
def test_of_silent_answers_in_a_row_the_first_is_sent(answers: list[str], sent: list[str]) -> None:
    context = CountedContext()
    for number, text in enumerate(answers):
        context.extend([user(f"t{number}"), notice(f"t{number}"), says(f"t{number}", text)])

    assert [one.text for one in context.messages if one.role is Role.ASSISTANT] == sent
    assert len([one for one in context.messages if one.role is Role.USER]) == len(answers)
    assert len(context.assistants) == len(sent)


def test_a_call_of_a_tool_is_never_silent() -> None:
    call = Message(Role.ASSISTANT, SILENT, calls("t", "c").tool_calls, turn_id=TurnId("t"))
    said = [user("t"), says("t", SILENT), call, result("t", "found"), says("t", SILENT)]

    assert context_of(said).messages == said


def test_a_silent_answer_after_turns_left_out_is_measured_by_their_last_answer() -> None:
    for before, sent in ((says("t", SILENT), 0), (says("t", "hi"), 1), (None, 1)):
        context = CountedContext(after_answer=before, left_out_turns=3)
        context.extend([user("t1"), says("t1", SILENT)])

        assert (len(context.assistants), context.left_out_turns) == (sent, 3)


@pytest.mark.parametrize("mode", [ProjectionMode.TRIM, ProjectionMode.CLEAR])
def test_each_of_several_results_to_one_call_has_its_own_projection(mode: ProjectionMode) -> None:
    texts = ["a" * 200, "b" * 200, "c" * 200]
    said = [user("t"), *(result("t", text, call_id="same") for text in texts)]
    made = _made(tool_item(TurnId("t"), "same", 1), mode)
    context = context_of(said, made)

    second = project(said[2], next(iter(made.values())))
    assert context.messages == [said[0], said[1], second, said[3]]
    assert context.untrimmed == [1, 3]
    assert context.results == ([1, 3] if mode is ProjectionMode.CLEAR else [1, 2, 3])


def test_the_same_call_id_in_another_turn_is_another_result() -> None:
    made = _made(tool_item(TurnId("t1"), "c0", 0), ProjectionMode.CLEAR)
    context = context_of(talk(3, 100), made)

    assert [one.text for one in context.messages if one.role is Role.TOOL] == [
        "0" * 100,
        "[gone]",
        "0" * 100,
    ]


def test_a_result_added_after_a_round_may_have_the_call_id_of_one_before_it() -> None:
    context = context_of([user("t"), result("t", "a" * 200)])
    plan(context).apply(context)
    context.extend([result("t", "b" * 200)])

    assert [one.text for one in context.messages[1:]] == [
        "[Old tool result content cleared]",
        "b" * 200,
    ]
