"""Webhooks of a real daemon that is killed: what was accepted comes, what was told comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import orjson
import pytest

from gateway.clock import SystemClock
from tests.support.daemon import run_to_end, running_daemon
from tests.support.webhooks import OTHER_SECRET, SECRET, THIRD_SECRET, Reaction, Receiver, signed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import Daemon


def config_of(tmp_path: Path, told: Receiver, answered: Receiver, more: str = "") -> str:
    for name, secret in (("told", SECRET), ("in", THIRD_SECRET), ("out", OTHER_SECRET)):
        path = tmp_path / name
        path.write_text(secret)
        path.chmod(0o600)
    return (
        f'[[webhooks]]\nname = "ops"\nurl = "{told.url}"\nsecret = {{ file = "{tmp_path}/told" }}\n'
        f'{more}[channels.crm]\nkind = "webhook"\nsecrets = [{{ file = "{tmp_path}/in" }}]\n'
        f'reply_url = "{answered.url}"\nreply_secret = {{ file = "{tmp_path}/out" }}\n'
    )


def of_type(receiver: Receiver, kind: str) -> list[dict[str, Any]]:
    return [post.body["data"] for post in receiver.posts if post.body["type"] == kind]


async def post(daemon: Daemon, text: str, message_id: str) -> int:
    body = orjson.dumps({"chat_id": "ann", "user_id": "ann", "text": text})
    headers = signed(THIRD_SECRET, message_id, SystemClock().now(), body)
    response = await daemon.client.post("/hooks/crm", content=body, headers=headers)
    return response.status_code


async def test_events_of_turns_and_resets_are_told_without_what_was_said(tmp_path: Path) -> None:
    told, answered = Receiver(SECRET), Receiver(OTHER_SECRET)
    config = config_of(tmp_path, told, answered)
    async with (
        told.serving(),
        answered.serving(),
        running_daemon(tmp_path / "state", config) as daemon,
    ):
        said = await daemon.say("a canary", chat="alice")
        key = said["session_key"]
        reset = await daemon.post(f"/v1/sessions/{key}/reset")
        assert reset.status_code == 200
        assert await post(daemon, "another canary", "msg_1") == 200
        await answered.until(lambda: answered.posts)
        await told.until(lambda: len(told.posts) == 3)
        status = await daemon.get("/v1/status")
        metrics = (await daemon.client.get("/metrics")).text

    (ended,) = of_type(told, "session.reset")
    assert ended == {
        "session_key": key,
        "session_id": reset.json()["session_id"],
        "previous_session_id": said["session_id"],
        "reason": "manual",
        "turns": 1,
    }
    turns = {one["session_key"]: one for one in of_type(told, "turn.completed")}
    assert turns[key]["turn_id"] == said["turn_id"]
    assert turns[key]["status"] == "ok"
    assert turns["agent:main:webhook:crm:dm:ann::"]["account"] == "crm"
    assert not any(b"canary" in one.raw for one in told.posts)
    assert answered.posts[0].body["data"]["text"] == "another canary"
    (shown,) = status["webhooks"]
    assert (shown["webhook"], shown["state"]) == ("ops", "running")
    assert 'gateway_webhook_posts_total{result="delivered",webhook="ops"}' in metrics


async def test_an_event_that_was_committed_comes_after_a_kill_with_the_same_id(
    tmp_path: Path,
) -> None:
    told, answered = Receiver(SECRET), Receiver(OTHER_SECRET)
    config = config_of(tmp_path, told, answered)
    told.always = Reaction(wait=anyio.Event())
    async with told.serving(), answered.serving():
        async with running_daemon(tmp_path / "state", config) as daemon:
            said = await daemon.say("hello")
            await told.until(lambda: told.posts)
            await daemon.kill()
        told.always = Reaction()
        async with running_daemon(tmp_path / "state", config) as daemon:
            await told.until(lambda: len(told.posts) == 2)
            await daemon.until(lambda status: not status["webhooks"][0]["queued"])
            assert await daemon.terminate() == 0

    assert len(set(told.ids)) == 1
    assert [one["turn_id"] for one in of_type(told, "turn.completed")] == [said["turn_id"]] * 2


async def test_an_event_that_was_never_posted_comes_after_a_kill(tmp_path: Path) -> None:
    told, answered = Receiver(SECRET), Receiver(OTHER_SECRET)
    config = config_of(tmp_path, told, answered)
    async with answered.serving():
        async with running_daemon(tmp_path / "state", config) as daemon:
            turns = [(await daemon.say(f"{number}"))["turn_id"] for number in range(3)]
            await daemon.until(lambda status: status["webhooks"][0]["failed"] >= 3)
            await daemon.kill()
        async with told.serving(), running_daemon(tmp_path / "state", config) as daemon:
            waiting = (await daemon.get("/v1/webhooks?state=queued"))["events"]
            ids = [one["id"] for one in waiting]
            if ids:
                # The next try is due in seconds, which nobody waits for here.
                await daemon.post("/v1/webhooks/retry", {"ids": ids})
            await told.until(lambda: len(set(told.ids)) == 3)

    assert sorted(one["turn_id"] for one in of_type(told, "turn.completed")) == sorted(turns)


async def test_a_message_that_was_taken_before_a_kill_is_answered_once_after_it(
    tmp_path: Path,
) -> None:
    told, answered = Receiver(SECRET), Receiver(OTHER_SECRET)
    config = config_of(tmp_path, told, answered)
    async with told.serving():
        async with running_daemon(tmp_path / "state", config) as daemon:
            statuses = [await post(daemon, "hello", "msg_1")]
            await daemon.kill()
        async with answered.serving(), running_daemon(tmp_path / "state", config) as daemon:
            statuses.append(await post(daemon, "hello", "msg_1"))
            statuses.append(await post(daemon, "again", "msg_2"))
            await answered.until(lambda: len(answered.posts) == 2)
            said = await daemon.said("agent:main:webhook:crm:dm:ann::")

    assert statuses == [200, 200, 200]
    assert [text for role, text in said if role == "user"] == ["hello", "again"]
    assert [one.body["data"]["reply_to"] for one in answered.posts] == ["msg_1", "msg_2"]


async def test_a_pruned_session_is_told_in_the_same_commit(tmp_path: Path) -> None:
    told, answered = Receiver(SECRET), Receiver(OTHER_SECRET)
    config = config_of(tmp_path, told, answered, 'events = ["session.pruned"]\n')
    async with told.serving(), running_daemon(tmp_path / "state", config) as daemon:
        said = await daemon.say("hello")
        pruned = await daemon.post("/v1/prune", {"max_age_days": 1e-9})
        await told.until(lambda: told.posts)

    assert pruned.json()["pruned"] == 1
    key, session_id = said["session_key"], said["session_id"]
    assert [(one.body["type"], one.body["data"]) for one in told.posts] == [
        ("session.pruned", {"session_key": key, "session_id": session_id, "reason": "age"})
    ]


@pytest.mark.parametrize("secret", ["", "undefined", "whsec_changeme", SECRET])
async def test_a_secret_that_is_none_or_opens_two_doors_refuses_to_start(
    tmp_path: Path, secret: str
) -> None:
    config = config_of(tmp_path, Receiver(), Receiver())
    (tmp_path / "in").write_text(secret)

    ended = await run_to_end(tmp_path / "state", config)

    assert ended.code == 78
    assert b"channels.crm.secrets[0]" in ended.output or b"webhooks[0].secret" in ended.output
    assert not secret.strip() or secret.encode() not in ended.output
