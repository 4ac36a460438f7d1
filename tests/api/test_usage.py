"""What was used over HTTP: sums as they were counted, and strict queries."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from gateway.model import ModelCall, SessionId, Usage
from gateway.transcripts import usage
from tests.api.running import RunningApi, message, running_api
from tests.support.state import START

if TYPE_CHECKING:
    from pathlib import Path

ANN, BOB = "http::user:ann", "http::user:bob"
PATH = "/v1/usage"


async def _use(api: RunningApi, user: str, *, day: int = 0, usd: float | None = None) -> None:
    """Count a call of 1,420 tokens."""
    call = ModelCall("m", START + timedelta(days=day), Usage(100, 20, 1_000, 300))
    await api.state.database.write(
        lambda tx: usage.count(tx, SessionId("s"), "main", user, [(call, usd)])
    )


async def _shown(api: RunningApi, query: str = "") -> Any:  # noqa: ANN401 - JSON
    response = await api.client.get(f"{PATH}{query}")
    assert response.status_code == 200, response.text
    return response.json()


def _names(shown: dict[str, Any]) -> list[tuple[str, int]]:
    return [(row["name"], row["calls"]) for row in shown["rows"]]


async def test_what_a_message_used_is_shown_in_its_users_name(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.post("/v1/messages", message(user_id="ann"))
        await api.post("/v1/messages", message(chat_id="bob"))

        by_user = await _shown(api, "?by=user")
        by_model = await _shown(api, "?by=model")

    assert sorted(_names(by_user)) == [("http::chat:bob", 1), (ANN, 1)]
    assert _names(by_model) == [("gated", 2)]
    assert by_user["total"]["unpriced_calls"] == 2
    assert by_user["total"] == by_model["total"]


async def test_dollars_are_told_to_a_millionth_and_without_noise(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        for usd in (0.1, 0.1, 0.1, 0.000_000_4):
            await _use(api, ANN, usd=usd)
        shown = await _shown(api)
        text = (await api.client.get(PATH)).text

    assert shown["rows"][0]["usd"] == shown["total"]["usd"] == 0.3
    assert text.count('"usd":0.3,') == 2


async def test_sums_are_told_field_by_field(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await _use(api, ANN, usd=0.5)
        await _use(api, ANN)

        shown = await _shown(api)

    sums = {
        "calls": 2,
        "input_tokens": 200,
        "output_tokens": 40,
        "cache_read_tokens": 2_000,
        "cache_write_tokens": 600,
        "total_tokens": 2_840,
        "usd": 0.5,
        "unpriced_calls": 1,
    }
    assert shown == {
        "by": "day",
        "since": None,
        "until": None,
        "rows": [{"name": "2026-01-01", **sums}],
        "total": sums,
        "more": False,
    }


@pytest.mark.parametrize(
    ("query", "names"),
    [
        pytest.param("", [("2026-01-03", 1), ("2026-01-02", 1), ("2026-01-01", 2)], id="days"),
        pytest.param("?by=user", [(ANN, 3), (BOB, 1)], id="users"),
        pytest.param("?by=agent", [("main", 4)], id="agents"),
        pytest.param("?since=2026-01-02", [("2026-01-03", 1), ("2026-01-02", 1)], id="since"),
        pytest.param("?until=2026-01-01&by=day", [("2026-01-01", 2)], id="until"),
        pytest.param(
            "?since=2026-01-02&until=2026-01-02&by=user", [(ANN, 1)], id="one-day-of-users"
        ),
        pytest.param("?since=2027-01-01", [], id="nothing"),
    ],
)
async def test_sums_are_of_the_days_that_are_asked_for(
    tmp_path: Path, query: str, names: list[tuple[str, int]]
) -> None:
    async with running_api(tmp_path) as api:
        for day in range(3):
            await _use(api, ANN, day=day)
        await _use(api, BOB)

        shown = await _shown(api, query)

    assert _names(shown) == names
    assert shown["total"]["calls"] == sum(calls for _, calls in names)


async def test_a_limit_leaves_rows_out_and_says_so_and_the_total_has_them(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        for day in range(3):
            await _use(api, ANN, day=day)

        two, three = await _shown(api, "?limit=2"), await _shown(api, "?limit=3")

    assert [name for name, _ in _names(two)] == ["2026-01-03", "2026-01-02"]
    assert (two["more"], three["more"]) == (True, False)
    assert two["total"] == three["total"]
    assert two["total"]["calls"] == 3


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        pytest.param("by=week", "by: is 'week', accepted is one of day, agent, model, user"),
        pytest.param("since=20260101", "since: is '20260101', accepted is a day as YYYY-MM-DD"),
        pytest.param("since=2026-02-30", "since: is '2026-02-30', accepted is a day as YYYY-MM-DD"),
        pytest.param("until=", "until: is empty, accepted is a day as YYYY-MM-DD"),
        pytest.param(
            "since=2026-01-02&until=2026-01-01",
            "until: is '2026-01-01', accepted is a day from since, 2026-01-02, on",
        ),
        pytest.param("limit=0", "limit: is '0', accepted is a whole number from 1 to 1000"),
        pytest.param("limit=1001", "limit: is '1001', accepted is a whole number from 1 to 1000"),
        pytest.param("until=2026-W01-1", "until: is '2026-W01-1', accepted is a day as YYYY-MM-DD"),
        pytest.param("untl=2026-01-01", "'untl': no such query parameter; did you mean until?"),
    ],
)
async def test_a_wrong_query_is_told_what_is_accepted(
    tmp_path: Path, query: str, problem: str
) -> None:
    async with running_api(tmp_path) as api:
        response = await api.client.get(f"{PATH}?{query}")

    assert response.status_code == 400
    assert response.json()["problems"] == [problem]


async def test_what_was_used_is_for_who_has_the_token_and_only_read(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        stranger = await api.client.get(PATH, headers={"Authorization": "Bearer wrong"})

        assert stranger.status_code == 401
        assert (await api.post(PATH)).status_code == 405
