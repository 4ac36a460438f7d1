"""Laws of the agents' tables in the configuration."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from gateway.agents.settings import (
    AgentSettings,
    AnthropicSettings,
    EchoSettings,
    OpenAISettings,
    ScriptedSettings,
)
from gateway.settings import SecretSource

_ADAPTER: TypeAdapter[AgentSettings] = TypeAdapter(AgentSettings)
_KEY = {"env": "SOME_KEY"}


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        ({"kind": "echo"}, EchoSettings),
        ({"kind": "scripted", "replies": ["a"]}, ScriptedSettings),
        ({"kind": "openai", "model": "m", "api_key": _KEY}, OpenAISettings),
        ({"kind": "anthropic", "model": "m", "api_key": _KEY}, AnthropicSettings),
    ],
)
def test_kind_says_which_table_it_is(table: dict[str, Any], kind: type) -> None:
    assert isinstance(_ADAPTER.validate_python(table), kind)


@pytest.mark.parametrize(
    "base_url",
    [
        "http://127.0.0.1:11434/v1",
        "http://localhost:8000/v1",
        "http://[::1]:1/v1",
        "http://127.9.9.9",
    ],
)
def test_an_endpoint_on_this_machine_needs_no_key(base_url: str) -> None:
    assert OpenAISettings(model="m", base_url=base_url).loopback
    assert AnthropicSettings(model="m", base_url=base_url.removesuffix("/v1")).loopback


@pytest.mark.parametrize("base_url", ["http://127.0.0.1/v1", "http://127.0.0.1:1/proxy/v1/"])
def test_the_address_of_the_messages_api_is_without_its_version(base_url: str) -> None:
    with pytest.raises(ValidationError, match="ends in /v1, which would be there twice"):
        AnthropicSettings(model="m", base_url=base_url)


def test_only_its_own_address_is_the_official_one() -> None:
    official = OpenAISettings(model="m", api_key=SecretSource(env="K"))

    assert official.official
    assert not OpenAISettings(model="m", base_url="http://127.0.0.1/v1").official


@pytest.mark.parametrize(
    "base_url",
    ["https://api.openai.com/v1", "http://192.168.1.5:11434/v1", "http://127.0.0.1.example.org/v1"],
)
def test_any_other_endpoint_needs_a_key(base_url: str) -> None:
    with pytest.raises(ValidationError, match="api_key is missing; accepted"):
        OpenAISettings(model="m", base_url=base_url)
    with pytest.raises(ValidationError, match="api_key is missing; accepted"):
        AnthropicSettings(model="m", base_url=base_url.removesuffix("/v1"))


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "api.openai.com/v1",
        "ftp://127.0.0.1/v1",
        "http://",
        "http:///v1",
        "http://user:pw@127.0.0.1/v1",
        "http://127.0.0.1/v1?key=1",
        "http://127.0.0.1/v1#x",
        "http://127.0.0.1:99999/v1",
        "http://127.0.0.1:0/v1",
        "http://127.0.0.1/ v1",
        "http://127.0.0.1/v1\n",
    ],
)
def test_an_unusable_address_is_refused(base_url: str) -> None:
    with pytest.raises(ValidationError, match="accepted is http:// or https://"):
        OpenAISettings(model="m", base_url=base_url)
    with pytest.raises(ValidationError, match="accepted is"):
        AnthropicSettings(model="m", base_url=base_url)


@pytest.mark.parametrize(
    "changes",
    [
        {"read_timeout_s": 0},
        {"read_timeout_s": float("inf")},
        {"read_timeout_s": float("nan")},
        {"connect_timeout_s": "10"},
        {"max_retries": 11},
        {"max_retries": True},
        {"model": ""},
        {"context_window_tokens": 0},
        {"reserve_tokens": 128_000},
        {"max_output_tokens": 16_385},
        {"temperature": 1},
    ],
)
def test_values_out_of_bounds_are_refused(changes: dict[str, Any]) -> None:
    table = {"kind": "openai", "model": "m", "api_key": _KEY}
    _ADAPTER.validate_python(table)

    with pytest.raises(ValidationError):
        _ADAPTER.validate_python(table | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_output_tokens": 0},
        {"max_output_tokens": 16_385},
        {"reserve_tokens": 8_191},
        {"cache_ttl": "10m"},
        {"cache_ttl": ""},
        {"reserve_tokens": 200_000},
        {"prompt_cache_key": True},
    ],
)
def test_values_that_the_messages_api_would_refuse_are_refused(changes: dict[str, Any]) -> None:
    table = {"kind": "anthropic", "model": "m", "api_key": _KEY}
    _ADAPTER.validate_python(table)

    with pytest.raises(ValidationError):
        _ADAPTER.validate_python(table | changes)


@pytest.mark.parametrize("table", [{"kind": "echo"}, {"kind": "scripted", "replies": ["a"]}])
def test_a_reserve_leaves_something_of_the_window(table: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="leaves nothing of context_window_tokens"):
        _ADAPTER.validate_python(table | {"context_window_tokens": 100, "reserve_tokens": 100})


def test_a_bad_script_is_a_configuration_problem() -> None:
    with pytest.raises(ValidationError, match="line 2: not a directive: !dance; accepted"):
        ScriptedSettings(replies=["a", "!dance"])
