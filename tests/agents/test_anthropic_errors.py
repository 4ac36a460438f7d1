"""Laws of how the Messages API's failures come out: to the user, to the log, in retries."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Final

import pytest
import structlog

from gateway.clock import FakeClock
from gateway.errors import AgentError
from gateway.settings import SecretSource
from tests.agents.events import anthropic_agent, run_agent, user
from tests.agents.test_anthropic import HEAD, STOP, delta, ended, played, started, stream_of
from tests.support.answers import Answer, Refusal
from tests.support.messages_wire import error_body, message_event
from tests.support.upstream import Bytes, upstream

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.answers import Json
    from tests.support.upstream import Step

KEY = "sk-canary-0123456789"
SECRET_TEXT = "what-the-user-wrote"
BUSY: Final = Refusal(529, retry_after_s=0.001, kind="overloaded_error")


async def _failure(step: Step, **changes: object) -> AgentError:
    """Return the error that an answer comes to, and see that the next run works."""
    async with upstream(FakeClock()) as fake, anthropic_agent(fake, **changes) as agent:
        fake.answer(step)
        with pytest.raises(AgentError) as caught:
            await run_agent(agent, [user(SECRET_TEXT)])
        fake.answer("well again")
        assert (await run_agent(agent, [user("hi")])).text == "well again"
    return caught.value


def _inside(kind: str, message: str = "no") -> Bytes:
    """Return a stream that tells an error after it has begun."""
    event = message_event(error_body(kind, message))
    return played(stream_of(started(), delta(text="Hi"), event))


@pytest.mark.parametrize(
    ("step", "user_text", "facts"),
    [
        (Refusal(400, kind="invalid_request_error"), "refused the request", "status '400'"),
        (Refusal(400, message="prompt is too long: 9 tokens > 8 maximum"), "too long", "'400'"),
        (Refusal(400, message="input length and max_tokens exceed context limit"), "too long", ""),
        (Refusal(400, message="Your credit balance is too low"), "used up", "'400'"),
        (Refusal(401), "is not accepted: the operator must check", "'401'"),
        (Refusal(402, kind="billing_error"), "used up: the operator must check", "'402'"),
        (Refusal(403), "is not accepted: the operator must check", "'403'"),
        (Refusal(404), "does not know the model", "'404'"),
        (Refusal(413), "too long for the model", "'413'"),
        (Refusal(429, kind="rate_limit_error"), "limits the rate", "type 'rate_limit_error'"),
        (Refusal(429, code="enforced_spend_limit_reached"), "used up", "'enforced_spend_limit"),
        (Refusal(500), "overloaded or out of order", "request id 'req-7'"),
        (Refusal(504), "in time", "'504'"),
        (Refusal(529, kind="overloaded_error"), "overloaded or out of order", "'529'"),
        (_inside("overloaded_error"), "overloaded or out of order", "'overloaded_error'"),
        (_inside("rate_limit_error"), "limits the rate", "status '200'"),
        (_inside("timeout_error"), "in time", "'timeout_error'"),
        (_inside("invalid_request_error", "prompt is too long"), "too long", "'200'"),
        (_inside("novel_error"), "broke off", "'novel_error'"),
        (Answer("Hello", then="fails"), "overloaded or out of order", "'overloaded_error'"),
        (Answer("Hello", then="is cut"), "cannot be reached", "connection failed"),
        (Answer("No.", finish="refusal"), "declined to answer", "finish reason 'refusal'"),
        (Answer("", finish="max_tokens"), "gave no answer", "finish reason 'max_tokens'"),
        (Answer("", thinking="hm"), "gave no answer", "finish reason 'end_turn'"),
    ],
)
async def test_each_refusal_tells_the_user_what_it_means_and_the_log_the_facts(
    step: Step, user_text: str, facts: str
) -> None:
    error = await _failure(step)

    assert user_text in error.user_text
    assert facts in str(error)


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([b"event: message_start\ndata: {junk\n\n"], id="junk"),
        pytest.param([b"event: message_start\ndata: \xff\xfe\n\n"], id="no-utf-8"),
        pytest.param([b"event: x\ndata: 5\n\n"], id="a-number"),
        pytest.param([b"event: x\ndata: []\n\n"], id="a-list"),
        pytest.param([b"event: x\ndata: null\n\n"], id="null"),
        pytest.param([{"type": "message_start"}], id="no-message"),
        pytest.param([{"type": "message_start", "message": 5}], id="message-a-number"),
        pytest.param([started(), delta(text={"a": 1})], id="text-an-object"),
        pytest.param([started(), delta(text=None)], id="text-null"),
        pytest.param([started(), {"type": "content_block_delta", "index": 0}], id="no-delta"),
        pytest.param([started(), {"type": "content_block_start", "index": 0}], id="no-block"),
        pytest.param([started(), delta(text="Hi"), STOP], id="no-end"),
        pytest.param([started(), delta(text="Hi")], id="no-stop"),
        pytest.param([STOP], id="nothing"),
        pytest.param([], id="empty-body"),
    ],
)
async def test_a_stream_that_is_no_answer_is_an_error(events: list[Json | bytes]) -> None:
    error = await _failure(played(stream_of(*events)))

    assert "broke off" in error.user_text


@pytest.mark.parametrize("kind", ["text", "thinking"])
async def test_an_answer_without_end_is_broken_off(kind: str) -> None:
    piece = delta(f"{kind}_delta", **{kind: "x" * 1_000_000})

    error = await _failure(played(stream_of(started(), *[piece] * 5, ended(), STOP)))

    assert "has no end" in str(error)


@pytest.mark.parametrize("status", [429, 529, 503])
async def test_a_busy_provider_is_asked_again_and_no_more_often_than_configured(
    status: int,
) -> None:
    busy = Refusal(status, retry_after_s=0.001)
    async with upstream(FakeClock()) as fake, anthropic_agent(fake, max_retries=2) as agent:
        fake.answer(busy, busy, "at last")
        run = await run_agent(agent, [user("hi")])
        fake.answer(busy)
        with pytest.raises(AgentError):
            await run_agent(agent, [user("hi")])

    assert run.text == "at last"
    assert len(fake.requests) == 3 + 3


@pytest.mark.parametrize(
    "header",
    [
        b"Retry-After: 3600",
        b"Retry-After: inf",
        b"Retry-After: Thu, 01 Jan 2026 01:00:00 GMT",
        b"Retry-After-Ms: 3600000",
    ],
)
async def test_a_long_pause_is_told_and_not_waited_for(header: bytes) -> None:
    head = b"HTTP/1.1 429 Busy\r\nConnection: close\r\n" + header
    async with upstream(FakeClock()) as fake, anthropic_agent(fake, max_retries=2) as agent:
        fake.answer(Bytes(head + b"\r\nContent-Length: 2\r\n\r\n{}"))
        with pytest.raises(AgentError) as caught:
            await run_agent(agent, [user("hi")])

    assert "limits the rate" in caught.value.user_text
    assert len(fake.requests) == 1


async def test_a_date_that_has_come_and_a_header_that_is_none_ask_for_no_pause() -> None:
    head = b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 2\r\nRetry-After-Ms: 1\r\n"
    async with upstream(FakeClock()) as fake, anthropic_agent(fake, max_retries=2) as agent:
        fake.answer(
            Bytes(head + b"Retry-After: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n{}"),
            Bytes(head + b"Retry-After: soon\r\n\r\n{}"),
            "at last",
        )
        assert (await run_agent(agent, [user("hi")])).text == "at last"


@pytest.mark.parametrize("then", ["fails", "is cut"])
async def test_a_stream_that_broke_off_is_not_asked_for_again(then: str) -> None:
    async with upstream(FakeClock()) as fake, anthropic_agent(fake, max_retries=2) as agent:
        fake.answer(Answer("Hello", then="fails" if then == "fails" else "is cut"))
        with pytest.raises(AgentError):
            await run_agent(agent, [user("hi")])

    assert len(fake.requests) == 1


async def test_a_conversation_does_not_follow_a_redirect() -> None:
    async with upstream(FakeClock()) as other:
        place = f"Location: {other.url}/v1/messages\r\n".encode()
        error = await _failure(
            Bytes(b"HTTP/1.1 307 Away\r\nContent-Length: 0\r\n" + place + b"\r\n")
        )

    assert "refused the request" in error.user_text
    assert other.requests == []


async def test_an_endpoint_that_is_not_there_cannot_be_reached() -> None:
    async with upstream(FakeClock()) as fake:
        pass
    async with anthropic_agent(fake) as agent:
        with pytest.raises(AgentError, match="connection failed") as caught:
            await run_agent(agent, [user("hi")])

    assert "cannot be reached" in caught.value.user_text


@pytest.mark.parametrize(
    "step",
    [
        Refusal(400, message=f"bad: {KEY} {SECRET_TEXT}"),
        Refusal(401, message=f"invalid x-api-key: {KEY} {SECRET_TEXT}"),
        Refusal(500, message=f"{KEY} {SECRET_TEXT}"),
        _inside("api_error", f"{KEY} {SECRET_TEXT}"),
        Bytes(HEAD + f"\r\nevent: x\ndata: {{{KEY} {SECRET_TEXT}\n\n".encode()),
        Bytes(HEAD + f"\r\nevent: error\ndata: {KEY} {SECRET_TEXT}\n\n".encode()),
        played(stream_of(started(), delta(text={KEY: SECRET_TEXT}))),
        Answer(f"{KEY} {SECRET_TEXT}", then="is cut"),
        Answer(f"{KEY} {SECRET_TEXT}", finish="refusal"),
        Bytes(HEAD.replace(b"200", b"502") + f"\r\n{KEY} {SECRET_TEXT}".encode()),
    ],
)
async def test_neither_key_nor_text_is_in_an_error_or_its_traceback(
    step: Step, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text(KEY)
    with structlog.testing.capture_logs() as logs:
        error = await _failure(step, api_key=SecretSource(file=str(key)))

    told = "".join(traceback.format_exception(error)) + error.user_text + repr(logs)
    assert KEY not in told
    assert SECRET_TEXT not in told
