"""Laws of a pruning round: when there is one, and what it does."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.context.estimate import CHARS_PER_TOKEN_ESTIMATE, IMAGE_CHARS
from gateway.context.pruning import Decision, is_allowed, protected_from
from gateway.context.settings import PruningSettings, ToolSettings
from gateway.model import Message, ProjectionMode, Role
from tests.context.conversations import (
    CONVERSATIONS,
    calls,
    context_of,
    facts,
    plan,
    pruning,
    result,
    says,
    talk,
    tool_turn,
    user,
)

if TYPE_CHECKING:
    from gateway.context.counted import CountedContext

CLEARED = "[Old tool result content cleared]"
NO_CLEAR = {"enabled": False}
SHORT = {"max_chars": 100, "head_chars": 20, "tail_chars": 10}


def _rounded(context: CountedContext, settings: PruningSettings, **situation: int | bool) -> str:
    """Do a round and return what became of each result: kept, trimmed or cleared."""
    plan(context, settings, **situation).apply(context)  # type: ignore[arg-type]
    return _fate(context)


def _fate(context: CountedContext) -> str:
    results = [place for place, one in enumerate(context.messages) if one.role is Role.TOOL]
    modes = [context.projection(place) for place in results]
    return "".join("k" if one is None else one.mode.value[0] for one in modes)


def _sized(chars: int) -> CountedContext:
    """Return a context of one old result, of so many characters in all."""
    said = tool_turn("t", 0)
    spare = chars - context_of(said).chars
    return context_of(tool_turn("t", spare))


@pytest.mark.parametrize(
    ("values", "cold", "chars", "decision"),
    [
        pytest.param({"mode": "off"}, True, 4_000, Decision.OFF, id="off"),
        pytest.param({"mode": "off"}, True, 40, Decision.OFF, id="off-comes-first"),
        pytest.param({}, True, 1_199, Decision.SMALL, id="just-below-the-soft-ratio"),
        pytest.param({}, True, 1_200, Decision.PRUNE, id="at-the-soft-ratio"),
        pytest.param({"mode": "always"}, False, 1_199, Decision.SMALL, id="always-but-small"),
        pytest.param({"mode": "always"}, False, 1_200, Decision.PRUNE, id="always-at-the-ratio"),
        pytest.param({}, False, 1_200, Decision.WARM, id="warm"),
        pytest.param({}, False, 3_599, Decision.WARM, id="just-below-the-force-ratio"),
        pytest.param({}, False, 3_600, Decision.FORCED, id="at-the-force-ratio"),
        pytest.param({}, True, 3_600, Decision.PRUNE, id="cold-needs-no-force"),
        pytest.param({"force_ratio": 1.0}, False, 4_000, Decision.FORCED, id="full"),
        pytest.param(
            {"keep_last_assistants": 3}, True, 3_600, Decision.NOTHING, id="all-protected"
        ),
        pytest.param({"min_saving_tokens": 2_000}, True, 3_600, Decision.LITTLE, id="saves-little"),
    ],
)
def test_each_gate_says_why(
    values: dict[str, object],
    cold: bool,  # noqa: FBT001 - a column
    chars: int,
    decision: Decision,
) -> None:
    ratios = {"soft_trim_ratio": 0.3, "hard_clear_ratio": 0.5, "soft_trim": SHORT}
    done = plan(_sized(chars), pruning(**ratios | values), cold=cold)

    assert done.decision is decision
    assert bool(done.changes) == (decision in {Decision.PRUNE, Decision.FORCED})


def test_what_a_request_carries_beside_the_context_counts() -> None:
    settings = pruning(soft_trim_ratio=0.3, hard_clear_ratio=0.5)
    context = _sized(800)

    assert plan(context, settings, other=99).decision is Decision.SMALL
    assert plan(context, settings, other=100).decision is not Decision.SMALL
    # It may be less than none.
    assert plan(_sized(1_200), settings, other=-1).decision is Decision.SMALL


def test_nothing_before_the_first_user_message_is_touched() -> None:
    early = [calls("t0", "c"), result("t0", "x" * 500), says("t0")]

    assert _rounded(context_of([*early, *talk(2, 500)]), pruning()) == "kcc"
    assert plan(context_of(early * 3), pruning()).decision is Decision.NOTHING


@pytest.mark.parametrize(
    ("keep", "fate"),
    [(0, "cccc"), (1, "cccc"), (2, "ccck"), (3, "ccck"), (4, "cckk"), (6, "ckkk"), (8, "kkkk")],
)
def test_the_last_assistant_messages_and_what_follows_them_are_not_touched(
    keep: int, fate: str
) -> None:
    # Each turn is: user, call, result, answer.
    assert _rounded(context_of(talk(4, 500)), pruning(keep_last_assistants=keep)) == fate


def test_with_fewer_assistant_messages_than_are_kept_nothing_is_touched() -> None:
    context = context_of(talk(4, 500))

    assert protected_from(context, pruning(keep_last_assistants=9)) == 0
    assert plan(context, pruning(keep_last_assistants=9)).decision is Decision.NOTHING
    assert protected_from(context, pruning(keep_last_assistants=8)) == 1
    assert protected_from(context, pruning(keep_last_assistants=0)) == len(context.messages)


@pytest.mark.parametrize(
    ("allow", "deny", "name", "allowed"),
    [
        pytest.param([], [], "look", True, id="all"),
        pytest.param([], [], "", True, id="all-without-a-name"),
        pytest.param(["look"], [], "look", True, id="named"),
        pytest.param(["look"], [], "looks", False, id="not-the-whole-name"),
        pytest.param(["look", "read_*"], [], "read_file", True, id="one-of-two-globs"),
        pytest.param(["READ_*"], [], "read_File", True, id="any-case"),
        pytest.param(["r?ad"], [], "rEad", True, id="one-character"),
        pytest.param(["read.file"], [], "read-file", False, id="a-dot-is-a-dot"),
        pytest.param([], ["look"], "look", False, id="denied"),
        pytest.param([], ["look"], "other", True, id="another-is-denied"),
        pytest.param(["look"], ["l*"], "look", False, id="deny-wins"),
        pytest.param(["*"], ["*"], "look", False, id="deny-wins-over-all"),
        pytest.param(["*"], ["SEARCH*"], "search_web", False, id="denied-in-any-case"),
    ],
)
def test_tools_are_allowed_and_denied_by_patterns(
    allow: list[str],
    deny: list[str],
    name: str,
    allowed: bool,  # noqa: FBT001 - a column
) -> None:
    assert is_allowed(name, ToolSettings(allow=allow, deny=deny)) == allowed


def test_results_of_denied_tools_are_not_touched_and_do_not_count_as_prunable() -> None:
    said = [*tool_turn("t0", 300), *tool_turn("t1", 300, name="Keep_it"), *tool_turn("t2", 300)]
    denied = {"tools": {"deny": ["keep*"]}, "soft_trim_ratio": 0.0}

    assert _rounded(context_of(said), pruning(**denied)) == "ckc"
    # Two results of 302 characters with their ids.
    assert _rounded(context_of(said), pruning(**denied, min_prunable_tool_chars=604)) == "ckc"
    assert _rounded(context_of(said), pruning(**denied, min_prunable_tool_chars=605)) == "kkk"


def test_all_long_results_are_trimmed_before_any_is_cleared() -> None:
    settings = pruning(soft_trim=SHORT, hard_clear_ratio=0.5)
    context = context_of(talk(8, 500))
    assert context.chars / 4 > 0.5 * 1_500

    # Trimming alone is enough, and does not stop where it would be.
    assert _rounded(context, settings, window=1_500) == "tttttttt"


def test_results_are_cleared_oldest_first_until_below_the_hard_ratio_and_no_further() -> None:
    for window in range(100, 1_200, 50):
        context = context_of(talk(8, 500))
        fate = _rounded(context, pruning(soft_trim=SHORT, hard_clear_ratio=0.5), window=window)
        ratio = context.chars / 4 / window

        assert fate == "c" * fate.count("c") + "t" * fate.count("t")
        assert ratio < 0.5 or fate == "cccccccc"
        last = fate.count("c") - 1
        if last >= 0:
            # One clearing less would have been too few.
            place = [p for p, one in enumerate(context.messages) if one.role is Role.TOOL][last]
            trimmed = (
                20 + 10 + len("\n...\n\n[trimmed: the first 20 and the last 10 of 500 characters]")
            )
            before = context.chars + trimmed - len(context.messages[place].text)
            assert before / 4 / window >= 0.5


def test_at_exactly_the_hard_ratio_one_more_is_cleared() -> None:
    context = context_of(talk(4, 500))
    after_two = context.chars - 2 * (500 - len(CLEARED))
    assert after_two % 2 == 0
    settings = pruning(
        soft_trim={"max_chars": 500, "head_chars": 1, "tail_chars": 1}, hard_clear_ratio=0.5
    )

    # The window is twice the context: chars / 4 / window is 0.5 after two are cleared.
    assert _rounded(context, settings, window=after_two // 2) == "ccck"


def test_without_clearing_results_are_trimmed_only() -> None:
    settings = pruning(soft_trim=SHORT, hard_clear=NO_CLEAR)

    assert _rounded(context_of(talk(4, 500)), settings, window=100) == "tttt"


def test_nothing_is_cleared_where_all_results_have_fewer_characters_than_the_least() -> None:
    long = {"max_chars": 500, "head_chars": 1, "tail_chars": 1}

    def fate(least: int) -> str:
        settings = pruning(soft_trim=long, min_prunable_tool_chars=least)
        return _rounded(context_of(talk(4, 500)), settings)

    # Each counts with the two characters of its call id.
    assert fate(4 * 502) == "cccc"
    assert fate(4 * 502 + 1) == "kkkk"


def test_the_least_is_compared_with_what_is_left_after_trimming() -> None:
    settings = pruning(soft_trim=SHORT, min_prunable_tool_chars=1_000)

    assert _rounded(context_of(talk(4, 500)), settings) == "tttt"
    assert _rounded(context_of(talk(20, 500)), settings) == "c" * 20


def test_protected_results_do_not_count_as_prunable() -> None:
    settings = pruning(
        soft_trim={"max_chars": 500, "head_chars": 1, "tail_chars": 1},
        keep_last_assistants=3,
        min_prunable_tool_chars=3 * 502 + 1,
    )

    assert _rounded(context_of(talk(4, 500)), settings) == "kkkk"
    assert _rounded(context_of(talk(5, 500)), settings) == "ccckk"[:3] + "ck"


@pytest.mark.parametrize(("least", "done"), [(467 // 4, True), (467 // 4 + 1, False)])
def test_a_round_that_saves_fewer_tokens_than_the_least_is_not_done(
    least: int,
    done: bool,  # noqa: FBT001 - a column
) -> None:
    context = context_of(tool_turn("t", 500))
    before = facts(context)
    made = plan(context, pruning(min_saving_tokens=least))
    made.apply(context)

    assert 500 - len(CLEARED) == 467
    assert (made.decision is Decision.PRUNE) == done
    assert (facts(context) != before) == done
    assert made.saved_tokens == (467 // CHARS_PER_TOKEN_ESTIMATE if done else 0)


def test_no_result_is_made_longer_or_as_long() -> None:
    short = len(CLEARED)
    context = context_of(tool_turn("t", short + 1, short, short - 1, 0))

    assert _rounded(context, pruning()) == "ckkk"


def test_a_trim_that_would_lengthen_is_not_made() -> None:
    note = len("\n...\n\n[trimmed: the first 50 and the last 50 of 165 characters]")
    trim = {"max_chars": 100, "head_chars": 50, "tail_chars": 50}
    settings = pruning(soft_trim=trim, hard_clear=NO_CLEAR)

    assert _rounded(context_of(tool_turn("t", 101, 100 + note, 101 + note)), settings) == "kkt"


def test_images_of_old_results_become_markers_and_no_others_do() -> None:
    picture = Message(
        Role.USER, "look", turn_id=says("t0").turn_id, images=result("", "", images=1).images
    )
    said = [
        picture,
        calls("t0", "c"),
        result("t0", "seen", images=2),
        says("t0"),
        *talk(1, 10),
        user("t2"),
        result("t2", "", images=1),
    ]
    context = context_of(said)
    settings = pruning(hard_clear=NO_CLEAR, keep_last_assistants=1)
    done = plan(context, settings, window=10_000)
    done.apply(context)

    assert _fate(context) == "tkk"
    assert context.messages[2].text == "seen" + 2 * "\n[image removed: image/png]"
    assert done.saved_tokens == (2 * IMAGE_CHARS - 2 * 27) // 4
    assert [len(one.images) for one in context.messages] == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]


def test_a_trimmed_result_is_cleared_later_and_a_cleared_one_is_final() -> None:
    settings = pruning(soft_trim=SHORT, hard_clear_ratio=0.5)
    context = context_of(talk(4, 500))
    assert _rounded(context, settings, window=2_000) == "tttt"
    assert _rounded(context, settings, window=200) == "cctt"
    text = context.messages[2].text

    other = pruning(hard_clear={"placeholder": "-"}, soft_trim=SHORT | {"head_chars": 1})
    assert _rounded(context, other) == "cccc"
    assert context.messages[2].text == text == CLEARED
    assert context.messages[-2].text == "-"


def test_a_round_says_what_it_does_and_does_nothing_before_it_is_applied() -> None:
    said = [*tool_turn("t0", 500, name="Zeta"), *tool_turn("t1", 500, 500, name="alpha")]
    context = context_of([*said, *tool_turn("t2", 500)])
    before = facts(context)
    done = plan(
        context, pruning(soft_trim=SHORT, hard_clear_ratio=0.5, keep_last_assistants=2), window=430
    )

    assert facts(context) == before
    assert done.chars_before == context.chars
    assert done.count(ProjectionMode.CLEAR) + done.count(ProjectionMode.TRIM) == 3
    assert done.count(ProjectionMode.CLEAR) == 1
    assert done.tool_names() == ["Zeta", "alpha"]
    assert [change.place for change in done.changes] == sorted(
        change.place for change in done.changes
    )
    done.apply(context)
    assert context.chars == done.chars_after
    assert _fate(context) == "cttk"
    assert done.saved_tokens == (done.chars_before - done.chars_after) // 4


def test_a_round_that_is_not_done_saves_nothing() -> None:
    done = plan(_sized(4_000), pruning(mode="off"))

    assert (done.changes, done.saved_tokens, done.chars_after) == ((), 0, done.chars_before)


SETTINGS = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(["cache-ttl", "always"]),
        "soft_trim_ratio": st.sampled_from([0.0, 0.2]),
        "hard_clear_ratio": st.sampled_from([0.2, 0.5]),
        "keep_last_assistants": st.integers(0, 4),
        "min_prunable_tool_chars": st.sampled_from([0, 300]),
        "min_saving_tokens": st.sampled_from([0, 30]),
        "soft_trim": st.sampled_from([SHORT, {"max_chars": 0, "head_chars": 0, "tail_chars": 0}]),
        "hard_clear": st.sampled_from([NO_CLEAR, {"placeholder": "[gone]"}]),
        "tools": st.sampled_from([{}, {"deny": ["look"]}, {"allow": ["s*", "look"]}]),
    }
).map(PruningSettings.model_validate)


@given(CONVERSATIONS, SETTINGS, st.integers(1, 2_000), st.booleans())
def test_after_a_round_there_is_nothing_left_to_do(
    messages: list[Message],
    settings: PruningSettings,
    window: int,
    cold: bool,  # noqa: FBT001 - drawn
) -> None:
    context = context_of(messages)
    plan(context, settings, window=window, cold=cold).apply(context)
    before = facts(context)
    again = plan(context, settings, window=window, cold=cold)
    again.apply(context)

    assert again.changes == ()
    assert facts(context) == before


@given(CONVERSATIONS, SETTINGS, st.integers(1, 2_000))
def test_a_round_changes_texts_of_allowed_unprotected_results_alone(
    messages: list[Message], settings: PruningSettings, window: int
) -> None:
    context = context_of(messages)
    before = list(context.messages)
    first, end = context.first_user, protected_from(context, settings)
    done = plan(context, settings, window=window)
    done.apply(context)

    changed = {change.place for change in done.changes}
    for place, (one, now) in enumerate(zip(before, context.messages, strict=True)):
        assert (one != now) == (place in changed)
        if one != now:
            assert one.role is Role.TOOL
            assert first is not None
            assert first <= place < end
            assert is_allowed(one.tool_name, settings.tools)
            assert (now.tool_call_id, now.tool_name, now.turn_id) == (
                one.tool_call_id,
                one.tool_name,
                one.turn_id,
            )
    assert all(
        change.size < size
        for change, size in zip(
            done.changes, (context_of([before[c.place]]).chars for c in done.changes), strict=True
        )
    )


@given(
    CONVERSATIONS,
    st.lists(SETTINGS, min_size=1, max_size=3),
    st.lists(st.booleans(), min_size=6, max_size=6),
    st.integers(1, 2_000),
)
def test_what_an_earlier_round_looked_at_changes_no_later_one(
    messages: list[Message], settings: list[PruningSettings], leaving: list[bool], window: int
) -> None:
    context = context_of(messages)
    for number, one in enumerate(one for one in settings for _ in range(2)):
        never_looked_at = deepcopy(context)
        never_looked_at.looked_at = (None, 0)
        done = plan(context, one, window=window)
        assert done == plan(never_looked_at, one, window=window)

        done.apply(context)
        context.extend(tool_turn(f"n{number}", 30, 300))
        if leaving[number]:
            first = context.messages[0].turn_id
            context.leave_out(sum(said.turn_id == first for said in context.messages), 1)


def test_what_saved_too_little_is_done_once_there_is_more_to_save() -> None:
    settings = pruning(soft_trim=SHORT, hard_clear=NO_CLEAR, min_saving_tokens=150)
    context = context_of(tool_turn("t0", 500))
    assert plan(context, settings).decision is Decision.LITTLE
    context.extend(tool_turn("t1", 500))

    assert _rounded(context, settings) == "tt"


def test_after_turns_were_left_out_new_results_are_looked_at() -> None:
    settings = pruning(soft_trim=SHORT, hard_clear=NO_CLEAR)
    context = context_of(talk(4, 500))
    assert _rounded(context, settings) == "tttt"
    assert plan(context, settings).decision is Decision.NOTHING
    context.leave_out(12, 3)
    context.extend(talk(2, 500))

    assert _rounded(context, settings) == "ttt"
