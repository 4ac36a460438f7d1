"""Laws of the settings of processes, and of commands as they are typed."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.config import GatewayConfig
from gateway.errors import BadRequestError, ConfigurationError
from gateway.processes.settings import ProcessSettings, typed_words

SHELL = ProcessSettings.model_validate({"shell": ["/bin/sh", "-c"]})


def test_nothing_is_started_unless_that_is_configured() -> None:
    assert not GatewayConfig().processes.enabled
    assert not GatewayConfig().processes.shell


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        pytest.param(
            {"env": {"A": "1"}, "secret_env": {"A": {"env": "B"}}},
            "processes.secret_env.A: stands in env as well; accepted is one of them",
            id="twice",
        ),
        pytest.param(
            {"report": "mail"},
            "processes.report: 'mail' is unknown, accepted is turn or message",
            id="report",
        ),
        pytest.param(
            {"guard_max_age_s": 0},
            "processes.guard_max_age_s: 0 is out of range, "
            "accepted is a number above 0, at most 31536000",
            id="age",
        ),
    ],
)
def test_a_wrong_value_is_told_with_what_is_accepted(changed: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        GatewayConfig.from_dict({"processes": changed})

    assert [text.replace('"', "'") for text in caught.value.problems] == [problem]


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        ProcessSettings().enabled = True  # type: ignore[misc]


@pytest.mark.parametrize(
    ("settings", "text", "words"),
    [
        pytest.param(ProcessSettings(), "make 'a b' $X", ("make", "a b", "$X"), id="words"),
        pytest.param(SHELL, "make | tee x", ("/bin/sh", "-c", "make | tee x"), id="shell"),
    ],
)
def test_a_typed_command_becomes_words(
    settings: ProcessSettings, text: str, words: tuple[str, ...]
) -> None:
    assert typed_words(settings, text) == words


@pytest.mark.parametrize("text", ["", "  ", "'", "''"])
def test_what_is_no_command_is_refused(text: str) -> None:
    with pytest.raises(BadRequestError):
        typed_words(ProcessSettings(), text)
