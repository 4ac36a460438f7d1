"""Context pruning: what long sessions cost at a provider's prompt cache, and what a round takes.

Each generated session is sent three ways to the same simulated cache: unpruned; pruned as turns do
it, with frozen projections; and pruned for the one request that finds the cache cold, as if nobody
remembered it. All leave out the oldest turns where the window is full. Costs are in prices of an
uncached input token; every request of a tool loop counts.
"""

from __future__ import annotations

import random
import statistics
import time
from copy import deepcopy
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Final

from gateway.clock import FakeClock
from gateway.context.cache import LastRequest, cache_policy, is_cold
from gateway.context.counted import CountedContext
from gateway.context.pruning import Situation, plan_round
from gateway.context.settings import ContextSettings, PruningMode, PruningSettings
from gateway.model import AgentId, Message, Role, ToolCall, TurnId
from gateway.turns.memory import SessionContext
from gateway.turns.preparing import AgentFacts, prepare
from tests.bench.report import Report
from tests.support.prompt_cache import CacheRules, Prompt, PromptBlock, PromptCache

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SESSIONS: Final = 20
ROUNDS: Final = 200
MODEL: Final = "echo"
DESIGNS: Final = ("unpruned", "one_request", "frozen")


async def measure(_: Path) -> Report:
    """Compare costs, then time rounds."""
    report = Report()
    heavy = [await _costs(seed, HEAVY) for seed in range(SESSIONS)]
    mixed = [await _costs(seed, MIXED) for seed in range(SESSIONS)]
    report.at_most("input cost with frozen projections", "x unpruned", _ratio(heavy), 0.5)
    report.show("the same, pruned for one request only", "x unpruned", _ratio(heavy, "one_request"))
    report.show("the same, sessions of many short results", "x unpruned", _ratio(mixed))
    worst = max(one["frozen"] / one["unpruned"] for one in heavy + mixed)
    report.at_most(f"the session of {2 * SESSIONS} it helps least", "x unpruned", worst, 1.0)
    _time_rounds(report)
    report.data = {"heavy": heavy, "mixed": mixed}
    return report


def _ratio(costs: list[dict[str, float]], design: str = "frozen") -> float:
    return sum(one[design] for one in costs) / sum(one["unpruned"] for one in costs)


@dataclass(frozen=True, slots=True)
class Kind:
    """What the tools of a session return."""

    most_results: int
    """In one turn."""
    median_chars: int
    spread: float
    """Of the logarithm of their sizes."""


HEAVY: Final = Kind(most_results=2, median_chars=16_000, spread=0.7)
"""Whole files and web pages."""
MIXED: Final = Kind(most_results=5, median_chars=5_000, spread=1.3)
"""Many short results among some long ones."""


@dataclass(slots=True)
class _Turn:
    """A turn to come: how long after the one before, and what is said in it."""

    idle_s: float
    text_chars: int
    result_chars: list[int]


def _schedule(rng: random.Random, kind: Kind) -> list[_Turn]:
    """Return a long session with many tools: most messages come soon, some after a break."""
    return [
        _Turn(
            idle_s=rng.uniform(5, 200) if rng.random() < 0.7 else rng.uniform(300, 7_200),
            text_chars=rng.randint(20, 800),
            result_chars=[
                min(60_000, int(rng.lognormvariate(log(kind.median_chars), kind.spread)))
                for _ in range(rng.randint(0, kind.most_results))
            ],
        )
        for _ in range(rng.randint(30, 90))
    ]


async def _costs(seed: int, kind: Kind) -> dict[str, float]:
    schedule = _schedule(random.Random(seed), kind)
    return {name: await _cost(name, schedule) for name in DESIGNS}


async def _cost(design: str, schedule: list[_Turn]) -> float:
    clock, context, spent = FakeClock(), SessionContext(), 0.0
    agent, last = AgentFacts(MODEL, 200_000, 16_384, 0), None
    mode = PruningMode.CACHE_TTL if design == "frozen" else PruningMode.OFF
    settings = ContextSettings(pruning=PruningSettings(mode=mode))
    policy = cache_policy(settings, AgentId("main"), MODEL)
    provider = PromptCache(clock, CacheRules())
    for number, turn in enumerate(schedule):
        await clock.advance(turn.idle_s)
        turn_id = TurnId(f"t-{number}")
        message = Message(Role.USER, _text(f"{number}", turn.text_chars), turn_id=turn_id)
        made = prepare(context, message, agent, settings.pruning, policy, last, clock.now())
        told, whole = [message], made.request.messages
        once = design == "one_request" and is_cold(last, MODEL, policy, clock.now())
        for answer in _steps(turn, turn_id):
            earlier = _pruned(context.counted) if once else whole[:-1]
            charge = provider.charge(_prompt([*earlier, *told], len(earlier)), marked=True)
            spent += charge.cost
            last, once = LastRequest(clock.now(), MODEL, charge.tokens), False
            told += answer
        context.counted.extend(told)
    return spent


def _pruned(counted: CountedContext) -> list[Message]:
    """Return what a round makes of a context, which stays as it is."""
    copy = deepcopy(counted)
    plan_round(copy, PruningSettings(), Situation(200_000, 0, cold=True)).apply(copy)
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


def _prompt(sent: Sequence[Message], live: int) -> Prompt:
    """Return a request as its wire has it, marked at the end and before the turn that runs."""
    marks = {len(sent) - 1, live - 1}
    return Prompt(
        "bench",
        tuple(
            PromptBlock(
                f"{one.role} {one.tool_call_id} {one.tool_calls}".encode(),
                one.text,
                begins_message=True,
                mark="5m" if place in marks else "",
            )
            for place, one in enumerate(sent)
        ),
    )


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
