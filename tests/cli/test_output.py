"""What is written, and with which status a command ends."""

from __future__ import annotations

import unicodedata

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.output import (
    ProblemError,
    Screen,
    exit_status,
    flat_facts,
    json_text,
    local_time,
    safe,
    safe_name,
)
from gateway.errors import (
    AlreadyRunningError,
    BadRequestError,
    ConfigurationError,
    GatewayError,
    StorageError,
    UnavailableError,
)


@given(st.text())
def test_no_character_that_steers_a_terminal_is_written(text: str) -> None:
    controls = {char for char in safe(text) if unicodedata.category(char) in {"Cc", "Cs"}}

    assert controls <= {"\n", "\t"}
    assert not {"\n", "\t"} & set(safe_name(text))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("\x1b[2J", "\\x1b[2J", id="escape-sequence"),
        pytest.param("\x9b2J", "\\x9b2J", id="eight-bit-escape"),
        pytest.param("a\rb", "a\\rb", id="carriage-return"),
        pytest.param("\u202egnp", "\\u202egnp", id="right-to-left-override"),
        pytest.param("\ud800", "\\ud800", id="lone-surrogate"),
        pytest.param("👩\u200d💻 é", "👩\u200d💻 é", id="joined-emoji-stay"),
        pytest.param("C:\\new", "C:\\new", id="backslashes-stay"),
    ],
)
def test_text_is_shown_with_its_steering_characters_escaped(text: str, shown: str) -> None:
    assert safe(text) == shown


@given(st.dictionaries(st.text(), st.text() | st.integers(0, 9) | st.none()))
def test_json_means_the_same_and_steers_no_terminal(value: dict[str, object]) -> None:
    text = json_text(value)

    assert orjson.loads(text) == value
    assert safe(text) == text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BadRequestError("no"), 1),
        (ProblemError(400, {}), 1),
        (ProblemError(404, {}), 1),
        (ProblemError(409, {}), 1),
        (ProblemError(429, {}), 1),
        (ProblemError(401, {}), 78),
        (ProblemError(503, {}), 69),
        (UnavailableError("no"), 69),
        (StorageError("no"), 74),
        (ConfigurationError(["no"]), 78),
    ],
)
def test_exit_status_tells_what_kind_of_error_it_was(error: GatewayError, status: int) -> None:
    assert exit_status(error) == status


def test_exit_status_of_a_held_directory_is_75(tmp_path_factory: pytest.TempPathFactory) -> None:
    assert exit_status(AlreadyRunningError(tmp_path_factory.getbasetemp(), "other")) == 75


def test_a_problem_without_details_still_says_its_status() -> None:
    assert str(ProblemError(502, {})) == "HTTP status 502"
    assert str(ProblemError(404, {"title": "Not found", "detail": "No."})) == "Not found: No."


def test_a_table_in_a_pipe_is_aligned_and_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(as_json=False).table(("KEY", "NAME"), [("k" * 300, "a\nb"), ("short", "")])

    assert capsys.readouterr().out.splitlines() == [
        f"{'KEY':<300}  NAME",
        f"{'k' * 300}  a\\nb",
        "short",
    ]


def test_facts_are_flat_and_in_order() -> None:
    facts = flat_facts(
        {"ready": True, "store": {"entries": 2, "busy_s": 0.25, "last_prune_at": None}, "url": ""}
    )

    assert facts == [
        ("ready", "yes"),
        ("store.entries", "2"),
        ("store.busy_s", "0.25"),
        ("store.last_prune_at", "-"),
        ("url", "-"),
    ]


def test_an_instant_that_is_not_there_is_a_dash() -> None:
    assert local_time(None) == "-"
