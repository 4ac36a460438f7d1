"""Laws of the agents' tables in the configuration."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from gateway.agents.base import AgentFacts
from gateway.agents.settings import (
    AgentSettings,
    AgentToolSettings,
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
        {"reserve_tokens": 8_191, "max_output_tokens": 8_192},
        {"reserve_tokens": 0},
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


TABLES: dict[str, dict[str, Any]] = {
    "echo": {},
    "scripted": {"replies": ["a"]},
    "openai": {"model": "m", "api_key": _KEY, "system_prompt": "Be brief."},
    "anthropic": {"model": "m", "api_key": _KEY, "system_prompt": "Be brief."},
}


@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        ("echo", AgentFacts("echo", 50_000, 9_000)),
        ("scripted", AgentFacts("scripted", 50_000, 9_000, completes=True)),
        ("openai", AgentFacts("m", 50_000, 9_000, 9, None, completes=True)),
        ("anthropic", AgentFacts("m", 50_000, 9_000, 9, 300.0, completes=True)),
    ],
)
def test_settings_say_what_the_size_of_a_request_depends_on(kind: str, facts: AgentFacts) -> None:
    window = {"context_window_tokens": 50_000, "reserve_tokens": 9_000}

    settings = _ADAPTER.validate_python({"kind": kind, **TABLES[kind], **window})

    assert settings.facts() == facts


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize(("window", "reserve"), [(200_000, 16_384), (8_192, 2_048), (4, 1)])
def test_a_table_without_a_reserve_has_one_that_fits_its_window(
    kind: str, window: int, reserve: int
) -> None:
    table = {"kind": kind, **TABLES[kind], "context_window_tokens": window}

    assert _ADAPTER.validate_python(table).reserve_tokens == reserve
    assert _ADAPTER.validate_python(table | {"reserve_tokens": 3}).reserve_tokens == 3


def test_the_longest_answer_fits_the_reserve_unless_the_table_says_otherwise() -> None:
    def settings(**changes: Any) -> AnthropicSettings:  # noqa: ANN401 - of a table
        return AnthropicSettings.model_validate({**TABLES["anthropic"], **changes})

    assert settings().max_output_tokens == 8_192
    assert settings(context_window_tokens=8_000).max_output_tokens == 2_000
    assert settings(reserve_tokens=500).max_output_tokens == 500
    with pytest.raises(ValidationError, match="is above reserve_tokens"):
        settings(context_window_tokens=8_000, max_output_tokens=2_001)


@pytest.mark.parametrize("model", ["gpt-4", "gpt-3.5-turbo"])
def test_a_model_with_a_small_window_needs_no_reserve_of_its_own(model: str) -> None:
    settings = OpenAISettings(model=model, api_key=SecretSource(env="K"))

    assert settings.reserve_tokens == settings.context_window_tokens // 4
    assert settings.max_output_tokens == 0


@pytest.mark.parametrize("window", ["9", True, -1, 1.5, None])
def test_a_window_of_a_wrong_type_is_the_fault_and_nothing_else(window: object) -> None:
    table = {"kind": "openai", **TABLES["openai"], "context_window_tokens": window}

    with pytest.raises(ValidationError) as caught:
        _ADAPTER.validate_python(table)

    assert [error["loc"][-1] for error in caught.value.errors()] == ["context_window_tokens"]


@pytest.mark.parametrize(("ttl", "ttl_s"), [("5m", 300.0), ("1h", 3_600.0), ("off", 0.0)])
def test_the_facts_say_how_long_a_prompt_is_kept(ttl: str, ttl_s: float) -> None:
    table = {"kind": "anthropic", **TABLES["anthropic"], "cache_ttl": ttl}

    assert _ADAPTER.validate_python(table).facts().cache_ttl_s == ttl_s


@pytest.mark.parametrize("kind", ["scripted", "openai", "anthropic"])
def test_a_model_is_offered_nothing_it_was_not_given(kind: str) -> None:
    settings = _ADAPTER.validate_python({"kind": kind, **TABLES[kind]})

    assert isinstance(settings, ScriptedSettings | OpenAISettings | AnthropicSettings)
    assert settings.tools == AgentToolSettings(
        allow=[], deny=[], ask=[], max_steps=25, max_turn_tokens=1_000_000, max_parallel=8
    )


@pytest.mark.parametrize("kind", TABLES)
def test_every_kind_names_the_agents_that_are_asked_in_its_place(kind: str) -> None:
    table = {"kind": kind, **TABLES[kind]}

    assert _ADAPTER.validate_python(table).fallback == []
    assert _ADAPTER.validate_python(table | {"fallback": ["a", "b"]}).fallback == ["a", "b"]


@pytest.mark.parametrize(
    "tools",
    [
        {"allow": "*"},
        {"allow": [""]},
        {"deny": [""]},
        {"ask": [""]},
        {"ask": [7]},
        {"allow": [" "]},
        {"deny": ["files_* "]},
        {"ask": ["\tfiles_*"]},
        {"allow": ["files_*"], "deny": ["x", "Files_*"]},
        {"ask": ["a", "files_*"], "deny": ["files_*"]},
        {"max_steps": 0},
        {"max_steps": 1_001},
        {"max_steps": True},
        {"max_turn_tokens": -1},
        {"max_parallel": 0},
        {"max_parallel": 65},
        {"max_depth": 3},
    ],
)
def test_bounds_of_tools_that_mean_nothing_are_refused(tools: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AgentToolSettings.model_validate(tools)
    with pytest.raises(ValidationError):
        _ADAPTER.validate_python({"kind": "scripted", "replies": ["a"], "tools": tools})


def test_tools_that_are_offered_may_need_a_yes_and_others_be_denied() -> None:
    table = {"allow": ["files_*", "a b"], "ask": ["files_*"], "deny": ["files_rm"]}

    assert AgentToolSettings.model_validate(table).model_dump(include=set(table)) == table


def test_an_agent_without_a_model_takes_no_tools() -> None:
    with pytest.raises(ValidationError):
        _ADAPTER.validate_python({"kind": "echo", "tools": {}})
