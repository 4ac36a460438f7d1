"""Rules over stored items, over HTTP: planned, carried out, explained, given back, told of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio
import orjson
import pytest

from gateway.api.pruning_plans import PlanShelf
from gateway.errors import NotFoundError
from gateway.pruning import DeleteAction, ItemSummary, ItemType, Plan, PlannedAction, Totals
from gateway.pruning.plan import Cause
from gateway.retention.settings import ItemPruningSettings
from tests.api.running import RunningApi, events_of, running_api
from tests.support.state import START
from tests.support.stored_items import ANN, BOB, NO_PROTECTIONS, OLD_GO, positions, said

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gateway.pruning import PrunableItem

STREAM: Final = "text/event-stream"
RULES: Final = {"rules": [OLD_GO], "protections": NO_PROTECTIONS, "max_share": 1.0}
SUMMARIES: Final = {
    **RULES,
    "rules": [OLD_GO | {"action": {"type": "summarize"}}],
    "budgets": {"max_duration": "1h"},
}


class GatedSummarizer:
    """Says how long the item was, once its gate is open."""

    def __init__(self) -> None:
        self.gate = anyio.Event()
        self.started = anyio.Event()

    async def summarize(
        self,
        item: PrunableItem,
        *,
        target_tokens: int | None,
        reason: str,
    ) -> ItemSummary:
        self.started.set()
        await self.gate.wait()
        return ItemSummary(f"{len(item.content or '')} characters")


async def get(api: RunningApi, path: str, **params: str) -> Any:  # noqa: ANN401 - JSON
    response = await api.client.get(f"/v1/pruning/{path}", params=params)
    assert response.status_code == 200, response.text
    return response.json()


async def post(api: RunningApi, path: str, body: Mapping[str, object] | None = None) -> Any:  # noqa: ANN401 - JSON
    response = await api.post(f"/v1/pruning/{path}", body)
    assert response.status_code == 200, response.text
    return response.json()


def ids(told: Mapping[str, Any], name: str = "items") -> list[int]:
    return [int(one["item_id"]) for one in told[name]]


async def test_a_plan_tells_what_would_go_and_why_and_changes_nothing(tmp_path: Path) -> None:
    async with running_api(tmp_path, pruning=RULES) as api:
        await said(api.state.database, 4)
        await said(api.state.database, 1, BOB, at=api.clock.now())
        plan = await post(api, "plan")
        left = await positions(api.state.database)

    assert left == [1, 2, 3, 4, 5]
    assert (plan["scanned"]["items"], plan["planned_count"]) == (5, 4)
    assert (plan["freed_bytes"], plan["breaker"], plan["skipped_count"]) == (400, None, 0)
    assert plan["by_rule"] == [
        {
            "rule_id": "old",
            "rule_name": "Old ones go",
            "action": "delete",
            "count": 4,
            "freed_bytes": 400,
            "freed_tokens": plan["freed_tokens"],
        }
    ]
    assert plan["items"][0] == {
        "item_id": "000000000001",
        "session_id": "s-ann",
        "type": "message",
        "rule_id": "old",
        "rule_name": "Old ones go",
        "action": {"type": "delete"},
        "reason": "age 214d > 30d",
        "observed": plan["items"][0]["observed"],
        "before": {"items": 1, "size_bytes": 100, "tokens": 25},
        "after": {"items": 0, "size_bytes": 0, "tokens": 0},
    }


async def test_the_items_of_a_plan_come_in_pages(tmp_path: Path) -> None:
    async with running_api(tmp_path, pruning=RULES) as api:
        await said(api.state.database, 5)
        plan = await post(api, "plan?limit=2")
        seen, cursor = ids(plan), plan["next_cursor"]
        while cursor is not None:
            page = await get(api, f"plans/{plan['id']}/items", cursor=cursor, limit="2")
            seen += ids(page)
            cursor = page["next_cursor"]
        none = await post(api, "plan?limit=0")

    assert (ids(plan), seen) == ([1, 2], [1, 2, 3, 4, 5])
    assert (none["items"], none["planned_count"], none["next_cursor"]) == ([], 5, "0")


async def test_a_plan_is_carried_out_by_its_id_and_only_once(tmp_path: Path) -> None:
    async with running_api(tmp_path, pruning=RULES) as api:
        await said(api.state.database, 4)
        plan = await post(api, "plan")
        await said(api.state.database, 2, BOB)
        done = await post(api, "apply", {"plan": plan["id"]})
        left = await positions(api.state.database)
        again = await api.post("/v1/pruning/apply", {"plan": plan["id"]})
        told = await get(api, "runs")
        items = await get(api, f"runs/{done['id']}/items")

    assert left == [5, 6], "later ones are not in the plan"
    assert (done["success"], done["plan_id"], done["trigger"]) == (True, plan["id"], "apply")
    assert (ids(done, "pruned_items"), done["by_rule"]) == (ids(plan), plan["by_rule"])
    assert done["stats"]["freed_bytes"] == plan["freed_bytes"] == 400
    assert again.status_code == 404
    assert "Make a new one" in again.json()["detail"]
    assert [(one["run_id"], one["status"], one["pruned_count"]) for one in told["runs"]] == [
        (done["id"], "ok", 4)
    ]
    assert [(one["item_id"], one["state"], one["reason"]) for one in items["items"]] == [
        (f"{number:012}", "held", "age 214d > 30d") for number in (4, 3, 2, 1)
    ]


async def test_without_a_plan_one_is_made_and_a_second_run_finds_nothing(tmp_path: Path) -> None:
    async with running_api(tmp_path, pruning=RULES) as api:
        await said(api.state.database, 4)
        await said(api.state.database, 1, BOB, at=api.clock.now())
        pretended = await post(api, "apply", {"dry_run": True})
        before = await positions(api.state.database)
        done = await post(api, "apply")
        again = await post(api, "apply")
        left = await positions(api.state.database)
        told = await get(api, "runs")

    assert (before, left) == ([1, 2, 3, 4, 5], [5])
    assert pretended["dry_run"] is True
    assert pretended["pruned_items"][0]["reason"].endswith(" (dry run)")
    assert ids(done, "pruned_items") == ids(pretended, "pruned_items") == [1, 2, 3, 4]
    assert (again["success"], again["pruned_items"]) == (True, [])
    assert [one["run_id"] for one in told["runs"]] == [done["id"]]


async def test_one_session_is_named_by_its_key_or_by_a_conversation(tmp_path: Path) -> None:
    async with running_api(tmp_path, pruning=RULES) as api:
        await said(api.state.database, 2)
        await said(api.state.database, 2, BOB)
        by_key = await post(api, "plan", {"session": ANN})
        by_id = await post(api, "plan", {"session": "s-ann"})
        unknown = await api.post("/v1/pruning/plan", {"session": "s-nobody"})

    assert ids(by_key) == ids(by_id) == [1, 2]
    assert unknown.status_code == 404


async def test_a_run_that_would_take_too_much_is_refused_until_it_is_confirmed(
    tmp_path: Path,
) -> None:
    async with running_api(tmp_path, pruning=RULES | {"max_share": 0.5}) as api:
        await said(api.state.database, 4)
        plan = await post(api, "plan")
        refused = await post(api, "apply", {"plan": plan["id"]})
        left = await positions(api.state.database)
        done = await post(api, "apply", {"plan": plan["id"], "confirmed": True})
        told = await get(api, "runs")

    assert "more than max_share (50%)" in plan["breaker"]
    assert (refused["status"], refused["detail"], left) == (
        "refused",
        plan["breaker"],
        [1, 2, 3, 4],
    )
    assert (done["status"], ids(done, "pruned_items")) == ("ok", [1, 2, 3, 4])
    assert [one["status"] for one in told["runs"]] == ["ok", "refused"]


async def test_exempt_sessions_stay_but_for_force(tmp_path: Path) -> None:
    rules = RULES | {"sessions": {ANN: {"exempt": True}}}
    async with running_api(tmp_path, pruning=rules) as api:
        await said(api.state.database, 3)
        plan = await post(api, "plan")
        forced = await post(api, "plan", {"force": True})

    assert (plan["items"], plan["skipped_by_reason"]) == ([], {"exempt": 3})
    assert plan["skipped_items"][0]["reason"] == "exempt"
    assert ids(forced) == [1, 2, 3]


async def test_a_stream_tells_how_far_it_is_and_then_the_result(tmp_path: Path) -> None:
    async with running_api(tmp_path, pruning=RULES) as api:
        await said(api.state.database, 300)
        await said(api.state.database, 1, BOB, at=api.clock.now())
        response = await api.post("/v1/pruning/apply", {}, accept=STREAM)
        plain = await post(api, "apply")

    assert response.headers["content-type"] == STREAM
    *progress, (name, result) = events_of(response.text)
    assert (name, result["stats"]["pruned_count"]) == ("result", 300)
    assert ids(result, "pruned_items") == list(range(1, 101)), "the first, as the limit says"
    assert progress[-1] == (
        "progress",
        {"scanned": 301, "current": 300, "total": 300, "percent": 100},
    )
    assert len(progress) <= 2, "no time has passed: once at the start, and the last"
    assert plain.keys() == result.keys()


@pytest.mark.parametrize("accept", ["*/*", STREAM])
async def test_a_client_that_goes_away_ends_no_run(tmp_path: Path, accept: str) -> None:
    summarizer = GatedSummarizer()
    async with running_api(tmp_path, pruning=SUMMARIES, summarizer=summarizer) as api:
        await said(api.state.database, 3)
        head = api.head(
            "POST",
            "/v1/pruning/apply",
            f"Accept: {accept}",
            "Content-Type: application/json",
            "Content-Length: 2",
        )
        async with await api.connect() as stream:
            await stream.send(head + b"{}")
            with anyio.fail_after(30):
                await summarizer.started.wait()
        # Another request and its answer: by then the server has seen the client go.
        running = await get(api, "runs")
        summarizer.gate.set()
        # Who asks for the same joins the run.
        done = await post(api, "apply")
        told = await get(api, "runs")

    assert running["runs"] == []
    assert ids(done, "pruned_items") == [1, 2, 3]
    assert [(one["run_id"], one["pruned_count"]) for one in told["runs"]] == [(done["id"], 3)]


async def test_another_run_in_progress_is_a_conflict(tmp_path: Path) -> None:
    summarizer = GatedSummarizer()
    async with (
        running_api(tmp_path, pruning=SUMMARIES, summarizer=summarizer) as api,
        anyio.create_task_group() as group,
    ):
        await said(api.state.database, 3)
        plan = await post(api, "plan")
        group.start_soon(post, api, "apply")
        with anyio.fail_after(30):
            await summarizer.started.wait()
        refused = await api.post("/v1/pruning/apply", {"plan": plan["id"]})
        streamed = await api.post("/v1/pruning/apply", {"plan": plan["id"]}, accept=STREAM)
        still_planned = await post(api, "plan")
        summarizer.gate.set()

    assert refused.status_code == 409
    assert refused.headers["content-type"] == "application/problem+json"
    assert "another run is in progress" in refused.json()["detail"]
    assert events_of(streamed.text) == [("error", refused.json())]
    assert ids(still_planned) == ids(plan)


async def test_a_plan_of_other_rules_is_a_conflict(tmp_path: Path) -> None:
    async with running_api(tmp_path, pruning=RULES) as api:
        await said(api.state.database, 3)
        plan = await post(api, "plan")
        other = RULES | {"rules": [OLD_GO | {"name": "Another name"}]}
        api.pruning.reconfigure(ItemPruningSettings.model_validate(other))
        refused = await api.post("/v1/pruning/apply", {"plan": plan["id"]})
        left = await positions(api.state.database)

    assert (refused.status_code, left) == (409, [1, 2, 3])
    assert "made under other rules" in refused.json()["detail"]


@pytest.mark.parametrize("accept", ["*/*", STREAM])
async def test_who_waits_for_a_run_while_the_gateway_stops_is_told(
    tmp_path: Path, accept: str
) -> None:
    summarizer, answers = GatedSummarizer(), []
    running = running_api(tmp_path, pruning=SUMMARIES, summarizer=summarizer, grace_s=0.1)
    async with running as api:
        await said(api.state.database, 3)

        async def ask() -> None:
            answers.append(await api.post("/v1/pruning/apply", {}, accept=accept))

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            with anyio.fail_after(30):
                await summarizer.started.wait()
            api.stop.set()
        with anyio.fail_after(30):
            await api.served.wait()

    [response] = answers
    problem = response.json() if accept == "*/*" else events_of(response.text)[-1][1]
    assert problem["type"] == "urn:session-gateway:problem:unavailable"
    assert accept == "*/*" or "stands in the history" in problem["detail"]


async def test_an_item_is_explained_rule_by_rule(tmp_path: Path) -> None:
    rules = RULES | {"protections": NO_PROTECTIONS | {"keep_newest": 2}}
    async with running_api(tmp_path, pruning=rules) as api:
        await said(api.state.database, 4)
        goes = await get(api, "items/1")
        stays = await get(api, "items/000000000003")
        missing = await api.client.get("/v1/pruning/items/99")
        no_id = await api.client.get("/v1/pruning/items/me")

    [rule] = goes["rules"]
    assert (goes["taken_by"], goes["protections"], rule["takes"]) == ("old", [], True)
    assert [(one["holds"], one["text"]) for one in rule["conditions"]] == [(True, "age 214d > 30d")]
    assert (stays["taken_by"], stays["protections"]) == (None, ["newest"])
    assert stays["item_id"] == "000000000003"
    held = [one["protection"] for one in stays["rules"][0]["protections"] if one["holds"]]
    assert held == ["newest"]
    assert (missing.status_code, no_id.status_code) == (404, 400)


async def test_what_was_taken_is_given_back(tmp_path: Path) -> None:
    async with running_api(tmp_path, pruning=RULES) as api:
        await said(api.state.database, 4)
        done = await post(api, "apply")
        one = await post(api, "restore", {"items": ["2"]})
        after_one = await positions(api.state.database)
        run = await post(api, "restore", {"run": done["id"]})
        after_run = await positions(api.state.database)
        again = await post(api, "restore", {"run": done["id"]})
        twice = await post(api, "restore", {"items": ["000000000002"]})
        told = await get(api, "history")
        missing = await api.post("/v1/pruning/restore", {"run": "nothing"})

    assert (after_one, after_run) == ([2], [1, 2, 3, 4])
    assert (one["restored_count"], ids(one, "restored")) == (1, [2])
    assert (run["restored_count"], sorted(ids(run, "restored"))) == (3, [1, 3, 4])
    assert (again["restored_count"], again["refused_count"]) == (0, 0)
    assert (twice["restored_count"], ids(twice, "refused")) == (0, [2])
    assert {entry["state"] for entry in told["items"]} == {"restored"}
    assert missing.status_code == 404


async def test_all_of_a_session_is_given_back(tmp_path: Path) -> None:
    async with running_api(tmp_path, pruning=RULES) as api:
        await said(api.state.database, 2)
        await said(api.state.database, 2, BOB)
        await post(api, "apply")
        back = await post(api, "restore", {"session": ANN})
        left = await positions(api.state.database)

    assert (back["restored_count"], left) == (2, [1, 2])


async def test_the_history_is_of_one_item_one_run_one_session_and_in_pages(tmp_path: Path) -> None:
    async with running_api(tmp_path, pruning=RULES) as api:
        await said(api.state.database, 3)
        first = await post(api, "apply")
        await said(api.state.database, 2, BOB)
        second = await post(api, "apply")
        of_item = await get(api, "history", item="2")
        of_run = await get(api, "history", run=first["id"])
        of_session = await get(api, "history", session=BOB)
        seen: list[int] = []
        params: dict[str, str] = {"limit": "2"}
        while True:
            page = await get(api, "history", **params)
            seen += ids(page)
            if page["next_cursor"] is None:
                break
            params["cursor"] = page["next_cursor"]
        newest = await get(api, "runs", limit="1")
        older = await get(api, "runs", limit="1", cursor=newest["next_cursor"])

    assert (ids(of_item), sorted(ids(of_run)), sorted(ids(of_session))) == ([2], [1, 2, 3], [4, 5])
    assert sorted(seen) == [1, 2, 3, 4, 5]
    assert len(seen) == 5
    assert [one["run_id"] for one in newest["runs"]] == [second["id"]]
    assert ([one["run_id"] for one in older["runs"]], older["next_cursor"]) == ([first["id"]], None)


@pytest.mark.parametrize("path", ["runs/nothing/items", "history?run=nothing"])
async def test_what_an_unknown_run_did_is_not_told_as_nothing(tmp_path: Path, path: str) -> None:
    async with running_api(tmp_path, pruning=RULES) as api:
        await said(api.state.database, 3)
        await post(api, "apply")
        missing = await api.client.get(f"/v1/pruning/{path}")

    assert missing.status_code == 404
    assert missing.json()["detail"] == "there is no run 'nothing'"


@pytest.mark.parametrize(
    ("path", "body", "said_of_it"),
    [
        pytest.param("plan", {"force": 1}, "force: is 1, accepted is true or false", id="flag"),
        pytest.param("plan", {"forced": True}, "did you mean force?", id="unknown"),
        pytest.param("plan?limit=1001", {}, "a whole number from 0 to 1000", id="limit"),
        pytest.param("plan?items=1", {}, "no such query parameter", id="query"),
        pytest.param("apply", {"plan": {}}, "plan: is an object", id="whole-plan"),
        pytest.param(
            "apply", {"plan": "p", "force": True}, "force: is true, accepted is nothing", id="both"
        ),
        pytest.param("plan", {"session": ""}, "session: is empty, accepted is", id="blank-session"),
        pytest.param("apply", {"session": " "}, "a string that is not blank", id="blank"),
        pytest.param("apply", {"plan": ""}, "plan: is empty, accepted is", id="blank-plan"),
        pytest.param("restore", {}, "one of items, run and session", id="nothing"),
        pytest.param(
            "restore", {"run": "a", "items": ["1"]}, "one of items, run and session", id="two"
        ),
        pytest.param("restore", {"items": []}, "a list of 1 to 1000 ids", id="no-items"),
        pytest.param("restore", {"items": ["1"] * 1001}, "a list of 1 to 1000 ids", id="many"),
        pytest.param("restore", {"items": [1]}, "items: 1: is no id", id="number"),
        pytest.param("restore", {"items": "1"}, "a list of 1 to 1000 ids", id="text"),
    ],
)
async def test_a_wrong_body_is_told_and_does_nothing(
    tmp_path: Path, path: str, body: dict[str, object], said_of_it: str
) -> None:
    async with running_api(tmp_path, pruning=RULES) as api:
        await said(api.state.database, 3)
        response = await api.post(f"/v1/pruning/{path}", body)
        left = await positions(api.state.database)

    assert (response.status_code, left) == (400, [1, 2, 3])
    assert said_of_it in response.json()["detail"]


class BrokenSummarizer:
    """Writes nothing, and counts how often it is asked."""

    asked = 0

    async def summarize(
        self,
        item: PrunableItem,
        *,
        target_tokens: int | None,
        reason: str,
    ) -> ItemSummary:
        self.asked += 1
        raise RuntimeError("no words")


async def test_an_item_that_failed_three_times_is_tried_again_on_request(tmp_path: Path) -> None:
    summarizer = BrokenSummarizer()
    async with running_api(tmp_path, pruning=SUMMARIES, summarizer=summarizer) as api:
        await said(api.state.database, 2)
        for _ in range(5):
            await post(api, "apply")
        left_alone = summarizer.asked
        nobody = await post(api, "retry", {"items": ["77"]})
        again = await post(api, "retry", {"items": ["1"]})
        for _ in range(5):
            await post(api, "apply")
        by_name = summarizer.asked
        everybody = await post(api, "retry")
        refused = await api.post("/v1/pruning/retry", {"items": ["first"]})

    assert (left_alone, by_name) == (6, 9), "only the one that was named is tried again"
    assert (nobody["retried_count"], again["retried_count"]) == (0, 1)
    assert everybody["retried_count"] == 2
    assert refused.status_code == 400


async def test_only_the_last_plans_are_kept(tmp_path: Path) -> None:
    async with running_api(tmp_path, pruning=RULES) as api:
        await said(api.state.database, 3)
        first = await post(api, "plan")
        for _ in range(7):
            await api.clock.advance(1)
            await post(api, "plan")
        await api.clock.advance(1)
        last = await post(api, "plan")
        forgotten = await api.client.get(f"/v1/pruning/plans/{first['id']}/items")
        done = await post(api, "apply", {"plan": last["id"]})

    assert forgotten.status_code == 404
    assert ids(done, "pruned_items") == [1, 2, 3]


def test_large_plans_are_few_and_the_last_is_kept_whatever_its_size() -> None:
    nothing = Totals(0, 0, 0)
    cause = Cause("r", "R", DeleteAction(), ())
    one = PlannedAction("1", "s", ItemType.MESSAGE, 1, 1, 1, nothing, (), cause)

    def plan(name: str, actions: int) -> Plan:
        return Plan(name, START, "v", False, None, nothing, ((one,),) * actions)  # noqa: FBT003 - a field

    shelf = PlanShelf()
    for name, actions in (("a", 150_000), ("b", 150_000), ("c", 10)):
        shelf.put(plan(name, actions))
    assert [shelf.get(name).id for name in ("b", "c")] == ["b", "c"]
    with pytest.raises(NotFoundError):
        shelf.get("a")

    shelf.put(plan("d", 300_000))
    assert shelf.get("d").id == "d"
    with pytest.raises(NotFoundError):
        shelf.get("c")


async def test_status_and_metrics_tell_of_it(tmp_path: Path) -> None:
    async with running_api(tmp_path, pruning=RULES) as api:
        await said(api.state.database, 4)
        await said(api.state.database, 1, BOB, at=api.clock.now())
        await post(api, "apply")
        told = (await api.client.get("/v1/status")).json()["pruning"]
        metrics = (await api.client.get("/metrics")).text

    assert (told["items"], told["size_bytes"], told["held"], told["rules"]) == (1, 100, 4, 1)
    assert (told["pruned_items"], told["pruned_by_action"]) == (4, {"delete": 4})
    assert (told["runs"], told["last_run"]["status"]) == ({"ok": 1}, "ok")
    assert (told["unreadable"], told["quarantined"], told["archived"]) == (0, 0, 0)
    assert told["archive"] == {"files": 0, "file_bytes": 0}
    for line in (
        "gateway_items 1.0",
        "gateway_items_size_bytes 100.0",
        'gateway_items_pruned_total{action="delete"} 4.0',
        "gateway_items_freed_bytes_total 400.0",
        'gateway_pruning_runs_total{status="ok"} 1.0',
        'gateway_pruning_runs_total{status="refused"} 0.0',
        "gateway_archive_files 0.0",
        "gateway_archive_size_bytes 0.0",
        "gateway_items_unreadable 0.0",
        "gateway_items_quarantined 0.0",
    ):
        assert f"\n{line}\n" in metrics
    assert orjson.dumps(told)
