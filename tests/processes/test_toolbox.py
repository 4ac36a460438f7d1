"""Who is offered the tool `process`, and on what terms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from typing_extensions import override

from gateway.agents.settings import AgentToolSettings
from gateway.processes.toolbox import with_processes
from tests.processes.running import running_registry
from tests.support.toolbox import CALLER, TestToolbox, spec

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.model import ToolSpec


async def _find(q: str = "") -> str:
    return f"found {q}"


@pytest.mark.parametrize(
    ("choice", "enabled", "offered"),
    [
        ({"allow": ["process"]}, True, True),
        ({"allow": ["Process", "files_*"]}, True, True),
        ({"allow": ["process"]}, False, False),
        ({"allow": ["*"]}, True, False),
        ({"allow": ["proc*"]}, True, False),
        ({"allow": []}, True, False),
        ({"allow": ["process"], "deny": ["PROC*"]}, True, False),
    ],
)
async def test_an_agent_has_the_tool_only_if_its_allow_names_it(
    tmp_path: Path, choice: dict[str, list[str]], *, enabled: bool, offered: bool
) -> None:
    others = TestToolbox({"find": _find, "zap": _find})
    async with running_registry(tmp_path, settings={"enabled": enabled}) as bench:
        box = with_processes(others, bench.registry, AgentToolSettings.model_validate(choice))

        names = [one.name for one in box.specs()]
        assert names == (["find", "process", "zap"] if offered else ["find", "zap"])
        assert (await box.call("find", {"q": "x"}, caller=CALLER)).text == "found x"


@pytest.mark.parametrize(("ask", "asks"), [(["process"], True), (["*"], True), (["find"], False)])
async def test_it_is_asked_for_as_other_tools_are(
    tmp_path: Path, ask: list[str], *, asks: bool
) -> None:
    choice = AgentToolSettings(allow=["process"], ask=ask)
    async with running_registry(tmp_path) as bench:
        box = with_processes(TestToolbox({"find": _find}), bench.registry, choice)

        assert box.needs_approval("process") is asks
        assert not box.needs_approval("find")


async def test_what_is_offered_stays_the_same_until_the_others_change(tmp_path: Path) -> None:
    class Others(TestToolbox):
        fixed: tuple[ToolSpec, ...] = (spec("find"),)

        @override
        def specs(self) -> tuple[ToolSpec, ...]:
            return self.fixed

    others = Others({"find": _find})
    async with running_registry(tmp_path) as bench:
        box = with_processes(others, bench.registry, AgentToolSettings(allow=["process"]))
        first = box.specs()

        assert box.specs() is first
        others.fixed = (spec("find"), spec("zap"))
        assert [one.name for one in box.specs()] == ["find", "process", "zap"]
