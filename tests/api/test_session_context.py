"""What is sent of a session, over HTTP: as it stands, after a round, and what that saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.context.settings import ContextSettings
from gateway.model import Message, Role, ToolCall, TurnId
from gateway.sessions.history import stamp
from gateway.transcripts import accounts
from gateway.transcripts.accounts import ContextAccount
from gateway.transcripts.writing import append_messages
from tests.api.running import KEY, RunningApi, message, running_api
from tests.support.state import START, entry

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.durable.batch import Transaction

CONTEXT = f"/v1/sessions/{KEY}/context"
RESULTS = 10
CHARS = 20_000
ID_CHARS = len("c0")


async def talked(
    api: RunningApi,
    fields: dict[str, Any] | None = None,
    *,
    agent: str = "main",
    account: ContextAccount | None = None,
) -> None:
    """Make a session whose first turns each have one long tool result."""
    used = {"cache_touched_at": START, "model": "gated", **(fields or {})}
    one = entry("alice", agent=agent, **used)
    await api.state.store.create(one)
    said: list[Message] = []
    for number in range(RESULTS):
        turn_id, call = TurnId(f"t{number}"), ToolCall(f"c{number}", "look", "{}")
        said += [
            Message(Role.USER, "look \x1b[2J", turn_id=turn_id),
            Message(Role.ASSISTANT, "", (call,), turn_id=turn_id),
            Message(
                Role.TOOL,
                "x" * CHARS,
                tool_call_id=call.call_id,
                tool_name=call.name,
                turn_id=turn_id,
            ),
            Message(Role.ASSISTANT, "seen", turn_id=turn_id),
        ]

    def work(transaction: Transaction) -> None:
        append_messages(transaction, one.session_id, said, at=stamp(START))
        if account is not None:
            accounts.keep(transaction, one.session_id, account)

    await api.state.database.write(work)


async def shown(api: RunningApi, query: str = "", path: str = CONTEXT) -> Any:  # noqa: ANN401 - JSON
    response = await api.client.get(f"{path}?{query}")
    assert response.status_code == 200, response.text
    return response.json()


def results(context: dict[str, Any]) -> list[dict[str, Any]]:
    return [line for line in context["messages"] if line["role"] == "tool"]


async def test_a_context_is_shown_message_by_message_with_its_sums(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await talked(api)
        await api.clock.advance(10)

        context = await shown(api)

    assert context["session_key"] == KEY
    assert context["session_id"] == "main-alice"
    assert context["busy"] is False
    assert context["agent"] == {
        "id": "main",
        "configured": True,
        "model": "gated",
        "window_tokens": 100_000,
        "reserve_tokens": 1_000,
        "overhead_chars": 0,
        "completes": True,
        "cache_ttl_s": None,
    }
    assert [line["number"] for line in context["messages"]] == list(range(1, 4 * RESULTS + 1))
    assert context["messages"][2] == {
        "number": 3,
        "role": "tool",
        "tool_name": "look",
        "said_chars": CHARS + ID_CHARS,
        "sent_chars": CHARS + ID_CHARS,
        "state": "kept",
        "protected": False,
        "why": "",
        "next_state": None,
        "next_chars": None,
        "text": None,
    }
    chars = sum(line["said_chars"] for line in context["messages"])
    assert context["size"] == {
        "sent_messages": 4 * RESULTS,
        "sent_chars": chars,
        "said_messages": 4 * RESULTS,
        "said_chars": chars,
        "pruned_messages": 0,
        "summarised_turns": 0,
        "left_out_turns": 0,
        "agent_chars": 0,
        "overhead_tokens": 0,
        "estimated_tokens": -(-chars // 4),
        "window_tokens": 100_000,
        "window_share": round(-(-chars // 4) / 100_000, 4),
    }
    assert context["cache"] == {
        "state": "warm",
        "why": "the last request is younger than it lives",
        "last_request_at": "2026-01-01T00:00:00Z",
        "last_model": "gated",
        "age_s": 10.0,
        "ttl_s": 300.0,
        "expires_at": "2026-01-01T00:05:00Z",
        "last_verdict": "",
    }
    assert context["next_round"] is None


async def test_a_round_is_planned_and_then_done_as_planned(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await talked(api)
        await api.clock.advance(300)
        planned = await shown(api, "dry_run=true")
        as_it_stands = await shown(api)

        await api.post("/v1/messages", message())

        done = await shown(api)
        detail = (await api.client.get(f"/v1/sessions/{KEY}")).json()
        status = (await api.client.get("/v1/status")).json()
        metrics = (await api.client.get("/metrics")).text

    # The last three assistant messages are the last answer and the last turn but one's two.
    old = RESULTS - 1
    plan = planned["next_round"]
    assert (plan["decision"], plan["trimmed"], plan["cleared"]) == ("prune", old, 0)
    assert plan["why"] == "the prompt cache is cold: its time to live has passed"
    assert plan["tool_names"] == ["look"]
    assert plan["saved_usd"] is None
    assert {line["state"] for line in results(planned)} == {"kept"}
    assert [line["next_state"] for line in results(planned)] == ["trimmed"] * old + [None]
    assert {line["next_state"] for line in as_it_stands["messages"]} == {None}

    assert [line["state"] for line in results(done)] == ["trimmed"] * old + ["kept"]
    sent = [line["sent_chars"] for line in results(done)][:old]
    assert sent == [line["next_chars"] for line in results(planned)][:old]
    assert done["account"] == {
        "model": "gated",
        "request_tokens": 7,
        # The agent counts far less than is estimated: all of that is rate.
        "overhead_tokens": done["account"]["overhead_tokens"],
        "tokens_per_estimate": 0.25,
        "weighed_tokens": done["account"]["weighed_tokens"],
        "cache_verdict": "below_minimum",
        "rounds": 1,
        "trimmed": old,
        "cleared": 0,
        "saved_tokens": plan["saved_tokens"],
        "saved_usd": None,
        "last_round_at": "2026-01-01T00:05:00Z",
        "price_configured": False,
    }
    assert detail["context_account"] | {"price_configured": False} == done["account"]
    assert status["contexts"] == {
        "rounds": 1,
        "trimmed": old,
        "cleared": 0,
        "saved_tokens": plan["saved_tokens"],
        "saved_usd": 0.0,
        "compactions": 0,
        "compactions_failed": 0,
        "model_calls": {
            "hit": 0,
            "ttl_expiry": 0,
            "prefix_change": 0,
            "cold_start": 0,
            "below_minimum": 1,
            "unknown": 0,
        },
    }
    samples = {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
    }
    assert samples["gateway_context_rounds_total", ()] == 1
    assert samples["gateway_context_results_total", ("trim",)] == old
    assert samples["gateway_context_results_total", ("clear",)] == 0
    assert samples["gateway_context_saved_tokens_total", ()] == plan["saved_tokens"]
    assert samples["gateway_context_saved_usd", ()] == 0
    assert samples["gateway_model_calls_total", ("below_minimum",)] == 1


async def test_money_is_told_where_a_price_is_configured(tmp_path: Path) -> None:
    priced = ContextSettings.model_validate(
        {"cache": [{"model": "gat*", "input_usd_per_mtok": 2.0, "write_multiplier": 1.5}]}
    )
    async with running_api(tmp_path) as api:
        api.turns.contexts.settings = priced
        await talked(api)
        await api.clock.advance(300)
        plan = (await shown(api, "dry_run=true"))["next_round"]

        await api.post("/v1/messages", message())

        account = (await shown(api))["account"]
        status = (await api.client.get("/v1/status")).json()

    assert plan["saved_usd"] == pytest.approx(plan["saved_tokens"] * 1.5 * 2 / 1_000_000)
    assert account["saved_usd"] == pytest.approx(plan["saved_usd"])
    assert plan["saved_usd"] == round(plan["saved_usd"], 6)
    assert account["price_configured"] is True
    assert status["contexts"]["saved_usd"] == pytest.approx(plan["saved_usd"])


@pytest.mark.parametrize(
    ("fields", "pruning", "state", "why", "decision", "because"),
    [
        pytest.param({}, {}, "warm", "younger", "warm", "warm until 2026-01-01T00:05:00Z", id="ok"),
        pytest.param(
            {"cache_touched_at": None},
            {},
            "cold",
            "no request has succeeded yet",
            "prune",
            "cold: no request",
            id="no-request",
        ),
        pytest.param(
            {"model": "other"}, {}, "cold", "answered last: other", "prune", "other", id="model"
        ),
        pytest.param(
            {"cache_touched_at": START.replace(year=2027)},
            {},
            "cold",
            "clock was set back",
            "prune",
            "clock",
            id="clock",
        ),
        pytest.param(
            {}, {"mode": "always"}, "warm", "", "prune", "context.pruning.mode is always", id="on"
        ),
        pytest.param({}, {"mode": "off"}, "warm", "", "off", "context.pruning.mode", id="off"),
        pytest.param(
            {},
            {"soft_trim_ratio": 0.6, "hard_clear_ratio": 0.7},
            "warm",
            "",
            "small",
            "soft_trim_ratio (0.6)",
            id="small",
        ),
        pytest.param(
            {}, {"force_ratio": 0.5}, "warm", "", "forced", "force_ratio (0.5)", id="forced"
        ),
        pytest.param(
            {"cache_touched_at": None},
            {"min_saving_tokens": 1_000_000},
            "cold",
            "",
            "little",
            "min_saving_tokens (1000000)",
            id="little",
        ),
        pytest.param(
            {"cache_touched_at": None},
            {"keep_last_assistants": 1_000},
            "cold",
            "",
            "nothing",
            "no tool result",
            id="nothing",
        ),
        pytest.param(
            {"cache_touched_at": START.replace(year=9999, month=12, day=31)},
            {"ttl_s": 86_400.0},
            "cold",
            "clock was set back",
            "prune",
            "clock",
            id="beyond-the-calendar",
        ),
    ],
)
async def test_why_a_round_would_be_done_or_not_is_said(
    tmp_path: Path,
    fields: dict[str, Any],
    pruning: dict[str, object],
    state: str,
    why: str,
    decision: str,
    because: str,
) -> None:
    async with running_api(tmp_path) as api:
        api.turns.contexts.settings = ContextSettings.model_validate({"pruning": pruning})
        await talked(api, fields)
        await api.clock.advance(1)

        context = await shown(api, "dry_run=true")

    assert context["cache"]["state"] == state
    assert why in context["cache"]["why"]
    assert context["next_round"]["decision"] == decision
    assert because in context["next_round"]["why"]


async def test_looking_writes_nothing_and_leaves_the_context_in_use_alone(tmp_path: Path) -> None:
    # The agent counts far fewer tokens than estimated.
    eager = ContextSettings.model_validate({"pruning": {"soft_trim_ratio": 0.0}})
    async with running_api(tmp_path) as api:
        await talked(api)
        await api.post("/v1/messages", message())
        api.turns.contexts.settings = eager
        await api.clock.advance(300)
        transactions = api.state.database.statistics().transactions

        first = await shown(api, "dry_run=true&text=true")
        second = await shown(api, "dry_run=true&text=true")

        assert first == second
        assert first["next_round"]["trimmed"] > 0
        assert api.state.database.statistics().transactions == transactions
        assert api.turns.contexts.telling.rounds == 0


async def test_what_was_said_is_shown_only_where_it_is_asked_for(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await talked(api)

        without = await api.client.get(f"{CONTEXT}?dry_run=true")
        context = await shown(api, "text=true")

    assert "seen" not in without.text
    assert "xxx" not in without.text
    assert [line["text"] for line in context["messages"][:4]] == [
        "look \x1b[2J",
        "calls look {}",
        "x" * 80 + "...",
        "seen",
    ]


async def test_a_session_without_a_turn_is_shown(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.state.store.create(entry("alice"))

        context = await shown(api, "dry_run=true")

    assert context["messages"] == []
    assert context["size"]["window_tokens"] == 100_000
    assert context["size"]["window_share"] == 0
    assert (context["cache"]["state"], context["cache"]["expires_at"]) == ("cold", None)
    assert context["measured"]["source"] == "unknown"
    assert context["next_round"]["decision"] == "small"


async def test_of_a_removed_agent_the_window_is_unknown(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await talked(api, agent="gone", account=ContextAccount(model="gated", overhead_tokens=5))
        path = "/v1/sessions/agent:gone:http::dm:alice::/context"

        context = await shown(api, "dry_run=true", path)

    assert context["agent"] == {"id": "gone", "configured": False}
    assert context["size"]["window_tokens"] is None
    assert context["size"]["window_share"] is None
    assert context["size"]["overhead_tokens"] == 5
    assert context["cache"]["state"] == "unknown"
    assert context["next_round"]["decision"] is None
    assert "no agent 'gone' is configured" in context["next_round"]["why"]
    assert len(context["messages"]) == 4 * RESULTS


async def test_wrong_requests_are_told(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await talked(api)
        for path, status, told in (
            ("/v1/sessions/agent:main:http::dm:nobody::/context", 404, "no session with this key"),
            ("/v1/sessions/alice/context", 400, "not a session key"),
            (f"{CONTEXT}?dry_run=yes", 400, "true or false"),
            (f"{CONTEXT}?text=1", 400, "true or false"),
            (f"{CONTEXT}?dryrun=true", 400, "did you mean dry_run?"),
        ):
            response = await api.client.get(path)
            assert (path, response.status_code) == (path, status)
            assert told in response.json()["detail"]
        assert (await api.post(CONTEXT)).status_code == 405


async def test_an_erasure_takes_what_contexts_hold_of_a_session_and_nothing_of_others(
    tmp_path: Path,
) -> None:
    async def counts(api: RunningApi) -> list[int]:
        found = []
        for table in ("projections", "context_accounts"):
            rows = await api.state.database.read(
                lambda conn, table=table: conn.execute(  # type: ignore[misc]
                    f"SELECT count(*) FROM {table}"  # noqa: S608 - a name of ours
                ).fetchall()
            )
            found.append(int(str(rows[0][0])))
        return found

    async with running_api(tmp_path) as api:
        await talked(api)
        await api.clock.advance(300)
        await api.post("/v1/messages", message())
        await api.post("/v1/messages", message(chat_id="bob"))
        before = await counts(api)

        await api.client.delete(f"/v1/sessions/{KEY}?erase=true")

        assert before == [RESULTS - 1, 2]
        assert await counts(api) == [0, 1]
