"""Events for webhooks over HTTP: listed in pages, and posted again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.model import SessionKey
from gateway.webhooks.settings import EventKind
from tests.api.running import KEY, running_api
from tests.webhooks.running import settings_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.api.running import RunningApi

PATH = "/v1/webhooks"
KILL = "UPDATE webhook_events SET dead_at = due_at, attempts = 10, error = 'answered 500'"


async def tell(api: RunningApi, number: int, *, dead: bool = False) -> None:
    key = SessionKey(KEY)
    for _ in range(number):
        await api.state.database.write(
            lambda tx: api.webhooks.stage(tx, EventKind.TURN_COMPLETED, key, {"session_key": key})
        )
    if dead:
        await api.state.database.write(lambda tx: tx.execute(KILL))


async def test_webhooks_and_their_dead_letters_are_listed_in_pages(tmp_path: Path) -> None:
    table = settings_of(tmp_path, "http://127.0.0.1:1/in")
    async with running_api(tmp_path, webhooks=[table]) as api:
        await tell(api, 3, dead=True)
        await tell(api, 1)
        first = (await api.client.get(PATH, params={"limit": "2"})).json()
        second = (await api.client.get(PATH, params={"cursor": first["next_cursor"]})).json()
        queued = (await api.client.get(PATH, params={"state": "queued"})).json()
        none = (await api.client.get(PATH, params={"webhook": "other"})).json()
        metrics = (await api.client.get("/metrics")).text

    (shown,) = first["webhooks"]
    assert (shown["webhook"], shown["state"], shown["queued"], shown["dead"]) == (
        *("ops", "stopped"),
        *(1, 3),
    )
    assert (len(first["events"]), len(second["events"]), second["next_cursor"]) == (2, 1, None)
    dead = first["events"][0]
    assert dead.pop("id").startswith("msg_")
    assert dead == {
        "webhook": "ops",
        "type": "turn.completed",
        "state": "dead",
        "session_key": KEY,
        "created_at": "2026-01-01T00:00:00.000000Z",
        "due_at": None,
        "attempts": 10,
        "error": "answered 500",
        "dead_at": "2026-01-01T00:00:00.000000Z",
    }
    assert [one["state"] for one in queued["events"]] == ["queued"]
    assert none["events"] == []
    assert 'gateway_webhook_dead{webhook="ops"} 3.0' in metrics
    assert 'gateway_webhook_queued{webhook="ops"} 1.0' in metrics


async def test_dead_letters_are_posted_again_by_their_ids_or_all_of_a_webhook(
    tmp_path: Path,
) -> None:
    table = settings_of(tmp_path, "http://127.0.0.1:1/in")
    async with running_api(tmp_path, webhooks=[table]) as api:
        await tell(api, 3, dead=True)
        ids = [one["id"] for one in (await api.client.get(PATH)).json()["events"]]
        some = await api.post(f"{PATH}/retry", {"ids": ids[:1]})
        rest = await api.post(f"{PATH}/retry", {"webhook": "ops"})
        dead = (await api.client.get(PATH)).json()["events"]
        queued = (await api.client.get(PATH, params={"state": "queued"})).json()["events"]

    assert (some.json(), rest.json()) == ({"retried": 1}, {"retried": 3})
    assert dead == []
    assert [(one["id"], one["attempts"], one["error"]) for one in queued] == [
        (one, 0, None) for one in ids
    ]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"ids": [], "webhook": "ops"}, 400),
        ({"ids": ["msg_1"], "webhook": "ops"}, 400),
        ({"ids": ["msg_1"]}, 404),
        ({"webhook": "none"}, 404),
        ({"webhook": "ops", "more": 1}, 400),
    ],
)
async def test_what_cannot_be_posted_again_is_told(
    tmp_path: Path, body: dict[str, object], status: int
) -> None:
    table = settings_of(tmp_path, "http://127.0.0.1:1/in")
    async with running_api(tmp_path, webhooks=[table]) as api:
        assert (await api.post(f"{PATH}/retry", body)).status_code == status


async def test_only_the_gateways_own_token_sees_events(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        api.client.headers.pop("Authorization")
        statuses = [
            (await api.client.get(PATH)).status_code,
            (await api.post(f"{PATH}/retry", {"webhook": "ops"})).status_code,
        ]

    assert statuses == [401, 401]
