"""Laws of requests that an SDK sends again."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import TypeAdapter

from gateway.agents.registry import open_agents
from gateway.agents.settings import AgentSettings
from gateway.clock import FakeClock
from gateway.model import AgentId
from tests.agents.events import run_agent, user
from tests.support.answers import Refusal
from tests.support.upstream import upstream

MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(("kind", "path"), [("anthropic", ""), ("openai", "/v1")])
async def test_a_call_has_begun_with_the_attempt_that_was_answered(kind: str, path: str) -> None:
    clock = FakeClock()
    busy = Refusal(429, retry_after_s=0.001)
    async with upstream(FakeClock()) as fake:
        fake.told = lambda _: clock.step_wall(MINUTE)
        table = {"kind": kind, "model": "wire", "base_url": fake.url + path, "max_retries": 2}
        adapter: TypeAdapter[AgentSettings] = TypeAdapter(AgentSettings)
        async with open_agents({"a": adapter.validate_python(table)}, clock) as agents:
            began = clock.now()
            fake.answer(busy, busy, "at last")
            run = await run_agent(agents[AgentId("a")], [user("hi")])

    assert [call.started_at for call in run.calls] == [began + 2 * MINUTE]
