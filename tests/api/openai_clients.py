"""The API asked by the official SDK, with agents whose provider is a pretended one."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import openai

from gateway.agents.registry import open_agents
from gateway.agents.settings import AnthropicSettings, EchoSettings, OpenAISettings
from gateway.agents.tools import NoTools
from gateway.clock import FakeClock, SystemClock
from tests.api.running import RunningApi, running_api
from tests.support.upstream import Upstream, upstream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from gateway.agents.settings import AgentSettings
    from gateway.agents.tools import Toolbox

HELLO: Final[Any] = [{"role": "user", "content": "hello"}]


def said(*texts: str) -> Any:  # noqa: ANN401 - the SDK's own types are many
    """Return a conversation whose first and every second message is the user's."""
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


@dataclass(frozen=True, slots=True)
class Asked:
    """A served API, the provider behind its agents, and clients of it."""

    api: RunningApi
    fake: Upstream

    @property
    def base_url(self) -> str:
        return f"{self.api.url}/v1"

    async def token(self, name: str) -> str:
        """Make a token for a client."""
        response = await self.api.post("/v1/tokens", {"name": name})
        assert response.status_code == 201, response.text
        return str(response.json()["token"])

    async def client(self, name: str = "alice", **more: Any) -> openai.AsyncOpenAI:  # noqa: ANN401
        """Return the SDK's client with a token of its own; it does not try again."""
        return self.with_token(await self.token(name), **more)

    def with_token(self, token: str, **more: Any) -> openai.AsyncOpenAI:  # noqa: ANN401
        """Return the SDK's client with this token."""
        return openai.AsyncOpenAI(
            api_key=token,
            base_url=self.base_url,
            timeout=30,
            http_client=openai.DefaultAsyncHttpxClient(trust_env=False),
            **{"max_retries": 0, **more},
        )

    async def usage(self) -> list[dict[str, Any]]:
        """Return what was counted, by user."""
        response = await self.api.client.get("/v1/usage?by=user")
        rows: list[dict[str, Any]] = response.json()["rows"]
        return rows


@asynccontextmanager
async def asked_by_sdk(
    tmp_path: Path,
    *,
    toolbox: Toolbox | None = None,
    window_tokens: int = 3_000,
    cache_keys: bool = False,
    fake: Upstream | None = None,
    **more: Any,  # noqa: ANN401
) -> AsyncGenerator[Asked]:
    """Serve the API; agents: `gpt`, `claude`, `echo`, and those of `running_api`.

    Args:
        tmp_path: Where the state is.
        toolbox: The tools of the gateway's that the first two have; None: none.
        window_tokens: The window of `gpt`.
        cache_keys: Whether the provider of `gpt` is told cache keys.
        fake: The provider; None: one of its own.
        more: See `running_api`.
    """
    clock = FakeClock()
    async with AsyncExitStack() as stack:
        if fake is None:
            fake = await stack.enter_async_context(upstream(SystemClock()))
        settings: dict[str, AgentSettings] = {
            "gpt": OpenAISettings(
                model="m-1",
                base_url=f"{fake.url}/v1",
                system_prompt="Be brief.",
                context_window_tokens=window_tokens,
                reserve_tokens=500,
                prompt_cache_key=cache_keys,
                max_retries=0,
            ),
            "claude": AnthropicSettings(
                model="c-1", base_url=fake.url, context_window_tokens=20_000, max_retries=0
            ),
            "echo": EchoSettings(),
        }
        async with (
            open_agents(settings, clock, lambda _: toolbox or NoTools()) as agents,
            running_api(tmp_path, agents=agents, **more) as api,
        ):
            yield Asked(api, fake)
