"""Laws of a client's own tools, over real turns: no call goes without its result, and none twice.

What a model is sent is checked as providers check it, over long conversations that are played by
chance: with results, without, with messages instead, with kills, failures and full windows.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from gateway.agents.asked import Asked, Wishes
from gateway.agents.base import AgentFacts
from gateway.agents.loop import SAME_NAME, ToolLoop
from gateway.agents.scripted import Fail, Reply, ScriptedModel
from gateway.agents.settings import AgentToolSettings
from gateway.clock import FakeClock
from gateway.errors import AgentError, AgentFailure, BadRequestError
from gateway.model import AgentId, Inbound, Message, Role, ToolCall
from gateway.transcripts.open_turns import NOT_BROUGHT
from gateway.transcripts.reading import read_transcript
from gateway.turns.brought import Brought
from gateway.turns.settings import Busy, TurnSettings
from gateway.upkeep.checking import check_store
from gateway.upkeep.findings import Level
from tests.support.state import source
from tests.support.toolbox import TestToolbox, spec
from tests.support.turns import reply_of, running_turns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gateway.agents.scripted import ReplyTo, Step
    from gateway.turns.ticket import Reply as TurnReply
    from gateway.turns.ticket import Ticket
    from tests.support.toolbox import Tool
    from tests.support.turns import Bench

ASKED: Final = Asked(instructions=("Rhyme.",), tools=(spec("weather"),))
RUNS: Final = 8
OPERATIONS: Final = 25


def check_pairs(messages: Sequence[Message]) -> None:
    """Check that each call is answered at once and once, nothing else is, and nothing twice."""
    asked = [message.text for message in messages if message.role is Role.USER]
    assert len(set(asked)) == len(asked)
    waiting: list[str] = []
    for message in messages:
        if message.role is Role.TOOL:
            assert message.tool_call_id in waiting, "a result without its call"
            waiting.remove(message.tool_call_id)
            continue

        assert not waiting, "a call without its result"
        waiting = [call.call_id for call in message.tool_calls]
        assert len(set(waiting)) == len(waiting)
    assert not waiting, "a call without its result"


async def box(**_: object) -> str:
    return "boxed " * 30


def looped(*steps: Step | ReplyTo, window: int = 200_000, **tools: Tool) -> ToolLoop:
    """Return an agent that has a tool of the gateway's, `box`."""
    facts = AgentFacts("scripted", window, window // 10, completes=True)
    model = ScriptedModel(steps, facts, FakeClock())
    toolbox = TestToolbox(tools or {"box": box})
    return ToolLoop(model, toolbox, AgentToolSettings())


def calls(*names: str) -> Reply:
    return Reply(calls=tuple(ToolCall("", name, "{}") for name in names))


async def submit(
    bench: Bench,
    text: str = "",
    results: Mapping[str, str] | None = None,
    *,
    asked: Asked = ASKED,
    message_id: str = "",
) -> Ticket:
    inbound = Inbound(source("alice"), text, message_id, agent=AgentId("main"))
    with anyio.fail_after(30):
        return await bench.turns.submit(inbound, brought=Brought(asked, results or {}))


async def bring(
    bench: Bench,
    text: str = "",
    results: Mapping[str, str] | None = None,
    *,
    asked: Asked = ASKED,
) -> TurnReply:
    return await reply_of(await submit(bench, text, results, asked=asked))


@dataclass
class Client:
    """A client that plays by chance, and the model that answers it."""

    chance: random.Random
    open_calls: tuple[str, ...] = ()
    """Calls that the last reply asked for."""
    again: Mapping[str, str] = field(default_factory=dict)
    """What was brought last, where only an error came of it."""
    sent: int = 0
    fails: bool = False
    is_first: bool = True
    """Whether the turn has asked for nothing yet."""
    tried: list[str] = field(default_factory=list)
    faults: list[AssertionError] = field(default_factory=list)
    """What was wrong with what the model was sent."""

    def begin(self) -> None:
        """Know of no call: another message came."""
        self.open_calls, self.again = (), {}

    def answer(self, messages: Sequence[Message]) -> Step:
        """Check what a model is sent, and answer by chance."""
        try:
            check_pairs(messages)
        except AssertionError as error:
            # A turn takes it for a broken agent.
            self.faults.append(error)
        self.sent += 1
        if "Rhyme." not in messages[0].text:
            return Reply(("A summary.",))

        fails, self.is_first = self.fails and self.is_first, False
        if fails:
            return Fail("no")

        names = self.chance.choices(["weather", "box"], k=self.chance.randint(1, 3))
        text = self.chance.choice(["", "x" * 200])
        ids = self.chance.choice([("", "", ""), ("c0", "c1", "c2")])
        made = tuple(
            ToolCall(one, name, "{}") for one, name in zip(ids[: len(names)], names, strict=True)
        )
        if self.chance.random() < 0.4:
            return Reply((text or "done",))

        return Reply((text,) if text else (), calls=made)

    async def act(self, bench: Bench) -> None:
        """Do one thing that clients do."""
        kind = self.chance.choice(["say", "bring", "bring", "bring", "both", "some", "wrong"])
        self.tried.append(kind)
        self.fails = self.chance.random() < 0.3
        if self.again and self.chance.random() < 0.8:
            self.tried.append("again")
            await self._take(bench, "", self.again)
            return

        if not self.open_calls or kind == "say":
            await self._take(bench, f"{self.chance.random()} " * 20, {})
            return

        sizes = (10, 200, 3_000)
        results = {one: "r" * self.chance.choice(sizes) for one in self.open_calls}
        if kind == "bring":
            await self._take(bench, "", results)
        elif kind == "both":
            del results[self.open_calls[-1]]
            if results:
                await self._take(bench, f"and {self.sent}?", results)
        else:
            wrong = {"other": "r"} if kind == "wrong" else {}
            if kind == "some":
                wrong = dict(list(results.items())[1:])
            if wrong:
                with pytest.raises(BadRequestError):
                    await submit(bench, "", wrong)

    async def _take(self, bench: Bench, text: str, results: Mapping[str, str]) -> None:
        self.is_first = True
        reply = await bring(bench, text, results)
        self.open_calls = tuple(call.call_id for call in reply.calls)
        self.again = results if reply.status == "failed" and not text else {}


@pytest.mark.parametrize("seed", range(8))
async def test_no_call_is_ever_without_its_result(tmp_path: Path, seed: int) -> None:
    client = Client(random.Random(seed))
    window = client.chance.choice([2_000, 4_000, 200_000])
    path = tmp_path / "state"
    for _ in range(RUNS):
        async with running_turns(path, looped(client.answer, window=window)) as bench:
            # What a kill cut off comes first.
            await bring(bench, f"hello {client.sent}")
            client.begin()
            for _ in range(client.chance.randint(0, OPERATIONS)):
                await client.act(bench)
            session_id = bench.entry().session_id
            said = [
                row.message
                for row in await read_transcript(bench.state.database, session_id, limit=10_000)
                if row.message.role is not Role.NOTICE
            ]
            turns = bench.entry().turns
            if client.open_calls and client.chance.random() < 0.7:
                # Cut off while the turn goes on, or just before.
                results = dict.fromkeys(client.open_calls, "r" * 50)
                await submit(bench, "", results)
        assert not client.faults, client.faults[0]
        last = max(place for place, one in enumerate(said) if one.role is Role.USER)
        check_pairs(said[:last])
        assert turns == len({one.turn_id for one in said})
        report = check_store(path)
        assert {one.level for one in report.findings} == {Level.OK}, report
    assert client.sent > 50
    assert {"bring", "both", "say", "again"} <= set(client.tried)


async def test_a_stand_in_that_heeds_less_is_passed_over(tmp_path: Path) -> None:
    def down(_: Sequence[Message]) -> Step:
        raise AgentError("down", failure=AgentFailure.OUTAGE)

    agents = {"main": looped(down), "other": looped(Reply(("from the other",)))}
    async with running_turns(tmp_path / "state", agents) as bench:
        bench.turns.answering.fallbacks = {AgentId("main"): [AgentId("other")]}
        plain = await bring(bench, "one")
        wished = await bring(bench, "two", asked=Asked(wishes=Wishes(seed=7)))

    # A scripted model takes tools, but no seed.
    assert (plain.status, plain.agent, plain.text) == ("ok", "other", "from the other")
    assert (wished.status, wished.agent) == ("failed", "main")


async def test_a_tool_that_comes_later_with_the_same_name_fails_the_turn(tmp_path: Path) -> None:
    async with running_turns(tmp_path / "state", looped(calls("weather"), weather=box)) as bench:
        reply = await bring(bench, "one")

    assert (reply.status, reply.calls) == ("failed", ())
    assert SAME_NAME in reply.text


async def test_a_message_that_interrupts_leaves_no_call_open(tmp_path: Path) -> None:
    settings = TurnSettings(busy=Busy.INTERRUPT)
    agent = looped(calls("weather"), Reply(("done",)))
    async with running_turns(tmp_path / "state", agent, settings=settings) as bench:
        await bring(bench, "one")
        assert (await bring(bench, "two")).text == "done"
        said = await bench.said()

    assert said == [
        ("user", "one"),
        ("assistant", ""),
        ("tool", NOT_BROUGHT),
        ("user", "two"),
        ("assistant", "done"),
    ]


async def test_results_for_a_conversation_that_was_left_go_nowhere(tmp_path: Path) -> None:
    """The results are accepted, and the session is reset before their turn begins."""
    gate = anyio.Event()

    async def wait(**_: object) -> str:
        await gate.wait()
        return "waited"

    settings = TurnSettings(max_running=1)
    agent = looped(calls("weather"), calls("box"), Reply(("done",)), box=wait)
    async with running_turns(tmp_path / "state", agent, settings=settings) as bench:
        first = await bring(bench, "one")
        blocks = await bench.submit("block", "bob")
        waits = await submit(bench, "", {first.calls[0].call_id: "sun"})
        await bench.state.store.reset(bench.entry().session_key)
        gate.set()
        await reply_of(blocks)
        left = await reply_of(waits)
        new = await bench.said()
        old = await bench.said(first.session_id)

    assert left.status == "interrupted"
    assert left.session_id == first.session_id
    assert new == []
    assert [role for role, _ in old] == ["user", "assistant", "tool", "notice"]
