"""Laws of the toolbox of an agent that was given no tools."""

from __future__ import annotations

from gateway.agents.tools import NoTools
from tests.support.toolbox import CALLER


async def test_a_toolbox_without_tools_offers_nothing_and_runs_nothing() -> None:
    toolbox = NoTools()

    assert list(toolbox.specs()) == []
    assert toolbox.needs_approval("find")
    assert (await toolbox.call("find", {}, caller=CALLER)).text == "There is no tool 'find'."
