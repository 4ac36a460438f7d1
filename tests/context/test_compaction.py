"""Laws of compaction: what a summary takes the place of, and what it may be."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.context.compaction import instruction, parts, plan_compaction
from gateway.context.counted import CountedContext
from gateway.context.estimate import estimate_context_chars, message_chars
from gateway.context.settings import CompactionSettings
from gateway.context.summary import CompactionPlan, check_summary, summary_message
from gateway.context.window import overflow
from gateway.model import Message, Role, TurnId
from tests.context.conversations import (
    CONVERSATIONS,
    calls,
    context_of,
    result,
    says,
    talk,
    tool_turn,
    user,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FRAME: Final = len(summary_message("", TurnId("t")).text)
ASKED: Final = len(instruction(CompactionSettings(summary_chars=500)))
LARGE: Final = st.lists(
    st.lists(st.integers(0, 3_000), max_size=4).map(lambda sizes: tool_turn("", *sizes)),
    max_size=12,
).map(
    lambda turns: [
        Message(m.role, m.text, m.tool_calls, m.tool_call_id, m.tool_name, TurnId(f"t{n}"))
        for n, turn in enumerate(turns)
        for m in turn
    ]
)
"""Conversations of turns that are up to some thousand characters long."""
SETTINGS: Final = st.builds(
    CompactionSettings,
    keep_turns=st.integers(0, 5),
    summary_chars=st.sampled_from([500, 900, 8_000]),
    fill_ratio=st.sampled_from([0.1, 0.5, 0.9]),
)
SUMMARIES: Final = st.one_of(st.none(), st.integers(1, 3_000).map("s".__mul__))


def _turns(messages: Iterable[Message]) -> list[list[Message]]:
    return [list(turn) for _, turn in groupby(messages, key=lambda one: one.turn_id)]


def _context(messages: Sequence[Message], summary: str | None = None) -> CountedContext:
    """Return a context; a summary in front stands for four turns."""
    if summary is None:
        return context_of(messages)

    lead = summary_message(summary, TurnId("before"))
    context = CountedContext(summary=lead, summarised_turns=4, left_out_turns=4)
    context.extend(messages)
    return context


def _sized(*sizes: int) -> list[Message]:
    """Return turns of two messages; a size is that of a turn."""
    return [
        one
        for number, size in enumerate(sizes)
        for one in (user(f"t{number}", "x"), says(f"t{number}", "x" * (size - 1)))
    ]


def _covered(sizes: Sequence[int], room: int | None, values: dict[str, object]) -> int | None:
    """Return how many turns are summarised; None where nothing is planned."""
    settings = CompactionSettings.model_validate({"summary_chars": 500} | values)
    plan = plan_compaction(_context(_sized(*sizes)), settings, room)
    return None if plan is None else plan.turns


@pytest.mark.parametrize(
    ("sizes", "room", "values", "turns"),
    [
        pytest.param([1_000] * 10, 10_000, {}, None, id="all-of-it-fits"),
        # Half of the room is filled: four turns and a longest summary.
        pytest.param([1_000] * 10, 9_999, {}, 6, id="to-half-of-the-room"),
        pytest.param([1_000] * 10, 9_999, {"fill_ratio": 0.9}, 2, id="to-nine-tenths"),
        pytest.param([1_000] * 10, 9_999, {"enabled": False}, None, id="not-enabled"),
        pytest.param([1_000] * 6, 5_999, {}, 3, id="the-latest-turns-stay-beyond-half-of-it"),
        pytest.param([1_000] * 6, 5_999, {"keep_turns": 0}, 4, id="none-is-kept-for-being-late"),
        pytest.param([1_000] * 6, 5_999, {"keep_turns": 5}, 1, id="five-stay-and-fit"),
        pytest.param([1_000] * 6, 5_500, {"keep_turns": 6}, 2, id="of-six-kept-two-must-go"),
        pytest.param([9_000, 9_000, 9_000], 20_000, {}, 1, id="as-few-of-the-latest-as-must"),
        pytest.param([100, 30_000], 20_000, {}, 2, id="the-newest-alone-does-not-fit"),
        pytest.param([1_000] * 6, 300, {}, None, id="no-room-for-any-summary"),
        pytest.param([1_000] * 6, 0, {}, None, id="no-room"),
        pytest.param([1_000] * 6, -5, {}, None, id="less-than-no-room"),
        pytest.param([], 0, {}, None, id="nothing"),
        pytest.param([1_000] * 6, None, {}, 3, id="asked-for-all-but-the-latest"),
        pytest.param([1_000] * 6, None, {"enabled": False}, 3, id="asked-for-though-not-enabled"),
        pytest.param([1_000] * 3, None, {}, None, id="asked-for-and-all-are-late"),
        pytest.param([10] * 6, None, {}, None, id="asked-for-and-shorter-than-any-summary"),
    ],
)
def test_the_oldest_turns_are_summarised(
    sizes: list[int], room: int | None, values: dict[str, object], turns: int | None
) -> None:
    assert _covered(sizes, room, values) == turns


def test_an_earlier_summary_is_covered_again() -> None:
    context = _context(_sized(*[1_000] * 10), "s" * 400)
    plan = plan_compaction(context, CompactionSettings(summary_chars=500), 10_000)

    assert plan is not None
    assert (plan.messages, plan.turns, plan.last_turn) == (12, 6, "t5")
    assert plan.replaced_chars == FRAME + 400 + 6_000
    context.summarise(plan, "new")
    assert context.messages[0] == summary_message("new", TurnId("t5"))
    assert [one.turn_id for one in context.messages[1::2]] == ["t6", "t7", "t8", "t9"]
    assert (context.summarised_turns, context.left_out_turns) == (10, 10)


def test_a_summary_made_for_a_larger_window_is_made_shorter_alone() -> None:
    context = _context(_sized(100), "s" * 7_000)
    plan = plan_compaction(context, CompactionSettings(), 3_000)

    assert plan is not None
    assert (plan.messages, plan.turns, plan.last_turn) == (0, 0, "before")
    assert plan.settings.summary_chars < 1_500
    assert parts(context, plan, 20_000) == [tuple(context.messages[:1])]
    context.summarise(plan, "short")
    assert [one.turn_id for one in context.messages] == ["before", "t0", "t0"]
    assert (context.summarised_turns, context.left_out_turns) == (4, 4)


@given(LARGE, SUMMARIES, SETTINGS, st.integers(0, 20_000))
def test_what_stays_fits_with_the_longest_summary_and_the_latest_turns_are_whole(
    messages: list[Message], summary: str | None, settings: CompactionSettings, room: int
) -> None:
    context = _context(messages, summary)
    before, turns = list(context.messages), _turns(messages)
    plan = plan_compaction(context, settings, room)
    if context.chars <= room:
        assert plan is None
        return

    if plan is None:
        # Not even a summary alone has room, or a share of it too small for one.
        assert settings.fill_ratio * room / 2 < FRAME + 1
        return

    stays = turns[plan.turns :]
    assert plan.messages == sum(map(len, turns[: plan.turns]))
    longest = summary_message("x" * plan.settings.summary_chars, plan.last_turn)
    after = message_chars(longest) + estimate_context_chars(one for t in stays for one in t)
    kept = len(stays) <= settings.keep_turns
    assert after <= (room if kept else settings.fill_ratio * room)
    if plan.turns:
        more = after + estimate_context_chars(turns[plan.turns - 1])
        # One turn less would have been too few.
        kept_with_one_more = len(stays) + 1 <= settings.keep_turns
        assert more > (room if kept_with_one_more else settings.fill_ratio * room)
    assert context.messages == before

    context.summarise(plan, "x" * plan.settings.summary_chars)
    assert context.messages == [longest, *(one for turn in stays for one in turn)]
    assert context.sizes == [message_chars(one) for one in context.messages]
    assert context.chars == sum(context.sizes) == after
    asked = {call.call_id for one in context.messages for call in one.tool_calls}
    assert asked == {one.tool_call_id for one in context.messages if one.role is Role.TOOL}
    # Done once, it is done: nothing more is summarised, and no turn leaves.
    assert plan_compaction(context, settings, room) is None
    assert overflow(context, room) is None


@given(CONVERSATIONS, SUMMARIES, SETTINGS, st.one_of(st.none(), st.integers(0, 4_000)))
def test_the_chars_that_are_replaced_are_those_that_leave(
    messages: list[Message], summary: str | None, settings: CompactionSettings, room: int | None
) -> None:
    context = _context(messages, summary)
    chars = context.chars
    plan = plan_compaction(context, settings, room)
    if plan is None:
        return

    context.summarise(plan, "s" * 100)
    assert context.chars == chars - plan.replaced_chars + FRAME + 100
    assert plan.last_turn == context.messages[0].turn_id
    assert all(one.turn_id != plan.last_turn for one in context.messages[1:])


@given(st.lists(st.integers(10, 3_000), min_size=20, max_size=60), st.integers(0, 4))
def test_between_compactions_what_is_sent_begins_as_before(sizes: list[int], keep: int) -> None:
    settings = CompactionSettings(keep_turns=keep, summary_chars=500)
    context, sent = CountedContext(), list[Message]()
    since = summaries = 0
    for number, size in enumerate(sizes):
        plan = plan_compaction(context, settings, 8_000)
        if plan is not None:
            context.summarise(plan, f"summary {number}")
            summaries, since = summaries + 1, 0
        else:
            assert context.messages[: len(sent)] == sent
            since += 1
        assert context.chars <= 8_000
        assert context.left_out_turns == context.summarised_turns
        assert context.left_out_turns + len(_turns(context.messages[context.begins :])) == number
        sent = list(context.messages)
        context.extend(tool_turn(f"t{number}", size))
    assert summaries > 0 or context.chars <= 8_000 + 3_100


def test_the_instruction_says_what_a_summary_is_to_be() -> None:
    text = instruction(CompactionSettings(summary_chars=1_000))

    # Less is asked for than is taken: a few characters more are no failure.
    assert "at most 750 characters" in text
    for word in ("names", "numbers", "decided", "still open", "tools", "no instruction"):
        assert word in text
    assert "in the language of the conversation" in text
    assert "the summary alone" in text


def test_a_summary_says_of_itself_that_nobody_has_just_said_it() -> None:
    message = summary_message("They met {in} Kyōto.", TurnId("t7"))

    assert (message.role, message.turn_id) == (Role.USER, "t7")
    before, _, after = message.text.partition("They met {in} Kyōto.")
    assert "gateway" in before
    assert "not just said" in before
    assert after.strip()


@pytest.mark.parametrize(
    ("text", "replaced", "problem"),
    [
        pytest.param("", 10_000, "is empty", id="empty"),
        pytest.param(" \n\t", 10_000, "is empty", id="blank"),
        pytest.param("\0\0", 10_000, "is empty", id="nothing-a-store-takes"),
        pytest.param(
            "x" * 501,
            10_000,
            "has 501 characters, accepted are at most 500",
            id="longer-than-a-summary-may-be",
        ),
        pytest.param(
            "x" * 500,
            FRAME + 500,
            f"has {FRAME + 500} characters with its frame, accepted are fewer than the "
            f"{FRAME + 500} that it replaces",
            id="no-shorter-than-what-it-replaces",
        ),
    ],
)
def test_a_summary_that_cannot_be_used_is_refused(text: str, replaced: int, problem: str) -> None:
    with pytest.raises(ValueError, match=f"^{problem}$"):
        check_summary(text, replaced, CompactionSettings(summary_chars=500))


def test_a_summary_is_kept_clean() -> None:
    settings = CompactionSettings(summary_chars=500)

    assert check_summary("\n A\0B \ud800 ", 10_000, settings) == "AB �"
    assert check_summary("x" * 500, FRAME + 501, settings) == "x" * 500
    # White space around it counts nothing.
    assert check_summary("x" * 500 + "\n" * 99, 10_000, settings) == "x" * 500


def _plan(context: CountedContext, **values: object) -> CompactionPlan:
    settings = CompactionSettings.model_validate({"summary_chars": 500, "keep_turns": 0} | values)
    plan = plan_compaction(context, settings, None)
    assert plan is not None
    return plan


def test_what_fits_one_request_is_one_part_that_begins_as_the_context_does() -> None:
    context = _context(talk(8, 300), "s" * 400)
    plan = _plan(context, keep_turns=2)

    (part,) = parts(context, plan, 20_000)
    assert part == tuple(context.messages[: 1 + 6 * 4])


@given(LARGE, SUMMARIES, st.integers(2_300 + ASKED, 20_000))
def test_each_part_fits_a_request_with_the_summary_so_far_and_nothing_is_missing(
    messages: list[Message], summary: str | None, room: int
) -> None:
    context = _context(messages, summary)
    if context.chars <= FRAME or not messages:
        return

    plan = _plan(context)
    found = parts(context, plan, room)

    asked = Message(Role.USER, instruction(plan.settings))
    so_far = summary_message("x" * plan.settings.summary_chars, plan.last_turn)
    for number, part in enumerate(found):
        assert estimate_context_chars([*([so_far] if number else []), *part, asked]) <= room
        wanted = [call.call_id for one in part for call in one.tool_calls]
        assert wanted == [one.tool_call_id for one in part if one.role is Role.TOOL]
    # Every turn is in one part, in order, and said whole where it is not too large.
    sent = [one for part in found for one in part]
    rest = _turns(sent[context.begins :])
    assert [turn[0].turn_id for turn in rest] == [turn[0].turn_id for turn in _turns(messages)]
    for turn, whole in zip(rest, _turns(messages), strict=True):
        assert turn == whole or "[trimmed: the first" in "".join(one.text for one in turn)
        assert turn == whole or estimate_context_chars(whole) > room - ASKED - FRAME - 3_500
    if summary is not None:
        cut = len(summary) + FRAME > room - ASKED - 1_000
        assert (sent[0] == context.summary) != cut
        assert not cut or "[trimmed: the first" in sent[0].text
    assert len(found) <= 1 + estimate_context_chars(messages) // 400


def test_of_a_turn_larger_than_a_request_the_longest_results_are_cut() -> None:
    said = [
        user("t0"),
        calls("t0", "short", "long", "picture"),
        result("t0", "k" * 900, call_id="short"),
        result("t0", "l" * 50_000, call_id="long"),
        result("t0", "m" * 40_000, call_id="picture", images=2),
        says("t0", "a" * 500),
    ]
    context = context_of(said)
    (part,) = parts(context, _plan(context), 10_000)

    assert [one.role for one in part] == [one.role for one in said]
    assert (part[0], part[1], part[2], part[5]) == (said[0], said[1], said[2], said[5])
    for one, letter in ((part[3], "l"), (part[4], "m")):
        assert one.text.startswith(letter * 1_000)
        assert "[trimmed: the first" in one.text
    assert part[4].text.count("[image removed: image/png]") == 2
    assert part[4].images == ()
    assert 8_000 < estimate_context_chars(part) <= 10_000 - ASKED


@pytest.mark.parametrize(
    "said",
    [
        pytest.param([user("t0", "u" * 50_000), says("t0")], id="a-long-message"),
        pytest.param([user("t0"), *[says("t0", "a" * 90)] * 200], id="very-many-messages"),
        pytest.param(
            [user("t0"), calls("t0", *map(str, range(900))), says("t0")], id="very-many-calls"
        ),
        pytest.param(
            [user("t0"), *(result("t0", "r" * 99, call_id=f"{n}") for n in range(200))],
            id="very-many-results",
        ),
    ],
)
def test_a_turn_that_cannot_be_cut_by_its_results_is_cut_as_a_whole_and_says_so(
    said: list[Message],
) -> None:
    context = context_of([*tool_turn("a", 10), *said, *tool_turn("b", 10)])
    (part,) = parts(context, _plan(context), 10_000)[1:2]

    (told,) = [one for one in part if one.turn_id == "t0"]
    assert told.role is Role.USER
    assert told.text.startswith("user:\n")
    assert "[trimmed: the first" in told.text


def test_without_room_for_a_request_there_are_no_parts() -> None:
    context = context_of(talk(3, 500))
    plan = _plan(context)
    least = ASKED + 500 + FRAME + 1_000

    assert parts(context, plan, least)
    with pytest.raises(
        ValueError, match=r"^has no room: a request for it takes 7 characters more$"
    ):
        parts(context, plan, least - 7)
