"""Whatever the file and the environment hold, a configuration comes out or the one error does."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import GatewayConfig, load
from gateway.config.check import variable_name
from gateway.errors import ConfigurationError
from tests.config.values import leaves

KNOWN = sorted({str(part) for leaf in leaves() for part in leaf})
NAMES = st.sampled_from(KNOWN) | st.text(max_size=8)
VALUES = (
    st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.dates()
    | st.sampled_from(["echo", "openai", "main", "idle", "127.0.0.1", "::", "[]", "{}", "1"])
)
TREES = st.dictionaries(
    NAMES,
    st.recursive(
        VALUES, lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner), max_leaves=8
    ),
)
VARIABLES = st.dictionaries(
    st.sampled_from([variable_name(leaf) for leaf in leaves()])
    | NAMES.map(lambda name: f"GATEWAY_{name}"),
    st.text(st.characters()) | st.sampled_from(["1", "true", "[1]", "{}", '{"env": 1}', "echo"]),
)


def load_bytes(content: bytes, environ: dict[str, str]) -> GatewayConfig:
    """Load from a file with this content.

    Raises:
        ConfigurationError: The content or the environment is not right.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "gateway.toml")
        path.write_bytes(content)
        return load(path, environ, {}).config


def refusal(content: bytes, environ: dict[str, str]) -> str:
    """Return the problems in one line, empty where there is none."""
    try:
        load_bytes(content, environ)
    except ConfigurationError as exc:
        return " ".join(exc.problems) or "\n"

    return ""


@given(st.binary())
def test_random_bytes_are_refused_or_loaded(content: bytes) -> None:
    with contextlib.suppress(ConfigurationError):
        load_bytes(content, {})


@given(st.text(st.characters(codec="utf-8")))
def test_random_text_is_refused_in_printable_lines(text: str) -> None:
    assert refusal(text.encode(), {}).isprintable()


@given(TREES)
def test_random_toml_is_refused_in_printable_lines(tree: dict[str, Any]) -> None:
    assert refusal(tomli_w.dumps(tree).encode(), {}).isprintable()


@given(TREES)
def test_random_values_are_refused_or_round_trip(tree: dict[str, Any]) -> None:
    with contextlib.suppress(ConfigurationError):
        config = GatewayConfig.from_dict(tree)
        assert GatewayConfig.from_dict(config.to_dict()) == config


@given(VARIABLES)
def test_a_random_environment_is_refused_in_printable_lines(environ: dict[str, str]) -> None:
    assert refusal(b"", environ).isprintable()


@given(TREES, VARIABLES)
def test_a_random_environment_over_random_toml_is_refused_or_loaded(
    tree: dict[str, Any], environ: dict[str, str]
) -> None:
    with contextlib.suppress(ConfigurationError):
        load_bytes(tomli_w.dumps(tree).encode(), environ)
