"""Replies to channels over HTTP: what is listed, sent again, given up, and told of channels."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from gateway.channels.running import ChannelState, ChannelStatistics
from gateway.transcripts import outbox_changes, outbox_rows
from tests.api.running import RunningApi, running_api
from tests.support.channels import asked_in, owe, place
from tests.support.state import START

if TYPE_CHECKING:
    from pathlib import Path

PATH = "/v1/outbox"


async def page(api: RunningApi, **params: str) -> Any:  # noqa: ANN401 - JSON
    response = await api.client.get(PATH, params=params)
    assert response.status_code == 200, response.text
    return response.json()


async def end(api: RunningApi, delivery_id: str, *, sent: bool) -> None:
    """Note a reply as sent, or as dead."""

    def work(transaction: Any) -> None:  # noqa: ANN401 - a transaction
        row = outbox_rows.find(transaction, delivery_id)
        assert row is not None
        if sent:
            outbox_changes.note_sent(transaction, row, chars=99, platform_id="p1", at=START)
        else:
            outbox_changes.bury(transaction, row, error="refused: no", at=START)

    await api.state.database.write(work)


async def three(api: RunningApi) -> None:
    """Owe three replies; the second is dead, the third sent."""
    for number in (1, 2, 3):
        await owe(api.state.database, number)
    await end(api, "ann-t2", sent=False)
    await end(api, "ann-t3", sent=True)


async def test_replies_are_listed_by_what_they_are(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await three(api)
        listed = {state: await page(api, state=state) for state in ("owed", "dead", "sent")}
        default = await page(api)

    assert default == listed["owed"]
    ids = {state: [one["id"] for one in found["replies"]] for state, found in listed.items()}
    assert ids == {"owed": ["ann-t1"], "dead": ["ann-t2"], "sent": ["ann-t3"]}
    assert listed["dead"]["replies"] == [
        {
            "id": "ann-t2",
            "state": "dead",
            "status": None,
            "session_key": asked_in(place(), 2).session_key,
            "platform": "played",
            "account": "one",
            "chat_id": "ann",
            "thread_id": "",
            "user_id": "",
            "message_id": "m2",
            "text_chars": 5,
            "sent_chars": 0,
            "created_at": "2026-01-01T00:00:00Z",
            "owed_since": "2026-01-01T00:00:00Z",
            "attempts": 0,
            "may_have_been_sent": False,
            "sent_at": None,
            "dead_at": "2026-01-01T00:00:00Z",
            "error": "refused: no",
            "platform_id": None,
        }
    ]


async def test_a_list_comes_in_pages_and_of_one_session(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        for number in range(5):
            await owe(api.state.database, number, chat="ann" if number % 2 else "bob")
        seen: list[str] = []
        cursor: str | None = "0"
        while cursor is not None:
            found = await page(api, limit="2", cursor=cursor)
            seen += [one["id"] for one in found["replies"]]
            cursor = found["next_cursor"]
        of_bob = await page(api, session_key=asked_in(place("bob"), 0).session_key)
        for number in range(5):
            await end(api, f"{'ann' if number % 2 else 'bob'}-t{number}", sent=True)
        newest = await page(api, state="sent", limit="2")
        older = await page(api, state="sent", limit="2", cursor=newest["next_cursor"])

    assert seen == ["bob-t0", "ann-t1", "bob-t2", "ann-t3", "bob-t4"]
    assert [one["id"] for one in of_bob["replies"]] == ["bob-t0", "bob-t2", "bob-t4"]
    assert [one["id"] for one in newest["replies"]] == ["bob-t4", "ann-t3"]
    assert [one["id"] for one in older["replies"]] == ["bob-t2", "ann-t1"]


async def test_one_reply_is_shown_with_its_text(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await owe(api.state.database, 1, text="the answer")
        shown = (await api.client.get(f"{PATH}/ann-t1")).json()

    assert (shown["id"], shown["text"]) == ("ann-t1", "the answer")


async def test_a_dead_reply_is_owed_again_when_asked_for(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await three(api)
        api.clock.step_wall(timedelta(hours=3))
        answer = await api.post(f"{PATH}/ann-t2/retry")

    assert answer.status_code == 200
    told = answer.json()
    assert (told["state"], told["error"], told["owed_since"], told["created_at"]) == (
        *("owed", None),
        *("2026-01-01T03:00:00Z", "2026-01-01T00:00:00Z"),
    )


async def test_a_reply_is_given_up_and_then_deleted(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await three(api)
        answers = [(await api.client.delete(f"{PATH}/ann-t1")).json() for _ in range(2)]
        gone = await api.client.delete(f"{PATH}/ann-t1")

    assert answers == [
        {"id": "ann-t1", "state": "dead", "deleted": False},
        {"id": "ann-t1", "state": None, "deleted": True},
    ]
    assert gone.status_code == 404


async def test_what_was_sent_or_was_fetched_cannot_be_changed(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await three(api)
        said = await api.post("/v1/messages", {"chat_id": "ann", "text": "hello"})
        fetched = said.json()["turn_id"]
        statuses = [
            (await api.client.delete(f"{PATH}/ann-t3")).status_code,
            (await api.post(f"{PATH}/ann-t3/retry")).status_code,
            (await api.client.get(f"{PATH}/{fetched}")).status_code,
            (await api.post(f"{PATH}/{fetched}/retry")).status_code,
        ]

    assert statuses == [409, 409, 404, 404]


@pytest.mark.parametrize(
    ("params", "told"),
    [
        pytest.param({"state": "lost"}, "one of owed, dead, sent", id="state"),
        pytest.param({"session_key": "ann"}, "not a session key", id="session-key"),
        pytest.param({"cursor": "x"}, "cursor: is 'x'", id="cursor"),
        pytest.param({"limit": "0"}, "a whole number from 1 to 1000", id="limit"),
        pytest.param({"chat": "ann"}, "no such query parameter", id="unknown"),
    ],
)
async def test_wrong_questions_are_refused(
    tmp_path: Path, params: dict[str, str], told: str
) -> None:
    async with running_api(tmp_path) as api:
        response = await api.client.get(PATH, params=params)

    assert response.status_code == 400
    assert told in response.json()["detail"]


async def test_status_metrics_and_readiness_tell_of_channels_and_what_is_owed(
    tmp_path: Path,
) -> None:
    lost = ChannelStatistics("played", "one", ChannelState.BACKING_OFF, START, 3, "reset")
    async with running_api(tmp_path, channels=[lost]) as api:
        await three(api)
        api.clock.step_wall(timedelta(seconds=90))
        status = (await api.client.get("/v1/status")).json()
        metrics = (await api.client.get("/metrics")).text.splitlines()
        ready = await api.client.get("/readyz", headers={"Authorization": ""})

    assert status["channels"] == [
        {
            "platform": "played",
            "account": "one",
            "state": "backing_off",
            "since": "2026-01-01T00:00:00Z",
            "restarts": 3,
            "last_error": "reset",
        }
    ]
    assert status["delivery"] == {
        "owed": 1,
        "dead": 1,
        "oldest_owed_s": 90.0,
        "sent": 0,
        "retried": 0,
        "given_up": 0,
    }
    assert {
        "gateway_outbox_owed 1.0",
        "gateway_outbox_dead 1.0",
        "gateway_outbox_oldest_owed_seconds 90.0",
        "gateway_outbox_sent_total 0.0",
        "gateway_outbox_retried_total 0.0",
        'gateway_channel_running{account="one",platform="played"} 0.0',
        'gateway_channel_restarts_total{account="one",platform="played"} 3.0',
        'gateway_channel_state{account="one",platform="played",state="backing_off"} 1.0',
        'gateway_channel_state{account="one",platform="played",state="running"} 0.0',
    } <= set(metrics)
    assert (ready.status_code, ready.json()) == (
        200,
        {
            "ready": True,
            "channels": [{"platform": "played", "account": "one", "state": "backing_off"}],
        },
    )
