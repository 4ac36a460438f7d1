"""Laws of the windows that are known of models."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from gateway.agents.settings import AgentSettings
from gateway.agents.windows import WINDOWS, reserve_of, window_of


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("claude-sonnet-4-5", 200_000),
        ("gpt-4o-mini", 128_000),
        ("gpt-4", 8_192),
        ("GPT-4.1-nano", 1_047_576),
        ("openrouter/anthropic/claude-opus-4", 200_000),
        ("my-own", 77),
    ],
)
def test_the_first_pattern_that_matches_gives_the_window(model: str, size: int) -> None:
    assert window_of(model, 77) == size


def test_no_pattern_hides_a_later_one() -> None:
    for place, (pattern, size) in enumerate(WINDOWS):
        assert window_of(pattern.replace("[134]", "1").replace("*", ""), 0) == size, place


@pytest.mark.parametrize(
    ("window", "reserve"),
    [
        pytest.param(200_000, 16_384, id="usual"),
        pytest.param(65_536, 16_384, id="just-large-enough"),
        pytest.param(65_532, 16_383, id="just-not"),
        pytest.param(8_192, 2_048, id="gpt-4"),
        pytest.param(7, 1, id="rounded-down"),
        pytest.param(1, 0, id="the-least-window"),
    ],
)
def test_the_usual_reserve_leaves_most_of_a_window(window: int, reserve: int) -> None:
    assert reserve_of(window) == reserve


def test_every_known_window_has_room_for_a_conversation() -> None:
    for pattern, size in WINDOWS:
        assert reserve_of(size) <= size // 4, pattern


@pytest.mark.parametrize(
    ("table", "size"),
    [
        ({"kind": "openai", "model": "gpt-4o", "base_url": "http://127.0.0.1:1/v1"}, 128_000),
        ({"kind": "openai", "model": "gpt-5-mini", "base_url": "http://127.0.0.1:1/v1"}, 272_000),
        ({"kind": "openai", "model": "mine", "base_url": "http://127.0.0.1:1/v1"}, 128_000),
        ({"kind": "anthropic", "model": "mine", "base_url": "http://127.0.0.1:1"}, 200_000),
    ],
)
def test_a_table_without_a_window_has_the_model_s_and_one_with_it_its_own(
    table: dict[str, object], size: int
) -> None:
    adapter: TypeAdapter[AgentSettings] = TypeAdapter(AgentSettings)

    assert adapter.validate_python(table).context_window_tokens == size
    own = adapter.validate_python(table | {"context_window_tokens": 99_999})
    assert own.context_window_tokens == 99_999
