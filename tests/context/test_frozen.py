"""The law that prompt caches rest on: what was sent stays as it was sent, rounds aside.

A session of random turns and gaps, rounds and restarts is played over the pure functions alone, as
`gateway.turns` plays it over the database; each request is held against the one before.
"""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import settings as running
from hypothesis import strategies as st

from gateway.context.cache import LastRequest, cache_policy, is_cold
from gateway.context.counted import SILENT, CountedContext
from gateway.context.estimate import message_chars, tokens_of_chars
from gateway.context.pruning import Decision, Situation, plan_round
from gateway.context.settings import ContextSettings, PruningSettings
from gateway.context.window import overflow, room_chars
from gateway.model import AgentId, Message, Projection, ProjectionMode, Role, TurnId
from tests.context.conversations import ANSWERS, facts, pruning, says, sent_of, tool_turn, user

if TYPE_CHECKING:
    from collections.abc import Callable

    Remember = Callable[[Projection, PruningSettings], Projection | None]

MODEL: Final = "m"


@dataclass(frozen=True, slots=True)
class Step:
    """One turn, and what comes before it."""

    gap_s: float
    restart: PruningSettings | None
    """Settings of a restart; None for no restart."""
    asked: str
    answer: list[Message]


def _exactly(projection: Projection, _: PruningSettings) -> Projection | None:
    return projection


@dataclass(slots=True)
class Session:
    """A session as the gateway keeps it: a transcript, stored projections, a running context."""

    settings: PruningSettings
    window: int
    remember: Remember = _exactly
    """What a restart makes of a stored projection."""
    knows_last_answer: bool = True
    """Whether a restart knows what was said last in turns that are left out."""
    context: CountedContext = field(default_factory=CountedContext)
    transcript: list[Message] = field(default_factory=list)
    stored: dict[str, Projection] = field(default_factory=dict)
    left_out: TurnId | None = None
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    last: LastRequest | None = None
    sent: tuple[Message, ...] = ()
    turns: int = 0
    seen: Counter[str] = field(default_factory=Counter)

    def play(self, step: Step) -> None:
        """Live through a turn, and check it."""
        if step.restart is not None:
            self.settings = step.restart
            self.context = self.rebuilt()
            self.seen["restarts"] += 1
        self.now += timedelta(seconds=step.gap_s)
        self.turns += 1
        message = user(f"t{self.turns}", step.asked)
        self._ask(message)
        said = [message, *(replace(one, turn_id=message.turn_id) for one in step.answer)]
        self.transcript += said
        self.context.extend(said)
        self.last = LastRequest(self.now, MODEL, 0)
        self._check_context()

    def rebuilt(self) -> CountedContext:
        """Return the context as it is found after a restart."""
        left, answer = self._left_out()
        made = (self.remember(one, self.settings) for one in self.stored.values())
        context = CountedContext(
            {one.item: one for one in made if one is not None},
            left_out_turns=len({one.turn_id for one in self.transcript[:left]}),
            after_answer=answer if self.knows_last_answer else None,
        )
        context.extend(self.transcript[left:])
        return context

    def _left_out(self) -> tuple[int, Message | None]:
        """Return how many messages of the transcript are left out, and the last answer there."""
        places = [n for n, one in enumerate(self.transcript) if one.turn_id == self.left_out]
        gone = self.transcript[: places[-1] + 1 if places else 0]
        answers = [one for one in gone if one.role is Role.ASSISTANT]
        return len(gone), answers[-1] if answers else None

    def _ask(self, message: Message) -> None:
        policy = cache_policy(ContextSettings(pruning=self.settings), AgentId("a"), MODEL)
        other = tokens_of_chars(message_chars(message))
        cold = is_cold(self.last, MODEL, policy, self.now)
        done = plan_round(self.context, self.settings, Situation(self.window, other, cold=cold))
        before = list(self.context.messages)
        done.apply(self.context)
        self._check_round(before)
        for change in done.changes:
            self.seen["cleared later"] += change.projection.item in self.stored
            self.seen[change.projection.mode.value] += 1
            self.stored[change.projection.item] = change.projection
        self.seen[done.decision.value] += 1
        assert not done.changes or cold or done.decision is Decision.FORCED

        same = min([len(self.sent), *(change.place for change in done.changes)])
        self._check_prefix(same, message)
        beyond = overflow(self.context, max(0, room_chars(self.window, 0, other)))
        if beyond is not None:
            rest = self.context.messages[beyond.messages :]
            self.context.leave_out(beyond.messages, beyond.turns)
            self.left_out = beyond.last_turn
            self.seen["left out"] += 1
            assert self.context.messages == rest
        self._check_context()
        self.sent = (*self.context.messages, message)

    def _check_prefix(self, same: int, message: Message) -> None:
        """Check that what is sent begins as before, up to the first change of a round."""
        assert (*self.context.messages, message)[:same] == self.sent[:same]
        assert len(self.sent) <= len(self.context.messages) or not self.sent

    def _check_round(self, before: list[Message]) -> None:
        """Check that a round shortens what was whole, clears what was trimmed, and no more."""
        for place, (one, now) in enumerate(zip(before, self.context.messages, strict=True)):
            made = self.context.projection(place)
            old = self.stored.get(made.item) if made is not None else None
            assert one == now or old is None or old.mode is ProjectionMode.TRIM
            assert message_chars(now) <= message_chars(one)

    def _check_context(self) -> None:
        """Check the running context against the transcript and against a restart."""
        assert facts(self.rebuilt()) == facts(self.context)
        gone = {one.turn_id for one in self.transcript[: self._left_out()[0]]}
        said = [one for one in sent_of(self.transcript) if one.turn_id not in gone]
        for one, sent in zip(said, self.context.messages, strict=True):
            if one.role is Role.TOOL:
                assert replace(sent, text=one.text, images=one.images) == one
            else:
                assert sent == one
        assert self.context.sizes == [message_chars(one) for one in self.context.messages]
        assert self.context.chars == sum(self.context.sizes)


def _settings(values: dict[str, object]) -> PruningSettings:
    return PruningSettings.model_validate(values | {"force_ratio": 0.9})


SETTINGS: Final = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(["off", "cache-ttl", "cache-ttl", "cache-ttl"]),
        "soft_trim_ratio": st.sampled_from([0.0, 0.3]),
        "hard_clear_ratio": st.sampled_from([0.3, 0.5, 0.8]),
        "keep_last_assistants": st.integers(0, 3),
        "min_prunable_tool_chars": st.sampled_from([0, 0, 300]),
        "min_saving_tokens": st.sampled_from([0, 20]),
        "soft_trim": st.sampled_from(
            [
                {"max_chars": 60, "head_chars": 10, "tail_chars": 10},
                {"max_chars": 120, "head_chars": 30, "tail_chars": 0},
                {"max_chars": 200, "head_chars": 0, "tail_chars": 77},
            ]
        ),
        "hard_clear": st.sampled_from(
            [{"enabled": False}, {"placeholder": "[gone]"}, {"placeholder": "-"}]
        ),
        "tools": st.sampled_from([{}, {}, {"deny": ["s*"]}]),
    }
).map(_settings)
STEPS: Final = st.builds(
    Step,
    st.sampled_from([0.0, 1.0, 299.0, 300.0, 4000.0]),
    st.one_of(st.none(), st.none(), SETTINGS),
    st.sampled_from(["go on", "x" * 300]),
    st.one_of(
        ANSWERS,
        st.lists(st.integers(0, 400), max_size=4).map(lambda sizes: tool_turn("", *sizes)[1:]),
    ),
)
SCHEDULES: Final = st.tuples(
    SETTINGS, st.sampled_from([200, 500, 1_000]), st.lists(STEPS, min_size=4, max_size=14)
)
Schedule = tuple[PruningSettings, int, list[Step]]


def _play(
    schedule: Schedule, remember: Remember = _exactly, *, knows_last_answer: bool = True
) -> Counter[str]:
    settings, window, steps = schedule
    session = Session(settings, window, remember, knows_last_answer)
    said: list[Message] = []
    for step in steps:
        session.play(step)
        said = [*said, *deepcopy(session.transcript[len(said) :])]
        # Nothing of what was said is touched.
        assert session.transcript == said
    return session.seen


def test_what_was_sent_stays_as_it_was_between_rounds_and_over_restarts() -> None:
    seen: Counter[str] = Counter()

    @running(max_examples=300)
    @given(SCHEDULES)
    def law(schedule: Schedule) -> None:
        seen.update(_play(schedule))

    law()
    wanted = {"restarts", "trim", "clear", "cleared later", "left out", "forced", "prune", "warm"}
    assert {what for what in wanted if seen[what] < 20} == set()


def _forgotten(_projection: Projection, _settings: PruningSettings) -> Projection | None:
    return None


def _cut_anew(projection: Projection, settings: PruningSettings) -> Projection | None:
    sizes = settings.soft_trim
    return replace(projection, head_chars=sizes.head_chars, tail_chars=sizes.tail_chars)


def _cleared_anew(projection: Projection, settings: PruningSettings) -> Projection | None:
    return replace(projection, placeholder=settings.hard_clear.placeholder)


def _once_trimmed(projection: Projection, _settings: PruningSettings) -> Projection | None:
    return projection if projection.mode is ProjectionMode.TRIM else None


@pytest.mark.parametrize(
    ("remember", "knows_last_answer"),
    [
        pytest.param(_forgotten, True, id="a-restart-forgets-projections"),
        pytest.param(_cut_anew, True, id="a-restart-trims-by-its-own-settings"),
        pytest.param(_cleared_anew, True, id="a-restart-clears-by-its-own-settings"),
        pytest.param(_once_trimmed, True, id="a-restart-forgets-clearings"),
        pytest.param(_exactly, False, id="a-restart-forgets-silence"),
    ],
)
def test_the_law_catches_a_store_that_is_not_exact(
    remember: Remember,
    knows_last_answer: bool,  # noqa: FBT001 - a column
) -> None:
    trim = {"max_chars": 60, "head_chars": 10, "tail_chars": 10}
    first = pruning(soft_trim=trim, hard_clear_ratio=0.5)
    later = pruning(soft_trim=trim | {"head_chars": 5}, hard_clear={"placeholder": "-"})
    long = Step(4_000, None, "go on", tool_turn("", 400, 400)[1:])
    silent = Step(0, None, "x" * 300, [says("", SILENT)])
    # Some results are trimmed and some cleared; then so much is said that turns are left out.
    schedule = first, 250, [long, long, long, replace(long, restart=later), *[silent] * 8]
    seen = _play(schedule)
    assert min(seen["trim"], seen["clear"], seen["left out"]) > 0

    with pytest.raises(AssertionError):
        _play(schedule, remember, knows_last_answer=knows_last_answer)
