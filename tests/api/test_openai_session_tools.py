"""A client's own tools in a session, called by the official SDK."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import anyio
import openai
import pytest
from pydantic import BaseModel
from typing_extensions import override

from gateway.clock import SystemClock
from gateway.model import ToolCall
from gateway.transcripts.open_turns import NOT_BROUGHT
from gateway.upkeep.checking import check_store
from gateway.upkeep.findings import Level
from tests.api.openai_clients import HELLO, asked_by_sdk, said
from tests.support.answers import Answer, Refusal
from tests.support.toolbox import TestToolbox
from tests.support.upstream import upstream

if TYPE_CHECKING:
    from pathlib import Path

    from openai.types.chat import ChatCompletion

    from tests.api.openai_clients import Asked

NAMED: Final = {"x-session-key": "diary"}
WEATHER: Final[Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
    },
}


def calling(*pairs: tuple[str, str], text: str = "") -> Answer:
    """Return an answer that calls tools, each with the id c0, c1, ..."""
    calls = tuple(ToolCall(f"c{i}", name, text) for i, (name, text) in enumerate(pairs))
    return Answer(text, tool_calls=calls)


ASKS: Final = calling(("weather", '{"town": "Rome"}'))


async def create(client: openai.AsyncOpenAI, messages: Any, **more: Any) -> ChatCompletion:  # noqa: ANN401
    """Ask in the session, whole or streamed and put together by the SDK."""
    asked = {"model": "gpt", "extra_headers": NAMED, "tools": [WEATHER], **more}
    if not asked.pop("stream", False):
        answer: ChatCompletion = await client.chat.completions.create(messages=messages, **asked)
        return answer

    async with client.chat.completions.stream(messages=messages, **asked) as stream:
        async for _ in stream:
            pass
        return await stream.get_final_completion()


def with_results(messages: Any, answer: ChatCompletion, *texts: str) -> Any:  # noqa: ANN401
    """Return the conversation as every program with tools sends it back: the SDK's own object."""
    message = answer.choices[0].message
    calls = message.tool_calls or []
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": text}
        for call, text in zip(calls, texts, strict=True)
    ]
    return [*messages, message, *results]


def arguments(answer: ChatCompletion) -> list[str]:
    """Return the arguments of the calls of an answer."""
    calls: Any = answer.choices[0].message.tool_calls or []
    return [call.function.arguments for call in calls]


async def transcript(asked: Asked) -> list[tuple[str, str]]:
    """Return role and text of each message of the one session."""
    (key,) = [
        one["session_key"]
        for one in (await asked.api.client.get("/v1/sessions")).json()["sessions"]
    ]
    response = await asked.api.client.get(f"/v1/sessions/{key}/transcript")
    return [(one["role"], one["text"]) for one in response.json()["messages"]]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("model", ["gpt", "claude"])
async def test_calls_return_and_results_go_on(tmp_path: Path, model: str, *, stream: bool) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        ask = partial(create, client, model=model, stream=stream)
        asked.fake.answer(
            calling(("weather", '{"town": "Rome"}'), ("weather", '{"town": "Bari"}'), text="Look."),
            ASKS,
            "Sunny.",
            "Bye.",
        )
        first = await ask(HELLO)
        messages = with_results(HELLO, first, "sun", "rain")
        second = await ask(messages)
        messages = with_results(messages, second, "sun again")
        third = await ask(messages)
        await ask([*messages, third.choices[0].message, *said("bye")])
        found = await transcript(asked)
        entry = (await asked.api.client.get("/v1/sessions")).json()["sessions"][0]
        requests = asked.fake.requests

    answer = first.choices[0]
    assert (answer.finish_reason, answer.message.content) == ("tool_calls", "Look.")
    calls: Any = answer.message.tool_calls
    assert [call.function.arguments for call in calls] == ['{"town": "Rome"}', '{"town": "Bari"}']
    assert second.choices[0].message.content is None or stream
    assert third.choices[0].message.content == "Sunny."
    assert third.choices[0].finish_reason == "stop"
    assert found == [
        ("user", "hello"),
        ("assistant", "Look."),
        ("tool", "sun"),
        ("tool", "rain"),
        ("assistant", ""),
        ("tool", "sun again"),
        ("assistant", "Sunny."),
        ("user", "bye"),
        ("assistant", "Bye."),
    ]
    # Each request begins as the one before did: what was said is sent as it was sent.
    for before, after in pairwise(requests):
        assert after.blocks[: len(before.blocks)] == before.blocks
    # It is one turn, whose id all its messages bear.
    assert entry["turns"] == 2
    assert len({first.id, second.id, third.id}) == 3


async def test_the_sdks_runner_of_functions_works_unchanged(tmp_path: Path) -> None:
    class Weather(BaseModel):
        town: str

    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.answer(calling(("Weather", '{"town": "Rome"}')), '{"town": "Rome"}')
        tool: Any = openai.pydantic_function_tool(Weather)
        first = await client.chat.completions.parse(
            model="gpt", messages=HELLO, tools=[tool], extra_headers=NAMED
        )
        last = await client.chat.completions.parse(
            model="gpt",
            messages=with_results(HELLO, first, "sun"),
            tools=[tool],
            response_format=Weather,
            extra_headers=NAMED,
        )

    (call,) = first.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == Weather(town="Rome")
    assert last.choices[0].message.parsed == Weather(town="Rome")


async def test_usage_of_each_request_is_its_own(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.answer(ASKS, "Sunny.")
        first = await create(client, HELLO)
        last = await create(client, with_results(HELLO, first, "sun"))
        rows = await asked.usage()

    counted = [one.usage.prompt_tokens for one in (first, last) if one.usage is not None]
    assert counted == [request.tokens for request in asked.fake.requests]
    assert [(row["name"], row["calls"]) for row in rows] == [("openai:alice:user:alice", 2)]


@pytest.mark.parametrize("model", ["gpt", "claude"])
async def test_who_goes_on_without_results_leaves_no_call_open(tmp_path: Path, model: str) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        ask = partial(create, client, model=model)
        asked.fake.answer(calling(("weather", "{}"), ("weather", "{}")), "Well.", "Yes.")
        first = await ask(HELLO)
        await ask(said("never mind"))
        # It is too late for them now.
        with pytest.raises(openai.BadRequestError, match="answers no open call") as late:
            await ask(with_results(HELLO, first, "sun", "rain"))
        await ask(said("and now?"))
        found = await transcript(asked)
        sent = [request.blocks for request in asked.fake.requests]

    assert late.value.param == "messages[2].tool_call_id"
    assert found == [
        ("user", "hello"),
        ("assistant", ""),
        ("tool", NOT_BROUGHT),
        ("tool", NOT_BROUGHT),
        ("user", "never mind"),
        ("assistant", "Well."),
        ("user", "and now?"),
        ("assistant", "Yes."),
    ]
    assert sent[1][: len(sent[0])] == sent[0]
    assert sent[2][: len(sent[1])] == sent[1]


async def test_results_and_a_message_end_the_turn_and_begin_another(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.answer(calling(("weather", "{}"), ("weather", "{}")), "Well.", "Yes.")
        first = await create(client, HELLO)
        (one, _) = with_results(HELLO, first, "sun", "rain")[2:]
        await create(client, [*HELLO, first.choices[0].message, one, *said("hurry")])
        await create(client, said("and now?"))
        found = await transcript(asked)
        sent = [request.blocks for request in asked.fake.requests]

    assert found[2:6] == [
        ("tool", "sun"),
        ("tool", NOT_BROUGHT),
        ("user", "hurry"),
        ("assistant", "Well."),
    ]
    assert sent[2][: len(sent[1])] == sent[1]


async def test_results_of_calls_that_were_not_made_are_refused(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.answer(calling(("weather", "{}"), ("weather", "{}")), "Sunny.")
        results = [{"role": "tool", "tool_call_id": "c0", "content": "sun"}]
        # There is no session yet, and none begins.
        with pytest.raises(openai.BadRequestError, match="no open call"):
            await create(client, results)
        assert (await asked.api.client.get("/v1/sessions")).json()["sessions"] == []

        first = await create(client, HELLO)
        messages = with_results(HELLO, first, "sun", "rain")
        forged = [*messages[:-1], {**messages[-1], "tool_call_id": "c7"}]
        with pytest.raises(openai.BadRequestError) as refused:
            await create(client, forged)
        with pytest.raises(openai.BadRequestError, match="1 open call of this session has no"):
            await create(client, messages[:-1])
        found = await transcript(asked)
        answer = await create(client, messages)
        with pytest.raises(openai.BadRequestError, match="no open call"):
            await create(client, with_results(HELLO, first, "sun", "snow"))

    assert (refused.value.param, refused.value.type) == (
        "messages[3].tool_call_id",
        "invalid_request_error",
    )
    # What was refused left nothing.
    assert len(found) == 2
    assert answer.choices[0].message.content == "Sunny."


async def test_results_can_be_brought_again_where_the_provider_failed(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.answer(ASKS, Refusal(503), "Sunny.", "Yes.")
        messages = with_results(HELLO, await create(client, HELLO), "sun")
        with pytest.raises(openai.InternalServerError):
            await create(client, messages)
        other = [*messages[:-1], {**messages[-1], "content": "rain"}]
        with pytest.raises(openai.BadRequestError, match="another result"):
            await create(client, other)
        # The provider rests for a moment, but there is no other.
        last = await create(client, messages)
        await create(client, said("really?"))
        found = await transcript(asked)
        sent = [request.blocks for request in asked.fake.requests]

    assert last.choices[0].message.content == "Sunny."
    assert [role for role, _ in found] == [
        *("user", "assistant", "tool", "notice", "assistant"),
        *("user", "assistant"),
    ]
    assert sent[1] == sent[2]
    assert sent[3][: len(sent[2])] == sent[2]


async def test_the_same_key_is_the_same_calls(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.answer(ASKS, "Sunny.", "no")
        one, two = ({**NAMED, "Idempotency-Key": key} for key in ("k-1", "k-2"))
        first = [
            await create(client, HELLO, extra_headers=one, stream=stream)
            for stream in (False, False, True)
        ]
        messages = with_results(HELLO, first[-1], "sun")
        last = [await create(client, messages, extra_headers=two) for _ in range(2)]
        again = await create(client, HELLO, extra_headers=one)

    assert len({one.id for one in (*first, again)}) == 1
    assert {one.choices[0].finish_reason for one in (*first, again)} == {"tool_calls"}
    assert [arguments(one) for one in first] == [['{"town": "Rome"}']] * 3
    assert [one.choices[0].message.content for one in last] == ["Sunny."] * 2
    assert len(asked.fake.requests) == 2


async def test_tokens_with_one_session_name_bring_no_results_to_each_other(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked:
        alice, bob = await asked.client("alice"), await asked.client("bob")
        async with alice, bob:
            asked.fake.answer(ASKS, "Sunny.")
            first = await create(alice, HELLO)
            messages = with_results(HELLO, first, "sun")
            with pytest.raises(openai.BadRequestError, match="no open call"):
                await create(bob, messages)
            last = await create(alice, messages)

    assert last.choices[0].message.content == "Sunny."


async def test_results_that_come_again_join_the_turn_that_goes_on(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.answer(ASKS, "Sunny.")
        messages = with_results(HELLO, await create(client, HELLO), "sun")
        asked.fake.gate, asked.fake.asked = anyio.Event(), anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(create, client, messages)
            await asked.fake.asked.wait()
            with pytest.raises(openai.BadRequestError, match="another message is being answered"):
                await create(client, [*messages[:-1], messages[-1] | {"content": "rain"}])
            group.start_soon(create, client, messages)
            asked.fake.gate.set()
        found = await transcript(asked)

    assert [text for _, text in found] == ["hello", "", "sun", "Sunny."]
    assert len(asked.fake.requests) == 2


async def test_a_session_that_was_reset_has_no_open_call(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.answer(ASKS, "Hello.")
        messages = with_results(HELLO, await create(client, HELLO), "sun")
        await asked.api.post("/v1/sessions/agent:gpt:openai:alice:dm:diary::/reset")
        with pytest.raises(openai.BadRequestError, match="no open call"):
            await create(client, messages)
        answer = await create(client, HELLO)

    assert str(answer.choices[0].message.content).endswith("Hello.")


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_summary_by_hand_amid_a_turn_leaves_it_whole(
    tmp_path: Path, *, restarts: bool
) -> None:
    key = "agent:gpt:openai:alice:dm:diary::"
    async with upstream(SystemClock()) as fake, AsyncExitStack() as stack:
        fake.answer(*["So. " * 500] * 4, ASKS, "They said little.", "Sunny.", "Bye.")

        async def serve(stack: AsyncExitStack) -> Asked:
            serving = asked_by_sdk(tmp_path, fake=fake, window_tokens=50_000)
            return await stack.enter_async_context(serving)

        async with AsyncExitStack() as before:
            asked = await serve(before if restarts else stack)
            token = await asked.token("alice")
            async with asked.with_token(token) as client:
                for number in range(4):
                    await create(client, said(f"{number} " * 500))
                first = await create(client, HELLO)
        if restarts:
            asked = await serve(stack)
        compacted = await asked.api.post(f"/v1/sessions/{key}/context/compact")
        async with asked.with_token(token) as client:
            last = await create(client, with_results(HELLO, first, "sun"))
            await create(client, said("bye"))
        sent = [request.json["messages"] for request in fake.requests]
        blocks = [request.blocks for request in fake.requests]

    assert compacted.json()["compacted"], compacted.text
    assert last.choices[0].message.content == "Sunny."
    assert [one["role"] for one in sent[-2]][-3:] == ["user", "assistant", "tool"]
    assert sum("tool_calls" in one for one in sent[-2]) == 1
    assert blocks[-1][: len(blocks[-2])] == blocks[-2]


async def test_who_resigns_after_a_restart_leaves_no_call_open(tmp_path: Path) -> None:
    async with upstream(SystemClock()) as fake:
        fake.answer(ASKS, "Well.", "Yes.")
        async with asked_by_sdk(tmp_path, fake=fake) as asked:
            token = await asked.token("alice")
            async with asked.with_token(token) as client:
                await create(client, HELLO)
        async with asked_by_sdk(tmp_path, fake=fake) as asked, asked.with_token(token) as client:
            await create(client, said("never mind"))
        async with asked_by_sdk(tmp_path, fake=fake) as asked, asked.with_token(token) as client:
            await create(client, said("and now?"))
            found = await transcript(asked)

    assert found[2:4] == [("tool", NOT_BROUGHT), ("user", "never mind")]
    sent = [request.blocks for request in fake.requests]
    assert sent[2][: len(sent[1])] == sent[1]


async def box(**_: object) -> str:
    return "in the box"


@pytest.mark.parametrize("model", ["gpt", "claude"])
async def test_tools_of_both_sides_beside_each_other(tmp_path: Path, model: str) -> None:
    toolbox = TestToolbox({"box": box})
    async with (
        asked_by_sdk(tmp_path, toolbox=toolbox) as asked,
        await asked.client() as client,
    ):
        asked.fake.answer(
            calling(("box", "{}")),
            calling(("weather", "{}"), ("box", '{"q": "x"}'), ("weather", "{}")),
            calling(("box", "{}")),
            "Done.",
        )
        ask = partial(create, client, model=model)
        first = await ask(HELLO, tool_choice="required")
        last = await ask(with_results(HELLO, first, "sun", "rain"))
        found = await transcript(asked)
        sent = [request.json for request in asked.fake.requests]
        blocks = [request.blocks for request in asked.fake.requests]

    calls: Any = first.choices[0].message.tool_calls
    assert [call.function.name for call in calls] == ["weather", "weather"]
    assert last.choices[0].message.content == "Done."
    assert [name for name, _ in toolbox.called] == ["box", "box", "box"]
    assert [text for role, text in found if role == "tool"] == [
        *("in the box", "in the box", "sun", "rain", "in the box"),
    ]
    # A call of ours is what was required; after it the model is free.
    choices = [one["tool_choice"] for one in sent]
    auto, required = ("auto", "required") if model == "gpt" else ({"type": "auto"}, {"type": "any"})
    assert choices == [required, auto, auto, auto]
    assert len(sent[0]["tools"]) == 2
    # The first choice aside, which one of the wires reads as part of the prompt.
    for before, after in pairwise(blocks[1:]):
        assert after[: len(before)] == before


class Asking(TestToolbox):
    """Tools that each need the user's yes."""

    @override
    def needs_approval(self, name: str) -> bool:
        return bool(name)


async def test_nobody_is_asked_where_nobody_can_answer(tmp_path: Path) -> None:
    toolbox = Asking({"box": box})
    async with asked_by_sdk(tmp_path, toolbox=toolbox) as asked, await asked.client() as client:
        asked.fake.answer(calling(("box", "{}")), "I may not.")
        answer = await client.chat.completions.create(model="gpt", messages=HELLO, user="bob")
        told = asked.fake.requests[-1].json["messages"][-1]

    assert answer.choices[0].message.content == "I may not."
    assert not toolbox.called
    assert told["role"] == "tool"
    assert "nobody can be asked" in told["content"]


async def test_names_that_clash_are_refused(tmp_path: Path) -> None:
    toolbox = TestToolbox({"weather": box})
    async with (
        asked_by_sdk(tmp_path, toolbox=toolbox) as asked,
        await asked.client() as client,
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            await create(client, HELLO)
        assert not asked.fake.requests
        # Without a session there are none of ours.
        await create(client, HELLO, extra_headers={})

    assert refused.value.param == "tools[0].function.name"


async def test_no_tool_is_called_where_the_client_wants_none(tmp_path: Path) -> None:
    async with (
        asked_by_sdk(tmp_path, toolbox=TestToolbox({"box": box})) as asked,
        await asked.client() as client,
    ):
        await create(client, HELLO, tool_choice="none")
        await client.chat.completions.create(
            model="gpt", messages=HELLO, tool_choice="none", extra_headers=NAMED
        )

    assert [one.json["tool_choice"] for one in asked.fake.requests] == ["none", "none"]


async def test_a_session_whose_results_are_pruned_goes_on(tmp_path: Path) -> None:
    """Long results fill the window again and again; each call keeps its result, or leaves."""
    async with (
        asked_by_sdk(tmp_path, window_tokens=3_000) as asked,
        await asked.client() as client,
    ):
        asked.fake.window_tokens = 2_600
        messages: Any = []
        for number in range(8):
            asked.fake.answer(ASKS, "Sunny.")
            messages += said(f"{number}?")
            first = await create(client, messages)
            messages = with_results(messages, first, f"{number} " * 1_200)
            last = await create(client, messages)
            messages = [*messages, last.choices[0].message]
            assert last.choices[0].message.content == "Sunny."
        report = await asked.api.client.get("/v1/sessions")

    # The pretended provider refuses a call without its result, and a result without its call.
    assert len(asked.fake.requests) >= 16
    assert report.json()["sessions"][0]["turns"] == 8


async def test_a_turn_of_many_steps_that_fills_the_window_goes_on(tmp_path: Path) -> None:
    async with (
        asked_by_sdk(tmp_path, window_tokens=4_000) as asked,
        await asked.client() as client,
    ):
        asked.fake.window_tokens = 3_600
        asked.fake.answer(*[ASKS] * 30, "Done.")
        messages: Any = HELLO
        answer = await create(client, messages)
        while answer.choices[0].finish_reason == "tool_calls":
            messages = with_results(messages, answer, "sun " * 500)
            answer = await create(client, messages)
        found = await transcript(asked)

    # More steps than an agent may do by itself: here the client decides on each.
    assert answer.choices[0].message.content == "Done."
    assert sum(role == "tool" for role, _ in found) == 30


async def test_a_result_that_was_cut_stays_as_it_was_sent(tmp_path: Path) -> None:
    async with (
        asked_by_sdk(tmp_path, window_tokens=4_000) as asked,
        await asked.client() as client,
    ):
        asked.fake.answer(ASKS, ASKS, "Done.")
        first = await create(client, HELLO)
        messages = with_results(HELLO, first, "sun " * 5_000)
        second = await create(client, messages)
        last = await create(client, with_results(messages, second, "rain"))
        sent = [request.blocks for request in asked.fake.requests]
        results = [one["content"] for one in asked.fake.requests[-1].json["messages"]][-3::2]

    assert last.choices[0].message.content == "Done."
    assert "[trimmed:" in results[0]
    assert results[1] == "rain"
    assert sent[2][: len(sent[1])] == sent[1]


async def test_what_is_stored_fits_together(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as client:
        asked.fake.answer(ASKS, "Sunny.", ASKS, "Well.", ASKS)
        await create(client, with_results(HELLO, await create(client, HELLO), "sun"))
        await create(client, HELLO)
        await create(client, said("never mind"))
        await create(client, HELLO)
    report = check_store(asked.api.state.path)

    assert {one.level for one in report.findings} == {Level.OK}, report
