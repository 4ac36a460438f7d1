"""Laws of the settings of a program, and of finding it before any turn needs it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import TypeAdapter, ValidationError

from gateway.agents.command import CommandAgent, command_of
from gateway.agents.registry import open_agents
from gateway.agents.settings import AgentSettings, CommandSettings
from gateway.clock import FakeClock
from gateway.config import GatewayConfig
from gateway.config.schema import ACCEPTED_SECRET
from gateway.errors import ConfigurationError
from gateway.model import AgentId
from tests.support.command_programs.playing import GOOD, answered, python

if TYPE_CHECKING:
    from pathlib import Path

_ADAPTER: TypeAdapter[AgentSettings] = TypeAdapter(AgentSettings)
_TABLE: dict[str, Any] = {"kind": "command", "argv": ["agent"]}


def _executable(path: Path) -> Path:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o700)
    return path


def _problems(tmp_path: Path, **changes: Any) -> tuple[str, ...]:  # noqa: ANN401 - any keys of a table
    _executable(tmp_path / "agent")
    table = {**_TABLE, "env": {"PATH": str(tmp_path)}, **changes}
    with pytest.raises(ConfigurationError) as caught:
        command_of("a", CommandSettings.model_validate(table))
    return caught.value.problems


def test_the_kind_says_that_it_is_a_program() -> None:
    settings = _ADAPTER.validate_python(_TABLE)

    assert isinstance(settings, CommandSettings)
    assert settings.facts().model == "agent"


def test_it_is_called_by_the_name_of_its_program() -> None:
    assert CommandSettings(argv=["/opt/my/agent.py", "x"]).facts().model == "agent.py"
    assert CommandSettings(argv=["/opt/my/agent.py"], model="mine").facts().model == "mine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"argv": []}, "at least 1"),
        ({"argv": "agent --fast"}, "valid list"),
        ({"argv": [""]}, "accepted is an absolute path or a name without a directory"),
        ({"argv": ["./agent"]}, "accepted is an absolute path or a name without a directory"),
        ({"argv": ["bin/agent"]}, "accepted is an absolute path or a name without a directory"),
        ({"argv": ["/"]}, "accepted is an absolute path or a name without a directory"),
        ({"argv": ["agent", "a\0b"]}, "should match"),
        ({"env": {"A=B": "x"}}, "should match"),
        ({"env": {"": "x"}}, "should match"),
        ({"env": {"A": "x\0"}}, "should match"),
        ({"env": {"A": 1}}, "valid string"),
        ({"inherit_env": ["A B"]}, "should match"),
        ({"secret_env": {"A": "hunter2"}}, "secret_env.A"),
        ({"env": {"A": "x"}, "secret_env": {"A": {"env": "B"}}}, "accepted is one of them"),
        ({"timeout_s": 0}, "greater than 0"),
        ({"idle_timeout_s": -1}, "greater than 0"),
        ({"timeout_s": float("inf")}, "less than or equal to 86400"),
        ({"max_output_bytes": 0}, "greater than 0"),
        ({"max_output_bytes": 1_000}, r"above max_output_bytes \(1000\); accepted is at most"),
        ({"max_parallel": 0}, "greater than 0"),
        ({"reserve_tokens": 200_000}, "leaves nothing of context_window_tokens"),
        ({"shell": True}, "not permitted"),
    ],
)
def test_values_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        _ADAPTER.validate_python({**_TABLE, **changes})


def test_a_configuration_names_the_key_and_what_is_accepted() -> None:
    table = {
        "kind": "command",
        "argv": [],
        "inherit_env": "PATH",
        "env": {"1A": "x", "B": "\0"},
        "secret_env": {"KEY": "hunter2"},
        "max_parallel": 0,
    }
    with pytest.raises(ConfigurationError) as caught:
        GatewayConfig.from_dict({"agents": {"main": table}})

    name = "a name of A-Z a-z 0-9 _ that begins with no digit"
    assert [problem.removeprefix("agents.main.") for problem in caught.value.problems] == [
        "argv: cannot be used, accepted is a list of NUL-free strings, at least 1",
        'inherit_env: "PATH" is a string, accepted is a list of names of variables',
        f"env.1A: is not a name for this, accepted is {name}",
        'env.B: "\\x00" cannot be used, accepted is a NUL-free string',
        f"secret_env.KEY: is a string, accepted is {ACCEPTED_SECRET}",
        "max_parallel: 0 is out of range, accepted is a whole number above 0, at most 1024",
    ]


def test_a_configuration_is_written_as_it_is_read() -> None:
    table = {
        "kind": "command",
        "argv": ["agent"],
        "cwd": "/srv",
        "env": {"MODE": "fast"},
        "secret_env": {"KEY": {"credential": "key"}},
    }
    config = GatewayConfig.from_dict({"agents": {"main": table}})

    assert GatewayConfig.from_dict(config.to_dict()) == config
    assert config.to_dict()["agents"]["main"].items() >= table.items()


def test_a_name_is_found_on_the_path_that_the_program_is_given(tmp_path: Path) -> None:
    program = _executable(tmp_path / "agent")
    table = {**_TABLE, "argv": ["agent", "--x"], "env": {"PATH": str(tmp_path)}}
    command = command_of("a", CommandSettings.model_validate(table))

    assert command.argv == (str(program), "--x")
    assert command.name == "agent"


def test_without_a_path_of_its_own_a_program_is_found_on_the_daemons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = _executable(tmp_path / "agent")
    monkeypatch.setenv("PATH", str(tmp_path))
    command = command_of("a", CommandSettings(argv=["agent"], inherit_env=[]))

    assert command.argv == (str(program),)
    assert command.env == {}


def test_a_path_that_is_relative_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = _executable(tmp_path / "agent")
    monkeypatch.chdir(tmp_path)
    settings = CommandSettings(argv=["agent"], env={"PATH": "."}, cwd=tmp_path)

    assert command_of("a", settings).argv == (str(program),)


def test_a_link_is_started_by_its_own_name(tmp_path: Path) -> None:
    _executable(tmp_path / "agent")
    (tmp_path / "link").symlink_to(tmp_path / "agent")
    command = command_of("a", CommandSettings(argv=[str(tmp_path / "link")]))

    assert command.argv == (str(tmp_path / "link"),)


def test_what_cannot_be_executed_is_told_at_the_start(tmp_path: Path) -> None:
    _executable(tmp_path / "plain").chmod(0o600)
    accepted = "that can be executed; accepted is an absolute path, or a name that is found on PATH"

    for program in ("nosuch", "plain", "/nosuch/agent", str(tmp_path)):
        (problem,) = _problems(tmp_path, argv=[program])
        assert problem == f"agents.a.argv: there is no program {program!r} {accepted}"


def test_all_problems_are_told_at_once_and_no_secret_is_shown(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("changeme")
    problems = _problems(
        tmp_path,
        argv=["nosuch"],
        cwd=str(tmp_path / "agent"),
        secret_env={"ONE": {"env": "NO_SUCH_VARIABLE"}, "TWO": {"file": str(secret)}},
    )

    places = [problem.partition(": ")[0] for problem in problems]
    assert places == [
        "agents.a.secret_env.ONE",
        "agents.a.secret_env.TWO",
        "agents.a.argv",
        "agents.a.cwd",
    ]
    assert "changeme" not in "".join(problems)


async def test_the_registry_builds_it_and_tells_what_is_wrong() -> None:
    good = CommandSettings(argv=python(GOOD))
    async with open_agents({"a": good}, FakeClock()) as agents:
        agent = agents[AgentId("a")]
        assert isinstance(agent, CommandAgent)
        assert (await answered(agent)).text == "fine"

    with pytest.raises(ConfigurationError, match=r"^agents\.b\.argv: there is no program"):
        async with open_agents({"a": good, "b": CommandSettings(argv=["nosuch"])}, FakeClock()):
            pass


def test_a_secret_of_the_daemon_is_given_by_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE_KEY", "one")
    monkeypatch.setenv("OTHER_KEY", "other")
    secret = {"KEY": {"env": "ONE_KEY"}}
    table = {**_TABLE, "argv": ["/bin/sh"], "secret_env": secret, "inherit_env": ["OTHER_KEY"]}
    command = command_of("a", CommandSettings.model_validate(table))

    assert command.env == {"KEY": "one", "OTHER_KEY": "other"}
    assert "'other'" not in repr(command)
    assert "ONE_KEY" in os.environ
