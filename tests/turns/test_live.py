"""Laws of a turn whose tools return more than the window holds: an answer, and the same bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from gateway.context.estimate import estimate_context_chars
from gateway.context.settings import ContextSettings, HardClearSettings, PruningSettings
from gateway.model import ProjectionMode, Role
from gateway.transcripts import projections
from gateway.turns.live import TOOLS_TOO_LONG
from tests.support.loops import (
    Looped,
    is_extension,
    is_paired,
    results,
    says,
    transcript,
    users,
    wants,
)
from tests.support.state import power_cut
from tests.support.toolbox import TestToolbox
from tests.support.turns import running_turns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gateway.agents.scripted import Step
    from gateway.model import Message

ROOM_CHARS = 20_000
GONE = "[Old tool result content cleared]"


async def page(chars: int = 0, **_: object) -> str:
    await anyio.lowlevel.checkpoint()
    return "begin" + "p" * (chars - 8) + "end"


def reader(*steps: Sequence[int]) -> Looped:
    """Return an agent that reads, step by step, pages of so many characters, and then answers."""

    def step(messages: Sequence[Message]) -> Step:
        turn = messages[max(n for n, one in enumerate(messages) if one.role is Role.USER) :]
        done = sum(bool(one.tool_calls) for one in turn)
        if turn[0].text != "read" or done == len(steps):
            return says("done", messages)

        calls = [f'page {{"chars": {chars}, "no": {n}}}' for n, chars in enumerate(steps[done])]
        return wants(*calls, messages=messages)

    return Looped(step, TestToolbox({"page": page}), window_tokens=5_500, reserve_tokens=500)


async def test_a_turn_whose_tools_return_far_more_than_the_window_ends_with_an_answer(
    tmp_path: Path,
) -> None:
    agent = reader(*[[9_000]] * 6, [150_000], [30_000, 40, 60_000])
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        await bench.say("hello")
        reply = await bench.say("read")

        assert (reply.status, reply.text) == ("ok", "done")
        for sent in agent.sent:
            assert estimate_context_chars(sent) <= ROOM_CHARS
            assert is_paired(sent)
            assert users(sent)[-1] in {"hello", "read"}
        last = results(agent.sent[-1])
        assert last[:7] == [GONE] * 7
        long, short, longest = last[7:]
        assert len(short) == 40
        for text in (long, longest):
            assert text.startswith("beginppp")
            assert "pppend\n[trimmed: the first " in text
            assert len(text) > 5_000
        assert [len(text) for text in results(await transcript(bench))] == [
            *[9_000] * 6,
            150_000,
            30_000,
            40,
            60_000,
        ]
        assert reply.context.tokens <= 5_000


async def test_a_result_is_whole_while_there_is_room_and_what_was_sent_of_it_stays(
    tmp_path: Path,
) -> None:
    agent = reader([6_000], [6_000], [6_000], [6_000])
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        await bench.say("read")

    shown = [results(sent) for sent in agent.sent]
    whole = "begin" + "p" * 5_992 + "end"
    assert shown[:4] == [[whole] * number for number in range(4)]
    # Three quarters of the room are left, so that the next results break no prompt cache.
    assert shown[4] == [GONE, GONE, whole, whole]


async def test_the_next_turn_begins_with_the_same_bytes_also_after_a_restart(
    tmp_path: Path,
) -> None:
    agent = reader([9_000], [9_000], [12_000, 12_000], [150_000])
    # A round would change more of it: a cold cache, and all results are old.
    off = ContextSettings(pruning=PruningSettings.model_validate({"mode": "off"}))
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        bench.turns.contexts.settings = off
        await bench.say("read")
        session_id = bench.entry().session_id
        made = await bench.state.database.read(lambda conn: projections.read(conn, session_id))
        modes = [one.mode for one in made]
        assert modes.count(ProjectionMode.CLEAR) == 4
        assert modes.count(ProjectionMode.TRIM) == 1
        killed = power_cut(bench.state, tmp_path / "killed")
        last = agent.sent[-1]
        await bench.say("and now?")
        assert is_extension(agent.sent[-1], last)

    for path in (tmp_path / "state", killed):
        async with running_turns(path, agent.agent) as bench:
            bench.turns.contexts.settings = off.model_copy(
                update={"pruning": off.pruning.model_copy(update={"hard_clear": ANOTHER})}
            )
            await bench.say("and then?")
            assert is_extension(agent.sent[-1], last)


ANOTHER = HardClearSettings(placeholder="[another]")


async def test_older_turns_leave_before_a_running_one_is_cut(tmp_path: Path) -> None:
    agent = reader([6_000], [6_000])
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        for letter in "abcd":
            await bench.say(letter * 4_000)
        reply = await bench.say("read")

        assert reply.status == "ok"
        assert results(agent.sent[-1]) == ["begin" + "p" * 5_992 + "end"] * 2
        assert reply.context.turns_left_out > 0


async def test_where_even_cut_results_have_no_room_it_is_said_in_words(tmp_path: Path) -> None:
    # What an agent writes itself is never cut.
    def step(messages: Sequence[Message]) -> Step:
        if users(messages)[-1] != "write":
            return says("ok")

        return wants("page", text="w" * 8_000)

    agent = Looped(step, TestToolbox({"page": page}), window_tokens=5_500, reserve_tokens=500)
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        await bench.say("hello")
        reply = await bench.say("write")

        assert reply.status == "failed"
        assert reply.text.endswith(TOOLS_TOO_LONG)
        assert len(agent.sent) == 1 + 3
        after = await bench.say("still there?")
        assert (after.status, after.text) == ("ok", "ok")
        assert is_paired(agent.sent[-1])


async def test_what_was_cut_in_a_turn_that_a_stop_cut_off_is_not_cut_of_its_second_run(
    tmp_path: Path,
) -> None:
    """Call ids are given anew in the second run, and may name other results."""
    asked = anyio.Event()

    async def hang(**_: object) -> str:
        asked.set()
        await anyio.sleep_forever()
        return ""

    agent = reader([9_000], [9_000], [9_000])

    def stuck(messages: Sequence[Message]) -> Step:
        if len(results(messages)) == 3:
            return wants("hang")

        return plain(messages)

    plain = agent.step
    agent.step = stuck
    agent.tools = TestToolbox({"page": page, "hang": hang})
    agent.__post_init__()
    async with running_turns(tmp_path / "state", agent.agent) as bench:
        await bench.submit("read", message_id="m1")
        with anyio.fail_after(30):
            await asked.wait()
        assert results(agent.sent[-1])[0] == GONE

    again = reader([500], [500], [500])
    async with running_turns(tmp_path / "state", again.agent) as bench:
        reply = await bench.say("read", message_id="m1")
        assert reply.status == "ok"
        last = again.sent[-1]
        assert [len(text) for text in results(last)] == [500] * 3
        await bench.say("and now?")
        assert is_extension(again.sent[-1], last)
    async with running_turns(tmp_path / "state", again.agent) as bench:
        await bench.say("and then?")
        assert is_extension(again.sent[-1], last)
