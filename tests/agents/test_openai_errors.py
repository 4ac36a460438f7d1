"""Laws of what an OpenAI-compatible endpoint's failures come to, over the wire."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

import pytest
import structlog

from gateway.errors import AgentError
from gateway.settings import SecretSource
from tests.agents.events import openai_agent, run_agent, user
from tests.agents.wire_server import error_answer, events_answer, text_answer, wire_server
from tests.support.chat_wire import DONE, chunk_event

if TYPE_CHECKING:
    from pathlib import Path

    from tests.agents.wire_server import WireAnswer

KEY = "sk-canary-0123456789"
SECRET_TEXT = "what-the-user-wrote"


async def _failure(answer: WireAnswer, **changes: object) -> AgentError:
    """Return the error that an answer comes to, and see that the next run works."""
    async with wire_server(answer) as server, openai_agent(server, **changes) as agent:
        with pytest.raises(AgentError) as caught:
            await run_agent(agent, [user(SECRET_TEXT)])
        server.script(text_answer("well again"))
        assert (await run_agent(agent, [user("hi")])).text == "well again"
    return caught.value


@pytest.mark.parametrize(
    ("answer", "user_text", "facts"),
    [
        (error_answer(400), "refused the request", "status '400'"),
        (error_answer(400, code="context_length_exceeded"), "too long for the model", "'400'"),
        (error_answer(400, "maximum context length is 4096 tokens"), "too long", "'400'"),
        (error_answer(401), "is not accepted: the operator must check", "'401'"),
        (error_answer(402), "used up: the operator must check", "'402'"),
        (error_answer(403), "is not accepted: the operator must check", "'403'"),
        (error_answer(404), "does not know the model", "'404'"),
        (error_answer(413), "too long for the model", "'413'"),
        (error_answer(429), "limits the rate", "'429'"),
        (error_answer(429, code="insufficient_quota"), "used up", "code 'insufficient_quota'"),
        (error_answer(500), "overloaded or out of order", "request id 'req-7'"),
        (error_answer(503), "overloaded or out of order", "'503'"),
        (error_answer(504), "in time", "'504'"),
        (error_answer(529), "overloaded or out of order", "'529'"),
        (error_answer(307, Location="http://127.0.0.1:1/v1"), "refused the request", "'307'"),
    ],
)
async def test_each_refusal_tells_the_user_what_it_means_and_the_log_the_facts(
    answer: WireAnswer, user_text: str, facts: str
) -> None:
    error = await _failure(answer)

    assert user_text in error.user_text
    assert facts in str(error)


@pytest.mark.parametrize(
    ("answer", "user_text"),
    [
        pytest.param(events_answer(b"data: {junk\n\n"), "broke off", id="junk"),
        pytest.param(events_answer(b"data: \xff\xfe\n\n"), "broke off", id="no-utf-8"),
        pytest.param(events_answer(b"data: 5\n\n"), "broke off", id="a-number"),
        pytest.param(events_answer(b"data: []\n\n"), "broke off", id="a-list"),
        pytest.param(events_answer({"choices": 5}), "broke off", id="choices-a-number"),
        pytest.param(events_answer({"choices": [None]}), "broke off", id="choice-null"),
        pytest.param(events_answer(chunk_event(delta=7)), "broke off", id="delta-a-number"),
        pytest.param(
            events_answer(chunk_event(delta={"content": {"a": 1}})),
            "broke off",
            id="content-object",
        ),
        pytest.param(events_answer(DONE), "broke off", id="nothing"),
        pytest.param(events_answer(b""), "broke off", id="empty-body"),
        pytest.param(
            events_answer(chunk_event(delta={"content": "Hi"}), DONE), "broke off", id="no-end"
        ),
        pytest.param(
            events_answer(chunk_event(delta={"tool_calls": [{"index": 0, "id": 5}]})),
            "broke off",
            id="id-a-number",
        ),
        pytest.param(text_answer(), "gave no answer", id="no-text"),
        pytest.param(text_answer(finish_reason="length"), "gave no answer", id="no-text-length"),
        pytest.param(text_answer("Hi", finish_reason="error"), "gave no answer", id="error"),
        pytest.param(text_answer("Hi", finish_reason="content_filter"), "filtered", id="filter"),
        pytest.param(events_answer({"error": {"code": 429}}), "limits the rate", id="limit-inside"),
        pytest.param(events_answer({"error": {"message": "x"}}), "broke off", id="error-inside"),
        pytest.param(error_answer(500).cut(90), "cannot be reached", id="cut-error"),
    ],
)
async def test_a_stream_that_is_no_answer_is_an_error(answer: WireAnswer, user_text: str) -> None:
    error = await _failure(answer)

    assert user_text in error.user_text


async def test_an_answer_without_end_is_broken_off() -> None:
    error = await _failure(events_answer(*[chunk_event(delta={"content": "x" * 1_000_000})] * 5))

    assert "has no end" in str(error)


async def test_a_tool_that_was_not_offered_ends_the_turn() -> None:
    def fragment(index: int, **function: str) -> dict[str, object]:
        call = {"index": index, "id": "c" if "name" in function else None, "function": function}
        return chunk_event(delta={"tool_calls": [call]})

    answer = events_answer(
        chunk_event(delta={"content": "Let me see."}),
        fragment(0, name="search", arguments=""),
        fragment(1, name="look"),
        fragment(0, arguments='{"q":'),
        fragment(0, arguments='"x"}'),
        chunk_event(finish_reason="tool_calls"),
        DONE,
    )
    error = await _failure(answer)

    assert "not offered" in str(error)
    assert "does not have" in error.user_text


async def test_a_busy_endpoint_is_asked_again_and_its_retry_after_is_obeyed() -> None:
    refused = error_answer(429, Retry_After_Ms="1")
    async with (
        wire_server(refused, refused, text_answer("at last")) as server,
        openai_agent(server, max_retries=2) as agent,
    ):
        run = await run_agent(agent, [user("hi")])
        server.script(refused)
        with pytest.raises(AgentError):
            await run_agent(agent, [user("hi")])

    assert run.text == "at last"
    assert len(server.requests) == 3 + 3


async def test_a_stream_that_broke_off_is_not_asked_for_again() -> None:
    answer = text_answer("Hel", "lo")
    async with (
        wire_server(answer.cut(len(answer.wire) // 2)) as server,
        openai_agent(server, max_retries=2) as agent,
    ):
        with pytest.raises(AgentError):
            await run_agent(agent, [user("hi")])

    assert len(server.requests) == 1


async def test_an_endpoint_that_is_not_there_cannot_be_reached() -> None:
    async with wire_server() as server:
        pass
    async with openai_agent(server) as agent:
        with pytest.raises(AgentError, match="connection failed") as caught:
            await run_agent(agent, [user("hi")])

    assert "cannot be reached" in caught.value.user_text


@pytest.mark.parametrize(
    "answer",
    [
        error_answer(400, f"bad: {KEY} {SECRET_TEXT}"),
        error_answer(401, f"Incorrect API key provided: {KEY} {SECRET_TEXT}"),
        error_answer(500, f"{KEY} {SECRET_TEXT}"),
        events_answer({"error": {"message": f"{KEY} {SECRET_TEXT}"}}),
        events_answer(b"data: {" + f"{KEY} {SECRET_TEXT}".encode() + b"\n\n"),
        events_answer({"choices": f"{KEY} {SECRET_TEXT}"}),
        text_answer(f"{KEY} {SECRET_TEXT}").cut(300),
    ],
)
async def test_neither_key_nor_text_is_in_an_error_or_its_traceback(
    answer: WireAnswer, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text(KEY)
    with structlog.testing.capture_logs() as logs:
        error = await _failure(answer, api_key=SecretSource(file=str(key)))

    told = "".join(traceback.format_exception(error)) + error.user_text + repr(logs)
    assert KEY not in told
    assert SECRET_TEXT not in told
