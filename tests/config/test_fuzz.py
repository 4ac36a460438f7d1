"""Whatever the file and the environment hold, a configuration comes out or the one error does."""

from __future__ import annotations

import contextlib
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import GatewayConfig, RefusedConfigurationError, check_here, load
from gateway.config.check import variable_name
from gateway.errors import ConfigurationError
from tests.config.values import EVERY_TABLE, MEMBER, RULE, leaves

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.config.keys import KeyPath

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

FULL: dict[str, Any] = {
    **EVERY_TABLE,
    "state_dir": "state",
    "http": {"host": "127.0.0.1", "token": {"env": "KEY"}, "allowed_hosts": ["a.example"]},
    "store": {"dashboard_group": "no-such-group"},
    "routes": [{"platform": "telegram", "account": "telegram", "agent": "main"}],
    "webhooks": [{"name": "ops", "url": "https://example.org/in", "secret": {"env": "KEY"}}],
    "pruning": {**EVERY_TABLE["pruning"], "rules": [RULE]},
    "sessions": {
        **EVERY_TABLE["sessions"],
        "identities": [{"name": "anna", "members": [f"{MEMBER}anna"]}],
    },
    "processes": {**EVERY_TABLE["processes"], "enabled": True, "shell": ["no-such-shell"]},
    "agents": {
        **EVERY_TABLE["agents"],
        "program": {
            "kind": "command",
            "argv": ["no-such-agent"],
            "secret_env": {"A": {"env": "K"}},
        },
    },
}
"""Of every table and every list one, with secrets and programs that are not there."""
WRONG: tuple[Any, ...] = (
    *(None, 3, "x", [], ["x"], [{"env": "K"}], {"x": 1}),
    *({"kind": "telegram"}, {"kind": "nope"}, {"kind": 3}, {"env": 3}),
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


@pytest.mark.parametrize("top", sorted(FULL))
def test_with_any_value_that_is_wrong_all_else_is_still_looked_at(tmp_path: Path, top: str) -> None:
    path = tmp_path / "gateway.toml"
    for place, key in enumerate(key for key in _keys(FULL) if key[0] == top):
        # Every third where there are many keys.
        for value in WRONG if len(key) < 3 else WRONG[place % 3 :: 3]:
            path.write_text(tomli_w.dumps(_with(key, value)))
            found = _checked(path)

            assert all(one.isprintable() for one in found), (key, value)
            # Whatever is wrong in one table, another's secret is tried.
            other = "http.token" if top != "http" else "webhooks[0].secret"
            assert any(f" {other}: environment variable KEY" in one for one in found), (key, value)


def _checked(path: Path) -> tuple[str, ...]:
    """Return all that `gateway check-config` tells of a file."""
    try:
        loaded = load(path, {}, {})
    except RefusedConfigurationError as exc:
        return *exc.problems, *check_here(exc.sound, exc.places, given=exc.given)

    return check_here(loaded.config, loaded.places)


def _keys(value: object, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield the path of every table, list and value in a tree."""
    if path:
        yield path
    if isinstance(value, dict):
        for name, one in value.items():
            yield from _keys(one, (*path, name))
    if isinstance(value, list):
        for place, one in enumerate(value):
            yield from _keys(one, (*path, place))


def _with(key: KeyPath, value: object) -> dict[str, Any]:
    """Return the full tree with another value at a key; None: without the key."""
    tree = deepcopy(FULL)
    holder: Any = tree
    for part in key[:-1]:
        holder = holder[part]
    if value is None:
        del holder[key[-1]]
    else:
        holder[key[-1]] = deepcopy(value)
    return tree
