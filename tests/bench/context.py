"""Context pruning: what long sessions cost at a provider's prompt cache, and what a round takes.

Each generated session is sent three ways to the same simulated provider: unpruned; pruned as turns
do it, with frozen projections; and pruned for the one request that finds the cache cold, as if
nobody remembered it. All leave out the oldest turns where the window is full. What the provider
counts of a request is fed back before the next, as turns do, and it counts otherwise than is
estimated. Costs are in prices of an uncached input token; every request of a tool loop counts.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field
from math import ceil, log
from typing import TYPE_CHECKING, Final

from gateway.agents.base import AgentFacts
from gateway.clock import FakeClock
from gateway.context.cache import CacheVerdict, LastRequest, cache_policy, is_cold
from gateway.context.counted import CountedContext
from gateway.context.estimate import estimate_context_chars, tokens_of_chars
from gateway.context.pruning import Decision, Situation, plan_round
from gateway.context.settings import ContextSettings, PruningMode, PruningSettings
from gateway.model import AgentId, Message, Role, ToolCall, TurnId
from gateway.turns.memory import SessionContext, leave_out
from gateway.turns.preparing import Live, plan_request
from tests.bench.report import Report, quantile
from tests.support.prompt_cache import CacheRules, Prompt, PromptBlock, PromptCache

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SESSIONS: Final = 20
"""Of each kind."""
ROUNDS: Final = 200
MODEL: Final = "echo"
DESIGNS: Final = ("unpruned", "one_request", "frozen")
LEFT_OUT: Final = "left out"
FACTS: Final = AgentFacts(MODEL, window_tokens=200_000, reserve_tokens=16_384, overhead_chars=4_000)
RULES: Final = CacheRules(overhead_tokens=3_000)
"""It counts more for prompt and tools than the 1,000 tokens that are estimated."""
RATES: Final = (0.8, 1.0, 1.3)
"""Tokens that it counts for each estimated of a tool result, one session after the other; for what
people and agents say it is 1."""


async def measure(_: Path) -> Report:
    """Compare costs, then time rounds."""
    report = Report()
    sent = {kind.name: [await _sent(seed, kind) for seed in range(SESSIONS)] for kind in KINDS}
    every = [session for sessions in sent.values() for session in sessions]
    broken = [session for kind in KINDS if kind.breaks for session in sent[kind.name]]
    what = "input cost with frozen projections"
    report.at_most(f"{what}, all sessions with breaks", "x unpruned", _ratio(broken), 0.5)
    for name, sessions in sent.items():
        report.show(f"the same, {name}", "x unpruned", _ratio(sessions))
    report.show("the same, all sessions of the three kinds", "x unpruned", _ratio(every))
    for text, sessions in (("with breaks", broken), ("of the three kinds", every)):
        once = _ratio(sessions, "one_request")
        report.show(f"pruned for one request only, all sessions {text}", "x unpruned", once)
    worst = max(one["frozen"].cost / one["unpruned"].cost for one in every)
    report.at_most(f"the session of {len(every)} it helps least", "x unpruned", worst, 1.0)
    _show_rounds(report, every)
    _time_rounds(report)
    report.data = {
        name: [{design: spent.cost for design, spent in one.items()} for one in sessions]
        for name, sessions in sent.items()
    }
    return report


def _ratio(sessions: list[dict[str, _Spent]], design: str = "frozen") -> float:
    return sum(one[design].cost for one in sessions) / sum(one["unpruned"].cost for one in sessions)


def _show_rounds(report: Report, sessions: list[dict[str, _Spent]]) -> None:
    """Tell what the numbers rest on: rounds of both sorts, turns left out, and estimates."""
    done = {name: sum((one[name].done for one in sessions), Counter[str]()) for name in DESIGNS}
    report.show("rounds at a cold cache", "", done["frozen"][Decision.PRUNE])
    report.show("rounds forced by a full window", "", done["frozen"][Decision.FORCED])
    for name in ("unpruned", "frozen"):
        report.show(f"times that turns were left out, {name}", "", done[name][LEFT_OUT])
    off = [miss for one in sessions for miss in one["frozen"].misses]
    report.show("an estimate off the count that follows, median", "%", 100 * quantile(off, 0.5))
    report.show("the same, 99 of 100", "%", 100 * quantile(off, 0.99))


@dataclass(frozen=True, slots=True)
class Kind:
    """What happens in a session."""

    name: str
    most_results: int
    """Tool results in one turn."""
    median_chars: int
    spread: float
    """Of the logarithm of their sizes."""
    breaks: float = 0.3
    """Which share of messages comes after the cache has run out."""


KINDS: Final = (
    Kind("whole files and web pages", most_results=2, median_chars=16_000, spread=0.7),
    Kind("many short results among long ones", most_results=5, median_chars=5_000, spread=1.3),
    Kind(
        "windows that are filled without a break",
        most_results=4,
        median_chars=16_000,
        spread=0.7,
        breaks=0.0,
    ),
)


@dataclass(slots=True)
class _Turn:
    """A turn to come: how long after the one before, and what is said in it."""

    idle_s: float
    text_chars: int
    result_chars: list[int]


@dataclass(slots=True)
class _Spent:
    """What a session came to."""

    cost: float = 0.0
    done: Counter[str] = field(default_factory=Counter)
    """Rounds by why they were done, and `left out`: how often turns were."""
    misses: list[float] = field(default_factory=list)
    """How far each estimate was from what was then counted, as a share of it."""


def _schedule(rng: random.Random, kind: Kind) -> list[_Turn]:
    """Return a long session with many tools: most messages come soon, some after a break."""
    return [
        _Turn(
            idle_s=rng.uniform(5, 200)
            if rng.random() < 1 - kind.breaks
            else rng.uniform(300, 7_200),
            text_chars=rng.randint(20, 800),
            result_chars=[
                min(60_000, int(rng.lognormvariate(log(kind.median_chars), kind.spread)))
                for _ in range(rng.randint(0, kind.most_results))
            ],
        )
        for _ in range(rng.randint(30, 90))
    ]


async def _sent(seed: int, kind: Kind) -> dict[str, _Spent]:
    """Send a session each way."""
    schedule, rate = _schedule(random.Random(seed), kind), RATES[seed % len(RATES)]
    return {name: await _spent(name, schedule, rate) for name in DESIGNS}


async def _spent(design: str, schedule: list[_Turn], rate: float) -> _Spent:
    clock, session = FakeClock(), _Session(design, rate)
    provider = PromptCache(clock, RULES)
    for number, turn in enumerate(schedule):
        await clock.advance(turn.idle_s)
        turn_id = TurnId(f"t-{number}")
        told = [Message(Role.USER, _text(f"{number}", turn.text_chars), turn_id=turn_id)]
        for answer in _steps(turn, turn_id):
            session.ask(provider, told)
            told += answer
        session.context.counted.extend(told)
    return session.spent


class _Session:
    """What is sent of one session, one way, and what its provider counts of it."""

    def __init__(self, design: str, rate: float) -> None:
        mode = PruningMode.CACHE_TTL if design == "frozen" else PruningMode.OFF
        self.context = SessionContext()
        self.spent = _Spent()
        self._settings = PruningSettings(mode=mode)
        self._policy = cache_policy(ContextSettings(), AgentId("main"), MODEL)
        self._one_request = design == "one_request"
        self._rate = rate
        self._last: LastRequest | None = None

    def ask(self, provider: PromptCache, told: list[Message]) -> None:
        """Send a request: the context, and what the turn that runs has said so far."""
        context, now = self.context, provider.clock.now()
        cold = is_cold(self._last, MODEL, self._policy, now)
        live = Live.of(told, FACTS)
        plan = plan_request(context, FACTS, live, self._settings, self._policy, cold=cold)
        if plan.round.changes:
            self.spent.done[plan.round.decision] += 1
        self.spent.done[LEFT_OUT] += leave_out(context.counted, plan.overflow) is not None
        counted = context.counted
        earlier = _pruned(counted) if self._one_request and cold else counted.messages
        estimated = tokens_of_chars(live.chars + estimate_context_chars(earlier))
        charge = provider.charge(_prompt([*earlier, *told], len(earlier), self._rate), marked=True)
        self.spent.cost += charge.cost
        if context.account.request_tokens:
            miss = abs(context.account.tokens(estimated) - charge.tokens)
            self.spent.misses.append(miss / charge.tokens)
        context.account = context.account.with_request(
            MODEL, tokens=charge.tokens, estimated=estimated, verdict=CacheVerdict.UNKNOWN
        )
        self._last = LastRequest(now, MODEL, charge.tokens)


def _pruned(counted: CountedContext) -> list[Message]:
    """Return what a round makes of a context, which stays as it is."""
    copy = deepcopy(counted)
    plan_round(copy, PruningSettings(), Situation(FACTS.window_tokens, 0, cold=True)).apply(copy)
    return copy.messages


def _steps(turn: _Turn, turn_id: TurnId) -> list[list[Message]]:
    """Return what each model call of a turn adds: a call with its result, at last an answer."""
    steps = []
    for place, chars in enumerate(turn.result_chars):
        call = ToolCall(f"call-{place}", "read_file", '{"path":"a"}')
        result = Message(
            Role.TOOL,
            _text(f"{turn_id}/{place}", chars),
            tool_call_id=call.call_id,
            tool_name=call.name,
            turn_id=turn_id,
        )
        steps.append([Message(Role.ASSISTANT, "", (call,), turn_id=turn_id), result])
    return [*steps, [Message(Role.ASSISTANT, _text(f"a{turn_id}", 400), turn_id=turn_id)]]


def _text(name: str, chars: int) -> str:
    return (name + " " + "word " * (chars // 5))[:chars]


def _prompt(sent: Sequence[Message], live: int, rate: float) -> Prompt:
    """Return a request as its wire has it, marked at the end and before the turn that runs.

    Args:
        sent: The context and the turn that runs.
        live: Where that begins.
        rate: How many tokens are counted for each that is estimated of a tool result.
    """
    marks = {len(sent) - 1, live - 1}
    return Prompt(
        "bench",
        tuple(
            PromptBlock(
                f"{one.role} {one.tool_call_id} {one.tool_calls}".encode(),
                _counted_text(one, rate),
                begins_message=True,
                mark="5m" if place in marks else "",
            )
            for place, one in enumerate(sent)
        ),
    )


def _counted_text(message: Message, rate: float) -> str:
    """Return a text that counts at the usual rate what the message is to count."""
    text = message.text
    return (text * ceil(rate))[: int(len(text) * rate)] if message.role is Role.TOOL else text


def _time_rounds(report: Report) -> None:
    messages = _long_session()
    settings, situation = PruningSettings(), Situation(300_000, 0, cold=True)
    cold: list[float] = []
    warm: list[float] = []
    appended: list[float] = []
    for number in range(ROUNDS):
        began = time.perf_counter()
        context = CountedContext()
        context.extend(messages)
        plan_round(context, settings, situation).apply(context)
        cold.append(time.perf_counter() - began)
        more = [
            Message(
                one.role,
                one.text,
                one.tool_calls,
                one.tool_call_id,
                one.tool_name,
                TurnId(f"n{number}"),
            )
            for one in messages[:4]
        ]
        for cache, times in ((False, warm), (True, appended)):
            began = time.perf_counter()
            context.extend(more)
            plan_round(context, settings, Situation(300_000, 0, cold=cache))
            times.append(time.perf_counter() - began)
    chars = sum(len(one.text) for one in messages)
    what = f"a round over {len(messages):,} messages, {chars:,} characters, nothing counted yet"
    report.at_most(what, "ms", statistics.median(cold) * 1e3, 2.0)
    what = "a turn that adds four messages, the cache {}"
    report.at_most(what.format("warm"), "us", statistics.median(warm) * 1e6, 20.0)
    report.at_most(what.format("cold"), "us", statistics.median(appended) * 1e6, 20.0)


def _long_session() -> list[Message]:
    """Return 500 turns of four messages, 800,000 characters in all."""
    messages = []
    for number in range(500):
        turn_id = TurnId(f"t-{number}")
        call = ToolCall("call", "read_file", "{}")
        messages += [
            Message(Role.USER, _text("u", 60), turn_id=turn_id),
            Message(Role.ASSISTANT, "", (call,), turn_id=turn_id),
            Message(
                Role.TOOL,
                _text("r", 1_040 if number % 10 else 5_040),
                tool_call_id="call",
                tool_name="read_file",
                turn_id=turn_id,
            ),
            Message(Role.ASSISTANT, _text("a", 100), turn_id=turn_id),
        ]
    return messages
