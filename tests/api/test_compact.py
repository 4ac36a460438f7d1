"""Compaction by hand over HTTP: what was done is told, and so is why nothing was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from gateway.context.settings import CompactionSettings, ContextSettings
from tests.api.running import KEY, RunningApi, message, running_api
from tests.support.turns import full_disk

if TYPE_CHECKING:
    from pathlib import Path

CONTEXT = f"/v1/sessions/{KEY}/context"
COMPACT = f"{CONTEXT}/compact"
SUMMARY = "Alice sent letters.\x1b[2J"


async def talk(api: RunningApi, letters: str = "abcdef") -> None:
    for letter in letters:
        response = await api.post("/v1/messages", message(text=letter * 500))
        assert response.status_code == 200, response.text


async def compacted(api: RunningApi) -> Any:  # noqa: ANN401 - JSON
    response = await api.post(COMPACT)
    assert response.status_code == 200, response.text
    return response.json()


async def test_what_was_done_is_told_and_shown_and_sent_from_then_on(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        api.agent.summary = SUMMARY
        await talk(api)
        before = (await api.client.get(CONTEXT)).json()
        transcript = (await api.client.get(f"/v1/sessions/{KEY}/transcript")).json()
        done = await compacted(api)
        after = (await api.client.get(f"{CONTEXT}?text=true")).json()
        same = (await api.client.get(f"/v1/sessions/{KEY}/transcript")).json()
        usage = (await api.client.get("/v1/usage?by=agent")).json()
        reply = (await api.post("/v1/messages", message(text="g"))).json()

    summary = done["summary"]
    assert done == {
        "session_key": KEY,
        "compacted": True,
        "why_not": None,
        "summary": {
            "through_turn": transcript["messages"][5]["turn_id"],
            "turns": 3,
            "text": SUMMARY,
            "agent": "main",
            "model": "gated",
            "tokens_before": summary["tokens_before"],
            "tokens_after": summary["tokens_after"],
            "through": transcript["messages"][5]["position"],
        },
        "model_calls": 1,
    }
    assert summary["tokens_before"] > summary["tokens_after"]
    counts = ("summarised_turns", "left_out_turns")
    assert [before["size"][name] for name in counts] == [0, 0]
    assert [after["size"][name] for name in counts] == [3, 0]
    assert before["messages_not_listed"] == after["messages_not_listed"] == 0
    first, *lines = after["messages"]
    assert (first["state"], first["number"]) == ("summary", 0)
    assert first["text"].startswith("[Summary of the earlier conversation.")
    assert [line["state"] for line in lines] == ["left_out"] * 6 + ["kept"] * 6
    assert {line["why"] for line in lines[:6]} == {"summarised"}
    assert (after["cache"]["state"], after["cache"]["last_model"]) == ("cold", "gated")
    assert after["cache"]["why"] == "old turns were summarised since the last request"
    assert same == transcript
    # Six answers of ten tokens, and one summary of seven messages.
    assert usage["rows"][0]["calls"] == 7
    assert usage["rows"][0]["total_tokens"] == 6 * 10 + 7 + 3
    assert reply["context"]["turns_left_out"] == 3


async def test_why_nothing_was_done_is_told(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await talk(api, "ab")
        little = await compacted(api)
        await talk(api, "cdef")
        api.agent.summary = " "
        empty = await compacted(api)

    assert little == {
        "session_key": KEY,
        "compacted": False,
        "why_not": "there are no turns that may be summarised",
        "summary": None,
        "model_calls": 0,
    }
    assert (empty["compacted"], empty["summary"], empty["model_calls"]) == (False, None, 1)
    assert empty["why_not"] == "the summary is empty"


async def test_while_a_turn_runs_it_is_a_conflict(tmp_path: Path) -> None:
    async with running_api(tmp_path, gate_open=False) as api, anyio.create_task_group() as group:
        group.start_soon(api.post, "/v1/messages", message())
        with anyio.fail_after(30):
            await api.agent.started.wait()
        response = await api.post(COMPACT)
        api.agent.gate.set()

    assert response.status_code == 409
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["detail"] == "A turn of this session runs or waits. Try again after it."


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        pytest.param(
            "/v1/sessions/agent:main:http::dm:nobody::/context/compact",
            404,
            "no such session",
            id="unknown",
        ),
        pytest.param("/v1/sessions/alice/context/compact", 400, "not a session key", id="no-key"),
        pytest.param(f"{COMPACT}?turns=3", 400, "no such query parameter", id="parameter"),
        pytest.param(
            "/v1/sessions/agent:chunks:http::dm:alice::/context/compact",
            409,
            "The agent chunks cannot summarise.",
            id="cannot",
        ),
    ],
)
async def test_wrong_requests_are_told(tmp_path: Path, path: str, status: int, told: str) -> None:
    async with running_api(tmp_path) as api:
        await api.post("/v1/messages", message(agent="chunks"))
        response = await api.post(path)

    assert (response.status_code, told in response.json()["detail"]) == (status, True)


async def test_it_is_for_who_has_the_token_and_never_done_by_a_look(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await talk(api)
        stranger = await api.client.post(COMPACT, headers={"Authorization": "Bearer wrong"})
        look = await api.client.get(COMPACT)

        assert (stranger.status_code, look.status_code) == (401, 405)
        assert api.turns.contexts.telling.compactions == {}


async def test_where_it_is_switched_off_that_is_told(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await talk(api)
        off = CompactionSettings(enabled=False)
        api.turns.contexts.settings = ContextSettings(compaction=off)
        response = await api.post(COMPACT)

    assert response.status_code == 409
    assert "context.compaction.enabled is false" in response.json()["detail"]


async def test_no_space_is_told(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        large = CompactionSettings(summary_chars=100_000)
        api.turns.contexts.settings = ContextSettings(compaction=large)
        api.agent.summary = "s" * 50_000
        for letter in "abcdef":
            await api.post("/v1/messages", message(text=letter * 20_000))
        async with full_disk(api.state.database):
            response = await api.post(COMPACT)
        assert response.status_code == 503
        assert response.json()["type"].endswith("storage-full")

        assert (await compacted(api))["compacted"] is True
