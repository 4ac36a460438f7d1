"""Background processes over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from gateway.model import AgentId, SessionId, SessionKey, ToolCaller, TurnId
from tests.api.running import KEY, RunningApi, message, running_api
from tests.support.state import key_of, source

if TYPE_CHECKING:
    from pathlib import Path

PATH = "/v1/processes"
ON = {"enabled": True}


def caller(chat: str = "alice") -> ToolCaller:
    return ToolCaller(key_of(chat), SessionId("s"), AgentId("main"), source(chat), TurnId("t"))


async def got(api: RunningApi, path: str) -> dict[str, Any]:
    response = await api.client.get(path)
    assert response.status_code == 200, response.text
    shown: dict[str, Any] = response.json()
    return shown


async def test_a_running_process_is_shown_with_what_it_blocks(tmp_path: Path) -> None:
    async with running_api(tmp_path, processes=ON) as api:
        started = await api.processes.start(caller(), ["sleep", "1000"])
        try:
            await api.clock.advance(90)
            (listed,) = (await got(api, PATH))["processes"]
            shown = await got(api, f"{PATH}/{started.process_id}")
            mine = await got(api, f"{PATH}?session_key={KEY}")
            others = await got(api, f"{PATH}?session_key={key_of('bob')}")
        finally:
            await api.post(f"{PATH}/{started.process_id}/stop")

    assert listed["blocks"] == ["reset", "prune"]
    assert (listed["state"], listed["overdue"], listed["exit_status"]) == ("running", False, None)
    assert (listed["session_key"], listed["command"]) == (KEY, ["sleep", "1000"])
    assert listed["age_s"] == 90
    assert started.keeper is not None
    assert listed["pid"] == started.keeper.pid
    assert shown == listed | {"output": "", "output_bytes": 0}
    assert mine["processes"] == [listed]
    assert others == {"processes": [], "more": False}


async def test_one_that_is_too_old_is_shown_to_block_nothing(tmp_path: Path) -> None:
    async with running_api(tmp_path, processes={**ON, "guard_max_age_s": 60.0}) as api:
        started = await api.processes.start(caller(), ["sleep", "1000"])
        try:
            await api.clock.advance(61)
            shown = await got(api, f"{PATH}/{started.process_id}")
        finally:
            await api.post(f"{PATH}/{started.process_id}/stop")

    assert (shown["blocks"], shown["overdue"], shown["state"]) == ([], True, "running")


async def test_stopping_ends_it_and_a_second_time_is_a_conflict(tmp_path: Path) -> None:
    async with running_api(tmp_path, processes=ON) as api:
        started = await api.processes.start(caller(), ["sh", "-c", "echo hello; exec sleep 1000"])
        with anyio.fail_after(30):
            while not (await got(api, f"{PATH}/{started.process_id}"))["output"]:
                await anyio.lowlevel.checkpoint()
        stopped = (await api.post(f"{PATH}/{started.process_id}/stop")).json()
        again = await api.post(f"{PATH}/{started.process_id}/stop")
        shown = await got(api, f"{PATH}/{started.process_id}")

    assert (stopped["state"], stopped["exit_status"], stopped["pid"]) == ("stopped", -15, None)
    assert again.status_code == 409
    assert shown["output"] == "hello\n"


async def test_the_list_is_cut_where_that_is_asked_for(tmp_path: Path) -> None:
    async with running_api(tmp_path, processes=ON) as api:
        started = [await api.processes.start(caller(chat), ["sleep", "1000"]) for chat in "ab"]
        try:
            one = await got(api, f"{PATH}?limit=1")
        finally:
            for process in started:
                await api.post(f"{PATH}/{process.process_id}/stop")

    assert [process["process_id"] for process in one["processes"]] == [started[1].process_id]
    assert one["more"]


@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [
        pytest.param(f"{PATH}/p-0000000000", 404, "no process with this id", id="unknown"),
        pytest.param(f"{PATH}/{KEY}", 404, "no process with this id", id="a-session-key"),
        pytest.param(f"{PATH}?limit=0", 400, "whole number from 1 to 1000", id="limit"),
        pytest.param(f"{PATH}?session_key=x", 400, "accepted is a session key", id="key"),
        pytest.param(f"{PATH}?key=x", 400, "no such query parameter", id="parameter"),
        pytest.param(f"{PATH}/p-0?max_chars=no", 400, "whole number from 1 to", id="chars"),
    ],
)
async def test_what_is_not_there_or_wrong_is_told(
    tmp_path: Path, path: str, status: int, detail: str
) -> None:
    async with running_api(tmp_path) as api:
        response = await api.client.get(path)

    assert response.status_code == status
    assert detail in response.json()["detail"]


async def test_processes_are_for_who_has_the_token(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        stranger = {"Authorization": "Bearer wrong"}
        assert (await api.client.get(PATH, headers=stranger)).status_code == 401
        assert (await api.client.post(f"{PATH}/p-0/stop", headers=stranger)).status_code == 401
        assert (await api.post(f"{PATH}/p-0/stop", {"x": 1})).status_code == 400
        assert (await api.post(PATH)).status_code == 405


async def test_a_session_with_a_process_is_not_erased_and_without_it_is(tmp_path: Path) -> None:
    async with running_api(tmp_path, processes=ON) as api:
        assert (await api.post("/v1/messages", {"chat_id": "alice", "text": "x"})).is_success
        started = await api.processes.start(caller(), ["sleep", "1000"])
        refused = await api.client.delete(f"/v1/sessions/{KEY}?erase=true")
        await api.post(f"{PATH}/{started.process_id}/stop")
        erased = await api.client.delete(f"/v1/sessions/{KEY}?erase=true")
        listed = await api.processes.list(SessionKey(KEY))

    assert refused.status_code == 409
    assert "stop it first" in refused.json()["detail"]
    assert erased.status_code == 200, erased.text
    assert listed == ()


async def test_a_session_whose_process_runs_is_not_erased_nor_removed_on_the_way(
    tmp_path: Path,
) -> None:
    async with running_api(tmp_path, processes=ON) as api:
        await api.post("/v1/messages", message())
        started = await api.processes.start(caller(), ["sleep", "1000"])

        refused = await api.client.delete(f"/v1/sessions/{KEY}?erase=true")

        assert refused.status_code == 409
        assert "stop it first" in refused.text
        assert (await api.client.get(f"/v1/sessions/{KEY}")).status_code == 200
        await api.post(f"{PATH}/{started.process_id}/stop")
