"""Laws of a turn that alone fills the window: what its tools returned is cut, and stays so."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.context.estimate import estimate_context_chars, message_chars
from gateway.context.live import shown, shrink
from gateway.context.projection import NOTE_CHARS, project, tool_item
from gateway.context.settings import HardClearSettings, PruningSettings
from gateway.model import Message, Projection, ProjectionMode, Role, ToolCall, TurnId
from tests.context.conversations import RESULT_TEXTS, calls, context_of, result, says, user

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TURN: Final = "t1"
SETTINGS: Final = PruningSettings(hard_clear=HardClearSettings(placeholder="[gone]"))
NOTHING: Final[dict[str, Projection]] = {}
_RESULT: Final = st.tuples(
    RESULT_TEXTS, st.sampled_from(["c", "c#2", "0/c", ""]), st.integers(0, 1)
)
STEPS: Final = st.lists(st.lists(_RESULT, min_size=1, max_size=4), min_size=1, max_size=6)
"""Of each answer that calls tools, the results: text, id of the call, images."""


def turn_of(steps: Sequence[Sequence[tuple[str, str, int]]]) -> list[Message]:
    """Return a turn whose last results were not read yet."""
    said = [user(TURN, "please")]
    for step in steps:
        said.append(calls(TURN, *(call_id for _, call_id, _ in step)))
        said += [result(TURN, text, call_id=one, images=images) for text, one, images in step]
    return said


TURNS: Final = STEPS.map(turn_of)


def items_of(messages: Sequence[Message]) -> dict[int, str]:
    """Return the name of each result by its place, found in the plainest way."""
    names: dict[int, str] = {}
    seen: list[str] = []
    for place, one in enumerate(messages):
        if one.role is Role.TOOL:
            names[place] = tool_item(one.turn_id, one.tool_call_id, seen.count(one.tool_call_id))
            seen.append(one.tool_call_id)
    return names


def begins_unread(messages: Sequence[Message]) -> int:
    """Return the place of the last answer that calls tools: what follows was not read yet."""
    return max(place for place, one in enumerate(messages) if one.tool_calls)


def least(messages: Sequence[Message]) -> int:
    """Return to how many characters a turn can surely be brought."""
    first_unread, chars = begins_unread(messages), 0
    for place, one in enumerate(messages):
        size = message_chars(one)
        if one.role is Role.TOOL and place < first_unread:
            size = min(size, message_chars(replace(one, text="[gone]", images=())))
        elif one.role is Role.TOOL:
            size = min(size, len(one.tool_call_id) + NOTE_CHARS)
        chars += size
    return chars


@given(TURNS, st.integers(0, 3_000))
def test_a_turn_is_brought_to_what_it_may_take_where_that_can_be(
    said: list[Message], most_chars: int
) -> None:
    sent = shown(said, shrink(said, NOTHING, most_chars, SETTINGS))

    chars = estimate_context_chars(sent)
    assert chars <= estimate_context_chars(said)
    if least(said) <= most_chars:
        assert chars <= most_chars


@given(TURNS, st.integers(0, 3_000))
def test_only_what_tools_returned_is_made_shorter(said: list[Message], most_chars: int) -> None:
    sent = shown(said, shrink(said, NOTHING, most_chars, SETTINGS))

    assert len(sent) == len(said)
    for before, after in zip(said, sent, strict=True):
        if before.role is Role.TOOL:
            assert replace(after, text=before.text, images=before.images) == before
            assert message_chars(after) <= message_chars(before)
            assert not after.images or after == before
        else:
            assert after == before


@given(TURNS, st.integers(0, 3_000))
def test_what_fits_stays_as_it_is(said: list[Message], more: int) -> None:
    chars = estimate_context_chars(said)

    assert shrink(said, NOTHING, chars + more, SETTINGS) == {}
    assert shown(said, {}) == said


@given(TURNS, st.integers(0, 3_000))
def test_the_oldest_results_are_cleared_first_and_the_newest_only_cut(
    said: list[Message], most_chars: int
) -> None:
    made = shrink(said, NOTHING, most_chars, SETTINGS)

    names, first_unread = items_of(said), begins_unread(said)
    read = [place for place in names if place < first_unread]
    unread = [place for place in names if place > first_unread]
    modes = {place: made[names[place]].mode for place in names if names[place] in made}
    assert {modes[place] for place in read if place in modes} <= {ProjectionMode.CLEAR}
    assert {modes[place] for place in unread if place in modes} <= {ProjectionMode.TRIM}
    gone = Projection("", ProjectionMode.CLEAR, placeholder="[gone]")
    clearable = [
        place
        for place in read
        if message_chars(project(said[place], gone)) < message_chars(said[place])
    ]
    cleared = [place for place in read if place in modes]
    assert cleared == clearable[: len(cleared)]
    if any(place in modes for place in unread):
        assert cleared == clearable
    # No more than must: without the last one that was cleared it would not fit.
    if cleared and not any(place in modes for place in unread):
        kept = {names[place]: made[names[place]] for place in cleared[:-1]}
        assert estimate_context_chars(shown(said, kept)) > most_chars


@given(TURNS, st.lists(st.integers(0, 3_000), min_size=1, max_size=5))
def test_what_was_done_is_frozen_however_much_more_must_go(
    said: list[Message], rooms: list[int]
) -> None:
    made: Mapping[str, Projection] = {}
    for room in rooms:
        more = shrink(said, made, room, SETTINGS)
        assert {item: more[item] for item in made} == made
        made = more


@given(STEPS, st.integers(100, 2_000))
def test_over_a_turn_that_grows_a_result_is_cut_once_and_cleared_once_at_most(
    steps: list[list[tuple[str, str, int]]], room: int
) -> None:
    made: dict[str, Projection] = {}
    for number in range(1, len(steps) + 1):
        said = turn_of(steps[:number])
        if estimate_context_chars(shown(said, made)) <= room:
            continue
        more = shrink(said, made, room, SETTINGS)
        for item, before in made.items():
            after = more[item]
            cleared = (before.mode, after.mode) == (ProjectionMode.TRIM, ProjectionMode.CLEAR)
            assert after == before or cleared
        made = more


@given(TURNS, st.integers(0, 3_000))
def test_once_the_turn_is_over_its_results_are_sent_as_they_were(
    said: list[Message], most_chars: int
) -> None:
    made = shrink(said, NOTHING, most_chars, SETTINGS)
    context = context_of([*said, says(TURN)], made)

    assert context.messages == [*shown(said, made), says(TURN)]
    assert context.chars == sum(map(message_chars, context.messages))


@pytest.mark.parametrize(
    ("sizes", "most_chars"),
    [
        pytest.param([100_000], 40_000, id="one"),
        pytest.param([100, 100_000], 40_000, id="a-short-and-a-long-one"),
        pytest.param([100_000, 100, 100_000], 40_000, id="two-long-ones"),
        pytest.param([30_000] * 8, 40_000, id="many"),
    ],
)
def test_results_that_were_not_read_yet_share_all_the_room_there_is(
    sizes: list[int], most_chars: int
) -> None:
    said = turn_of([[("x" * size, f"c{place}", 0) for place, size in enumerate(sizes)]])
    sent = shown(said, shrink(said, NOTHING, most_chars, SETTINGS))

    chars = estimate_context_chars(sent)
    assert most_chars - len(sizes) * NOTE_CHARS <= chars <= most_chars
    texts = [one.text for one in sent if one.role is Role.TOOL]
    assert [text for text in texts if len(text) == 100] == ["x" * 100] * sizes.count(100)
    longest = [len(text) for text in texts if len(text) > 100]
    assert max(longest) - min(longest) < NOTE_CHARS


def test_a_cut_leaves_both_ends_and_says_how_much_is_missing() -> None:
    text = "beginning " + "x" * 10_000 + " end"
    said = turn_of([[(text, "c", 0)]])
    (*_, sent) = shown(said, shrink(said, NOTHING, 1_000, SETTINGS))

    assert sent.text.startswith("beginning xxx")
    assert "xxx end\n[trimmed: the first " in sent.text
    assert f" of {len(text)} characters]" in sent.text


def test_images_that_leave_are_named() -> None:
    said = turn_of([[("a picture", "c", 3)]])
    (*_, sent) = shown(said, shrink(said, NOTHING, 500, SETTINGS))

    assert sent.images == ()
    assert sent.text.count("[image removed: image/png]") == 3


def test_an_answer_after_all_results_leaves_them_unread_by_the_next_agent() -> None:
    said = [*turn_of([[("x" * 900, "c0", 0)], [("y" * 900, "c1", 0)]]), says(TURN, "so far")]
    made = shrink(said, NOTHING, 1_200, SETTINGS)

    assert [one.mode for one in made.values()] == [ProjectionMode.CLEAR]
    assert shown(said, made)[-1].text == "so far"


@given(TURNS, st.integers(0, 3_000))
def test_results_of_other_turns_are_other_items(said: list[Message], most_chars: int) -> None:
    made = shrink(said, NOTHING, most_chars, SETTINGS)
    assume(made)
    elsewhere = [replace(one, turn_id=TurnId("t2")) for one in said]

    assert shown(elsewhere, made) == elsewhere


def test_a_turn_without_results_stays_as_it_is() -> None:
    said = [user(TURN, "x" * 500), Message(Role.ASSISTANT, "", (ToolCall("c", "look", "{}"),))]

    assert shrink(said, NOTHING, 10, SETTINGS) == {}
