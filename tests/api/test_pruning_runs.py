"""Runs over HTTP: many at once without their failures, one with all of it, named by its start."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from gateway.api.answers import to_json
from gateway.api.pruning_shown import shown_run
from gateway.clock import SystemClock
from gateway.transcripts.pruned import RunRow, end_run
from tests.api.running import running_api
from tests.api.test_pruning import RULES, get, post
from tests.support.stored_items import BOB, said

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.durable.batch import Transaction
    from tests.support.state import State

ERRORS: Final = [
    {"item_id": f"{number:012}", "rule_id": "old", "error": "ValueError"} for number in range(100)
]
BY_RULE: Final = {
    f"rule-{number}": {"count": 1, "freed_bytes": 1, "freed_tokens": 1} for number in range(100)
}


async def note(state: State, *run_ids: str) -> None:
    """Note runs, each with a hundred failures of a hundred rules."""
    stats = {"error_count": 250, "by_rule": BY_RULE, "by_action": {}}
    record: dict[str, Any] = {"stats": stats, "errors": ERRORS}

    def work(transaction: Transaction) -> None:
        for name in run_ids:
            at = "2026-01-01T00:00:00.000000Z"
            end_run(transaction, RunRow(name, "apply", at, at, "partial", record=record))

    await state.database.write(work)


async def test_runs_come_with_their_failures_counted_and_one_comes_with_all(
    tmp_path: Path,
) -> None:
    async with running_api(tmp_path, pruning=RULES) as api:
        await note(api.state, "abcdef01", "abcdef02")
        listed = (await get(api, "runs"))["runs"]
        one = await get(api, "runs/abcdef01")
        missing = await api.client.get("/v1/pruning/runs/nothing")

    assert [run["run_id"] for run in listed] == ["abcdef02", "abcdef01"]
    assert listed[1]["record"] == {"stats": {"error_count": 250, "by_action": {}}}
    assert listed[1]["error_count"] == one["error_count"] == 250
    assert one["record"] == {
        "stats": {"error_count": 250, "by_action": {}, "by_rule": BY_RULE},
        "errors": ERRORS,
    }
    assert listed[1] | {"record": one["record"]} == one
    assert missing.status_code == 404


async def test_a_page_of_runs_does_not_hold_up_the_event_loop(tmp_path: Path) -> None:
    async with running_api(tmp_path, pruning=RULES) as api:
        await note(api.state, *(f"run-{number:04}" for number in range(1_000)))
        rows = await api.pruning.runs(limit=1_000)
        clock, times, body = SystemClock(), [], b""
        for _ in range(9):
            start = clock.monotonic()
            body = to_json([shown_run(row) for row in rows])
            times.append(clock.monotonic() - start)

    assert len(rows) == 1_000
    assert len(body) < 500_000
    assert min(times) < 0.01


async def test_the_start_of_an_id_is_enough_unless_it_means_more_than_one(tmp_path: Path) -> None:
    async with running_api(tmp_path, pruning=RULES) as api:
        await said(api.state.database, 3)
        await said(api.state.database, 2, BOB)
        done = await post(api, "apply")
        await note(api.state, "abcdef01", "abcdef02", "abcdef", "abcdee")
        run = done["id"]
        of_run = await get(api, f"runs/{run[:6]}/items")
        by_start = await get(api, "history", run=run[:8])
        whole = await get(api, "runs/abcdef")
        many = await api.client.get("/v1/pruning/runs/abcde")
        short = await api.client.get(f"/v1/pruning/runs/{run[:3]}")
        odd = await api.client.get("/v1/pruning/history", params={"run": "ab%_"})
        sessions = await api.post("/v1/pruning/plan", {"session": "s-bo"})
        several = await api.post("/v1/pruning/restore", {"session": "s-"})
        back = await post(api, "restore", {"run": run[:8]})

    assert len(of_run["items"]) == len(by_start["items"]) == back["restored_count"] == 5
    assert whole["run_id"] == "abcdef"
    assert many.status_code == 400
    assert many.json()["detail"] == (
        "'abcde' is the start of more than one run: abcdee, abcdef, abcdef01, ..."
    )
    assert (short.status_code, odd.status_code, several.status_code) == (404, 404, 404)
    assert sessions.json()["session_id"] == "s-bob"


async def test_a_run_whose_row_is_lost_is_found_by_what_it_took(tmp_path: Path) -> None:
    async with running_api(tmp_path, pruning=RULES) as api:
        await said(api.state.database, 3)
        run = (await post(api, "apply"))["id"]
        await api.state.database.write(lambda tx: tx.execute("DELETE FROM pruning_runs"))
        of_run = await get(api, "history", run=run[:8])
        row = await api.client.get(f"/v1/pruning/runs/{run[:8]}")

    assert len(of_run["items"]) == 3
    assert row.status_code == 404
    assert "nothing is known but its items" in row.json()["detail"]


@pytest.mark.parametrize("path", ["plan", "plan?limit=0"])
async def test_one_plan_is_made_at_a_time(tmp_path: Path, path: str) -> None:
    gate, held = threading.Event(), threading.Semaphore(0)

    def hold(_: object) -> None:
        held.release()
        gate.wait(30)

    async with running_api(tmp_path, pruning=RULES) as api:
        await said(api.state.database, 3)
        answers: list[int] = []

        async def ask() -> None:
            answers.append((await api.post(f"/v1/pruning/{path}", {})).status_code)

        async with anyio.create_task_group() as group:
            for _ in range(2):  # as many as there are readers
                group.start_soon(api.state.database.read, hold)
                await anyio.to_thread.run_sync(partial(held.acquire, timeout=30))
            group.start_soon(ask)
            group.start_soon(ask)
            with anyio.fail_after(30):
                while not answers:
                    await anyio.lowlevel.checkpoint()
            refused = await api.post("/v1/pruning/plan", {})
            gate.set()
        again = await api.post("/v1/pruning/plan", {})

    assert answers == [429, 200]
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "3"
    assert refused.json()["detail"] == "Another plan is being made; ask again in a moment."
    assert again.status_code == 200
