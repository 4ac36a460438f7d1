"""Laws of odd text: whatever a user, a platform or a model writes is answered and stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.agents.base import MessageFinished, ModelCallFinished, TextDelta
from gateway.errors import BadRequestError
from gateway.model import ChatType, Inbound, Message, ModelCall, Role, SessionSource, ToolCall
from tests.support.state import START, shown
from tests.support.turns import PlayedAgent, reply_of, running_turns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from gateway.agents.base import AgentEvent

_ODD = [
    pytest.param("a\ud800b", "a�b", id="lone-surrogate"),
    pytest.param("a\0b", "ab", id="nul"),
    pytest.param("a\x07\x1b[2Jb", "a\x07\x1b[2Jb", id="control-characters"),
    pytest.param("a\u202eb\u2028c", "a\u202eb\u2028c", id="direction-and-line-separators"),
    pytest.param("\U0001f600\u0301", "\U0001f600\u0301", id="astral-and-combining"),
    pytest.param('"\\\n\r\t</script>', '"\\\n\r\t</script>', id="what-formats-escape"),
]


@pytest.mark.parametrize(("text", "kept"), _ODD)
async def test_odd_text_of_a_user_is_answered_and_survives_a_restart(
    tmp_path: Path, text: str, kept: str
) -> None:
    async with running_turns(tmp_path / "state") as bench:
        assert (await bench.say(text)).text == f"re: {kept}"

    async with running_turns(tmp_path / "state") as bench:
        assert await bench.said() == [("user", kept), ("assistant", f"re: {kept}")]


@pytest.mark.parametrize(("text", "kept"), _ODD)
async def test_odd_text_of_a_model_is_handed_on_and_harms_nothing(
    tmp_path: Path, text: str, kept: str
) -> None:
    async def play(_: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        calls = (ToolCall(text, text, text),)
        yield ModelCallFinished(ModelCall("played", START, None))
        yield MessageFinished(Message(Role.ASSISTANT, "", tool_calls=calls))
        yield MessageFinished(Message(Role.TOOL, text, tool_call_id=text, tool_name=text))
        yield TextDelta(text)
        yield MessageFinished(Message(Role.ASSISTANT, text))

    async with running_turns(tmp_path / "state", PlayedAgent(play)) as bench:
        first = await bench.say("hello", message_id="m1")
        assert (first.status, first.text) == ("ok", kept)
        assert await bench.say("hello", message_id="m1") == first
        said = await bench.said()
        assert said == [("user", "hello"), ("assistant", ""), ("tool", kept), ("assistant", kept)]
        assert (await bench.say("again")).status == "ok"


async def test_names_are_made_fit_for_dashboards(tmp_path: Path) -> None:
    async with running_turns(tmp_path / "state") as bench:
        source = SessionSource("http", "alice", user_name="E\ud800ve\n\u202e" + "x" * 200)
        await reply_of(await bench.turns.submit(Inbound(source, "hello")))
        await bench.state.store.snapshots.write()

        (entry,) = shown(tmp_path / "state").values()
        assert entry["display_name"] == "E�ve��" + "x" * 122


@pytest.mark.parametrize("field", ["chat_id", "thread_id", "user_id", "account", "message_id"])
@pytest.mark.parametrize("text", ["a\ud800", "a\0", "a\n"], ids=["surrogate", "nul", "control"])
async def test_an_id_that_no_platform_would_give_is_refused_and_stores_nothing(
    tmp_path: Path, field: str, text: str
) -> None:
    ids = {"chat_id": "team", "thread_id": "", "user_id": "eve", "account": "", "message_id": ""}
    ids[field] = text
    message_id = ids.pop("message_id")
    source = SessionSource(platform="http", chat_type=ChatType.GROUP, **ids)
    async with running_turns(tmp_path / "state") as bench:
        with pytest.raises(BadRequestError, match=field):
            await bench.turns.submit(Inbound(source, "hello", message_id))

        assert len(bench.state.store) == 0
        assert bench.turns.statistics().waiting == 0
