"""Laws of what a failure of a provider means to whoever might ask another agent, on both wires."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.agents.failures import LONGEST_PAUSE_S, fault_of_status, retry_after_s
from gateway.clock import FakeClock
from gateway.errors import AgentError, AgentFailure
from tests.agents.events import run_agent, user, wired
from tests.agents.test_loop_wires import WIRES
from tests.support.answers import Answer, Refusal
from tests.support.upstream import Bytes, Step, upstream

OTHER, RATE_LIMIT = AgentFailure.OTHER, AgentFailure.RATE_LIMIT
OUTAGE, OVERFLOW = AgentFailure.OUTAGE, AgentFailure.OVERFLOW


async def failure(wire: str, *steps: Step, **changes: Any) -> AgentError:  # noqa: ANN401 - of a table
    """Return the error that an answer comes to, and see that the next run works."""
    async with upstream(FakeClock()) as fake, wired(wire, fake, **changes) as agent:
        fake.answer(*steps)
        with pytest.raises(AgentError) as caught:
            await run_agent(agent, [user("go")])
        fake.answer("well again")
        assert (await run_agent(agent, [user("hi")])).text == "well again"
    return caught.value


@WIRES
@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (Refusal(400, kind="invalid_request_error"), OTHER),
        (Refusal(400, message="prompt is too long: 9 tokens > 8 maximum"), OVERFLOW),
        (Refusal(400, message="This model's maximum prompt length is 131072"), OVERFLOW),
        (Refusal(400, message="The input token count (9) exceeds the maximum"), OVERFLOW),
        (Refusal(400, message="the request exceeds the available context size"), OVERFLOW),
        (Refusal(400, message="Invalid 'tools[0].function.description': too long"), OTHER),
        (Refusal(401), OTHER),
        (Refusal(402), OTHER),
        (Refusal(403), OTHER),
        (Refusal(404), OTHER),
        (Refusal(408), OUTAGE),
        (Refusal(413), OVERFLOW),
        (Refusal(429), RATE_LIMIT),
        (Refusal(500), OUTAGE),
        (Refusal(502), OUTAGE),
        (Refusal(503), OUTAGE),
        (Refusal(504), OUTAGE),
        (Refusal(529), OUTAGE),
        (Answer("Hello", then="fails"), OUTAGE),
        (Answer("Hello", then="is cut"), OUTAGE),
        (Answer("Hello", then="hangs"), OUTAGE),
        (Answer("", thinking="hm"), OTHER),
        (Answer("x" * 4_100_000), OTHER),
        (Bytes(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"), OUTAGE),
        (Bytes(b"junk"), OUTAGE),
        (Bytes(b""), OUTAGE),
    ],
)
async def test_each_failure_says_whether_another_agent_might_answer(
    wire: str, step: Step, expected: AgentFailure
) -> None:
    hangs = isinstance(step, Answer) and step.then == "hangs"
    error = await failure(wire, step, read_timeout_s=1.0 if hangs else 30.0)
    assert error.failure is expected


@WIRES
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("insufficient_quota", {"openai": OTHER, "anthropic": RATE_LIMIT}),
        ("enforced_spend_limit_reached", {"openai": RATE_LIMIT, "anthropic": OTHER}),
    ],
)
async def test_an_account_that_is_used_up_is_no_limit_of_the_rate(
    wire: str, code: str, expected: dict[str, AgentFailure]
) -> None:
    assert (await failure(wire, Refusal(429, code=code))).failure is expected[wire]


@WIRES
async def test_a_prompt_beyond_the_window_overflows_in_the_providers_own_words(wire: str) -> None:
    async with upstream(FakeClock()) as fake, wired(wire, fake) as agent:
        fake.window_tokens = 100
        assert (await run_agent(agent, [user("x" * 300)])).text == "pong"
        with pytest.raises(AgentError) as caught:
            await run_agent(agent, [user("x" * 400)])

    assert caught.value.failure is OVERFLOW
    assert "too long for the model" in caught.value.user_text


@WIRES
async def test_every_n_th_request_fails_where_a_provider_is_told_to(wire: str) -> None:
    failures: list[AgentFailure | None] = []
    async with upstream(FakeClock()) as fake, wired(wire, fake) as agent:
        fake.fails_every = 3
        for _ in range(6):
            try:
                await run_agent(agent, [user("hi")])
            except AgentError as error:
                failures.append(error.failure)
            else:
                failures.append(None)

    assert failures == [None, None, OUTAGE] * 2


@WIRES
async def test_an_endpoint_that_is_not_there_is_an_outage(wire: str) -> None:
    async with upstream(FakeClock()) as fake:
        pass
    async with wired(wire, fake) as agent:
        with pytest.raises(AgentError) as caught:
            await run_agent(agent, [user("hi")])

    assert caught.value.failure is OUTAGE


@WIRES
@pytest.mark.parametrize("status", [429, 503, 529])
async def test_the_pause_that_a_provider_asks_for_is_told(wire: str, status: int) -> None:
    told = await failure(wire, Refusal(status, retry_after_s=7))
    nothing = await failure(wire, Refusal(status))

    assert (told.retry_after_s, nothing.retry_after_s) == (7.0, None)


@pytest.mark.parametrize(
    ("headers", "pause_s"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "2.5"}, 2.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, LONGEST_PAUSE_S),
        ({"retry-after": "1e300"}, LONGEST_PAUSE_S),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "Thu, 01 Jan 2026 00:01:00 GMT"}, 60.0),
        ({"retry-after": "Thu, 01 Jan 2026 00:01:00 -0000"}, 60.0),
        ({"retry-after": "Wed, 31 Dec 2025 00:00:00 GMT"}, 0.0),
        ({"retry-after": "Thu, 01 Jan 99999999999999 00:01:00 GMT"}, None),
        ({"retry-after": "Thu, 01 Jan 2026 00:01:00 +99999999"}, None),
    ],
)
def test_a_pause_is_read_in_every_form_that_providers_send(
    headers: dict[str, str], pause_s: float | None
) -> None:
    clock = FakeClock(datetime(2026, 1, 1, tzinfo=UTC))

    assert retry_after_s(headers, clock) == pause_s


def test_a_date_is_seen_from_now() -> None:
    clock = FakeClock(datetime(2026, 1, 1, tzinfo=UTC))
    clock.step_wall(timedelta(seconds=20))

    assert retry_after_s({"retry-after": "Thu, 01 Jan 2026 00:01:00 GMT"}, clock) == 40.0


@pytest.mark.parametrize("status", range(400, 600))
def test_only_the_providers_own_failures_may_be_passed_on(status: int) -> None:
    passed_on = fault_of_status(status).failure in {OUTAGE, RATE_LIMIT, OVERFLOW}

    assert passed_on == (status >= 500 or status in {408, 413, 429})
