"""Laws of long sessions with tools: real daemon, real server of tools, pretended provider."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import groupby, pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import pytest

from gateway.agents.failures import BROKEN_OFF, BUSY, RATE_LIMITED, UNREACHABLE
from gateway.clock import FakeClock
from tests.support import acting
from tests.support.answers import Answer, Refusal
from tests.support.daemon import running_daemon
from tests.support.long_sessions import (
    ANTHROPIC,
    OPENAI,
    OTHER,
    SPARE_WINDOW_TOKENS,
    SUMMARY_CHARS,
    WINDOW_TOKENS,
    LongSession,
    config,
    expected,
    last_summarised,
    projections,
    server_of_tools,
    summaries,
    told,
    transcript,
)
from tests.support.prompt_cache import OTHER_COUNTING
from tests.support.upstream import upstream

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.support.long_sessions import Said
    from tests.support.upstream import Upstream, UpstreamRequest

TURNS: Final = 200
KILLED_AFTER: Final = 90
FEW_TURNS: Final = 60
TOLERATED: Final = 0.1
WIRES: Final = pytest.mark.parametrize("wire", ["anthropic", "openai"])
BROKEN: Final = "This is not the end of it."
FAILURES: Final = (
    Refusal(429, retry_after_s=1, kind="rate_limit_error"),
    Refusal(529, kind="overloaded_error"),
    Refusal(500),
    Answer("", thinking="I do not know yet.", then="is cut"),
    Answer("", thinking="I do not know yet.", then="fails"),
    Answer(BROKEN, then="is cut"),
)
"""All but the last one end before anything of an answer was shown."""
CLEAR: Final = (BROKEN_OFF, BUSY, RATE_LIMITED, UNREACHABLE)
"""What users may be told of them where no agent has answered."""


async def say(session: LongSession, turn: int) -> dict[str, Any]:
    """Let the user say what belongs to a turn, and look at the size that is told after it."""
    answer = await session.daemon.say(acting.said_by_user(turn))
    tokens, source = await session.number()
    assert answer["context"]["tokens"] == tokens
    if source == "usage" or answer["status"] == "ok":
        assert (tokens, source) == (session.last_request().tokens, "usage"), turn
    return answer


async def take_turns(session: LongSession, first: int, last: int) -> None:
    """Take some turns that must all be answered as they should."""
    session.fake.before = session.look
    for turn in range(first, last + 1):
        answer = await say(session, turn)
        assert (answer["status"], answer["reply"]) == ("ok", acting.reply_of(turn)), turn
        assert answer["context"]["turns_left_out"] == summarised(session.fake.requests[-1]), turn
    session.fake.before = None


def summarised(request: UpstreamRequest) -> int:
    """Return how many turns the summary in a request stands for; 0: there is none."""
    return last_summarised(text for _, text in acting.said_in(request.json))


def turns_of(messages: Iterable[dict[str, Any]]) -> dict[str, list[Said]]:
    """Return what was said, by turn."""
    grouped = groupby(messages, key=itemgetter("turn_id"))
    return {turn_id: [told(message) for message in group] for turn_id, group in grouped}


def check_sizes(session: LongSession, fake: Upstream, turns: int) -> None:
    """Check that all that was told is true, and that no request was refused for its length."""
    assert len(session.told) > turns / 10
    assert session.worst() <= TOLERATED
    for request in fake.requests:
        assert request.tokens <= fake.windows.get(request.wire, fake.window_tokens)
    said_chars = sum(len(text) for turn in range(1, turns + 1) for _, text, _ in expected(turn))
    assert said_chars / 4 > turns / 50 * WINDOW_TOKENS


def check_summaries(path: Path, fake: Upstream, turn_ids: list[str]) -> None:
    """Look at what is stored of them, and at what was sent."""
    kept = summaries(path)
    assert len(kept) >= max(2, len(turn_ids) / 50)
    for summary in kept:
        assert summary.turns == summary.last_turn == turn_ids.index(summary.through_turn) + 1
        assert len(summary.text) <= SUMMARY_CHARS
        assert summary.tokens_after < summary.tokens_before
    assert all(one.turns < other.turns for one, other in pairwise(kept))

    sent = [summarised(request) for request in fake.requests]
    assert sent == sorted(sent)
    assert set(sent) == {0, *(summary.turns for summary in kept)}
    # What was made of results went with the turns that they are of.
    made = projections(path)
    assert {turn for turn, _ in made} <= set(turn_ids[kept[-1].turns :])
    assert {mode for _, mode in made} <= {"trim", "clear"}


async def live(path: Path, fake: Upstream, wire: str, last: int, killed_after: int) -> None:
    """Live through a long session whose daemon is killed once, and look at all that is left."""
    fake.window_tokens = WINDOW_TOKENS
    fake.answer(acting.model)
    with server_of_tools(wire) as server:
        async with running_daemon(path, config(fake, wire, server)) as daemon:
            session = LongSession(daemon, fake)
            await daemon.until_tools_run()
            await take_turns(session, 1, killed_after)
            await daemon.kill()
            logs = [daemon.log]
        asked = len(fake.requests)
        async with running_daemon(path, config(fake, wire, server)) as daemon:
            session.daemon = daemon
            await daemon.until_tools_run()
            await take_turns(session, killed_after + 1, last)
            turns = turns_of(await transcript(daemon))
            logs.append(daemon.log)

    before, after = fake.requests[asked - 1].blocks, fake.requests[asked].blocks
    assert after[: len(before)] == before
    assert list(turns.values()) == [expected(turn) for turn in range(1, last + 1)]
    check_sizes(session, fake, last)
    check_summaries(path, fake, list(turns))
    # Whoever looks in the middle of a turn sees the count of its last answer, or an estimate.
    assert len(session.seen) + len(session.told) > last
    assert all(told == counted for told, counted in session.seen)
    events = ("context.pruned", "context.compacted")
    logged = {line["tokens_after"] for log in logs for event in events for line in log.of(event)}
    assert {tokens for tokens, _ in session.told} <= logged


@pytest.mark.slow
@WIRES
async def test_a_long_session_with_tools_stays_within_its_window_and_loses_no_word(
    tmp_path: Path, wire: str
) -> None:
    async with upstream(FakeClock(), anthropic=ANTHROPIC, openai=OPENAI) as fake:
        await live(tmp_path / "state", fake, wire, TURNS, KILLED_AFTER)


@pytest.mark.slow
@WIRES
async def test_so_does_one_whose_provider_counts_nothing_like_the_estimate(
    tmp_path: Path, wire: str
) -> None:
    anthropic = replace(ANTHROPIC, counting=OTHER_COUNTING)
    openai = replace(OPENAI, counting=OTHER_COUNTING)
    async with upstream(FakeClock(), anthropic=anthropic, openai=openai) as fake:
        await live(tmp_path / "state", fake, wire, FEW_TURNS, FEW_TURNS // 2)


def check_failed(turn: int, answer: dict[str, Any], said: list[Said]) -> None:
    """Check that a turn says why it has no answer, and that what came before is kept."""
    assert answer["status"] == "failed"
    assert answer["reply"].endswith(tuple(fault.user_text for fault in CLEAR))
    *_, (role, text, calls) = said
    if role == "assistant" and not calls:
        # What was shown of the answer before it broke off.
        assert text
        assert BROKEN.startswith(text)
        said.pop()
    assert said == expected(turn)[: len(said)]


@pytest.mark.slow
@WIRES
async def test_a_long_session_goes_on_with_another_agent_where_each_fifth_request_fails(
    tmp_path: Path, wire: str
) -> None:
    path = tmp_path / "state"
    async with upstream(FakeClock(), anthropic=ANTHROPIC, openai=OPENAI) as fake:
        fake.window_tokens, fake.windows = WINDOW_TOKENS, {OTHER[wire]: SPARE_WINDOW_TOKENS}
        fake.fails_every, fake.failures = 5, FAILURES
        fake.answer(acting.model)
        with server_of_tools(wire) as server:
            async with running_daemon(path, config(fake, wire, server, spare=True)) as daemon:
                session = LongSession(daemon, fake)
                await daemon.until_tools_run()
                fake.before = session.look
                answers = [await say(session, turn) for turn in range(1, TURNS + 1)]
                turns = turns_of(await transcript(daemon))
                failed = {line["failure"] for line in daemon.log.of("agent.failed")}
                compacted = daemon.log.of("context.compacted")

    assert failed == {"rate_limit", "outage"}
    assert len(compacted) > 3
    check_sizes(session, fake, TURNS)
    assert len(turns) == TURNS
    answered: Counter[str] = Counter()
    for turn, (answer, said) in enumerate(zip(answers, turns.values(), strict=True), start=1):
        passed_over = [one["agent"] for one in answer["fallbacks"]]
        assert answer["agent"] != "spare" or "main" in passed_over
        answered[answer["agent"]] += answer["status"] == "ok"
        if answer["status"] == "ok":
            assert (answer["reply"], said) == (acting.reply_of(turn), expected(turn))
        else:
            check_failed(turn, answer, said)
    assert min(answered["main"], answered["spare"]) > TURNS / 5
    assert answered.total() > TURNS * 0.85
