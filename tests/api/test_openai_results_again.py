"""Results of a client's tools that come again are answered as before, or after an error go on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import anyio
import openai
import pytest

from gateway.model import AgentId, SessionKey, ToolCall
from gateway.turns.reports import Report
from tests.api.openai_clients import HELLO, Asked, asked_by_sdk, said
from tests.support.answers import Answer, Refusal
from tests.support.toolbox import TestToolbox

if TYPE_CHECKING:
    from pathlib import Path

KEY: Final = SessionKey("agent:gpt:openai:alice:dm:bob::")
TOOLS: Final[Any] = [{"type": "function", "function": {"name": "weather"}}]


def calls(*names: str, text: str = "") -> Answer:
    made = (ToolCall(f"c{place}", name, "{}") for place, name in enumerate(names))
    return Answer(text, tool_calls=tuple(made))


async def box(**_: object) -> str:
    return "boxed"


@dataclass
class Client:
    """A client with one conversation."""

    client: openai.AsyncOpenAI
    messages: list[Any] = field(default_factory=lambda: list(HELLO))

    async def ask(self, *more: Any) -> tuple[str, str]:  # noqa: ANN401
        """Ask with what was said so far; return the answer, or the error, and its id."""
        try:
            answer = await self.client.chat.completions.create(
                model="gpt", messages=[*self.messages, *more], tools=TOOLS, user="bob"
            )
        except openai.APIStatusError as error:
            return str(error.status_code), error.message
        message = answer.choices[0].message
        if message.tool_calls:
            results = [
                {"role": "tool", "tool_call_id": call.id, "content": "sun"}
                for call in message.tool_calls
            ]
            self.messages += [message, *results]
        return str(message.content), answer.id


async def roles(asked: Asked) -> list[str]:
    response = await asked.api.client.get(f"/v1/sessions/{KEY}/transcript")
    return [one["role"] for one in response.json()["messages"]]


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([calls("weather"), calls("lookup"), "Sunny."], id="own tool behind them"),
        pytest.param([calls("weather", "lookup"), "Sunny."], id="own tool beside them"),
        pytest.param(
            [calls("weather"), calls("lookup", text="I look."), "Sunny."], id="own words as well"
        ),
    ],
)
async def test_results_that_come_again_are_known_by_their_calls(
    tmp_path: Path, answers: list[Any]
) -> None:
    toolbox = TestToolbox({"lookup": box})
    async with asked_by_sdk(tmp_path, toolbox=toolbox) as asked, await asked.client() as sdk:
        asked.fake.answer(*answers)
        client = Client(sdk)
        await client.ask()
        first, second = await client.ask(), await client.ask()

    assert first[0].endswith("Sunny.")
    assert first == second
    assert len(asked.fake.requests) == len(answers)


async def test_each_results_of_a_turn_have_their_own_answer(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as sdk:
        asked.fake.answer(calls("weather"), calls("weather"), "Sunny.")
        client = Client(sdk)
        await client.ask()
        early = list(client.messages)
        second = await client.ask()
        third = await client.ask()
        again = await Client(sdk, early).ask(), await client.ask()

    assert again == (second, third)
    assert second[1] != third[1]
    assert len(asked.fake.requests) == 3


async def test_results_are_known_where_the_reply_that_asked_is_not_kept_any_more(
    tmp_path: Path,
) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as sdk:
        asked.fake.answer(calls("weather"), "Sunny.")
        client = Client(sdk)
        await client.ask()
        await asked.api.state.database.write(
            lambda transaction: list(transaction.execute("DELETE FROM outbox"))
        )
        first, second = await client.ask(), await client.ask()

    assert first[0] == "Sunny."
    assert first == second


async def test_what_a_process_told_since_is_no_answer_to_results(tmp_path: Path) -> None:
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as sdk:
        asked.fake.answer(calls("weather"), "Sunny.")
        client = Client(sdk)
        await client.ask()
        first = await client.ask()
        entry = asked.api.state.store.get(KEY)
        assert entry is not None
        report = Report(
            *("p-1", KEY, entry.session_id, AgentId("gpt"), entry.source, "It has ended."),
            as_turn=False,
            settle=lambda _: True,
        )
        await asked.api.turns.report(report)
        again = await client.ask()

    assert again == first


@pytest.mark.parametrize(
    ("answers", "sent"),
    [
        pytest.param([Refusal(500)], [], id="at once"),
        pytest.param([calls("lookup"), Refusal(500)], ["assistant", "tool"], id="behind a tool"),
        pytest.param([Answer("It is go", then="is cut")], [], id="amid the answer"),
    ],
)
async def test_after_an_error_the_turn_goes_on_with_the_same_results(
    tmp_path: Path, answers: list[Any], sent: list[str]
) -> None:
    toolbox = TestToolbox({"lookup": box})
    async with asked_by_sdk(tmp_path, toolbox=toolbox) as asked, await asked.client() as sdk:
        asked.fake.answer(calls("weather"), *answers, "Sunny.")
        client = Client(sdk)
        await client.ask()
        failed = await client.ask()
        other = await client.ask({"role": "tool", "tool_call_id": "c9", "content": "rain"})
        first, second = await client.ask(), await client.ask()
        said_last = asked.fake.requests[-1].json["messages"]
        found = await roles(asked)
        asked.fake.answer("Yes.")
        more = await client.ask({"role": "assistant", "content": "Sunny."}, *said("Really?"))

    assert (failed[0], other[0], first[0], more[0]) == ("502", "400", "Sunny.", "Yes.")
    assert first == second
    # Nothing that the model had begun to say stands behind the results.
    start = ["system", "user", "assistant", "tool"]
    assert [one["role"] for one in said_last] == [*start, *sent]
    assert found.count("tool") == len(sent[1:]) + 1


async def test_results_may_be_sent_again_after_each_of_several_errors(tmp_path: Path) -> None:
    cut = Answer("It is go", then="is cut")
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as sdk:
        asked.fake.answer(calls("weather"), cut, cut, cut, "Sunny.")
        client = Client(sdk)
        answers = [(await client.ask())[0] for _ in range(5)]

    assert answers[1:] == ["502", "502", "502", "Sunny."]


async def test_results_are_not_taken_for_a_message_that_is_answered(tmp_path: Path) -> None:
    """What failed does not go on while another message is answered, and is not that one."""
    got: list[tuple[str, str]] = []
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as sdk:
        asked.fake.answer(calls("weather"), Refusal(500), "No matter.")
        client = Client(sdk)
        await client.ask()
        await client.ask()
        asked.fake.asked, asked.fake.gate = anyio.Event(), anyio.Event()

        async def more() -> None:
            got.append(await Client(sdk, said("never mind")).ask())

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(more)
                await asked.fake.asked.wait()
                status, why = await client.ask()
                asked.fake.gate.set()

    assert status == "400"
    assert "another message is being answered" in why
    assert got[0][0] == "No matter."


async def test_results_that_come_again_while_they_are_answered_are_the_same(
    tmp_path: Path,
) -> None:
    got: list[tuple[str, str]] = []
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as sdk:
        asked.fake.answer(calls("weather"), "Sunny.", "twice")
        client = Client(sdk)
        await client.ask()
        asked.fake.asked, asked.fake.gate = anyio.Event(), anyio.Event()

        async def bring() -> None:
            got.append(await client.ask())

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(bring)
                await asked.fake.asked.wait()
                group.start_soon(bring)
                while not asked.api.turns.statistics().duplicates:
                    await anyio.lowlevel.checkpoint()
                asked.fake.gate.set()

    assert got[0] == got[1]
    assert got[0][0] == "Sunny."
    assert len(asked.fake.requests) == 2


async def test_who_brought_results_has_read_the_calls(tmp_path: Path) -> None:
    """A retry that says the first words of a turn that has gone on is a new message."""
    async with asked_by_sdk(tmp_path) as asked, await asked.client() as sdk:
        token = sdk.api_key
        asked.fake.answer(calls("weather"), "Sunny.")
        client = Client(sdk)
        await client.ask()
        await client.ask()
    async with asked_by_sdk(tmp_path) as asked, asked.with_token(token) as sdk:
        asked.fake.answer("Hello again.")
        again = await sdk.chat.completions.create(
            model="gpt",
            messages=HELLO,
            user="bob",
            extra_headers={"x-stainless-retry-count": "1"},
        )

    assert again.choices[0].message.content == "Hello again."
