"""`POST /hooks/NAME`: what is checked before and after the channel, on a real socket."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import httpx2
import orjson
import pytest

from gateway.api.hooks import LOCKOUT_S, MAX_BODY_BYTES, MAX_FAILURES, WINDOW_S
from gateway.channels.base import Receipt
from gateway.channels.webhook.channel import WebhookChannel
from gateway.channels.webhook.settings import WebhookChannelSettings
from gateway.clock import FakeClock
from gateway.retention.discarding import DELIVERED_DAYS, discard_old
from gateway.sessions.history import stamp
from gateway.signing.signatures import TOLERANCE_S
from tests.api.running import read_answer, running_api
from tests.channels.test_webhook import secret_file
from tests.support.webhooks import OTHER_SECRET, SECRET, signed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from datetime import datetime
    from pathlib import Path

    from gateway.channels.hooks import HookAnswer, HookRequest
    from gateway.durable.batch import Transaction
    from gateway.model import Inbound
    from tests.api.running import RunningApi

BODY = orjson.dumps({"chat_id": "ann", "user_id": "ann", "text": "hello"})
KEY = "agent:main:webhook:{}:dm:ann::"


def channel_of(tmp_path: Path, account: str, secret: str) -> WebhookChannel:
    secrets = [secret_file(tmp_path / account, secret)]
    table = WebhookChannelSettings(kind="webhook", secrets=secrets, replies=False)
    return WebhookChannel(account, table, FakeClock())


class Deaf:
    """A channel whose configuration takes no calls."""

    account = "deaf"
    called = False

    async def call(self, request: HookRequest) -> HookAnswer:
        raise NotImplementedError


@asynccontextmanager
async def hooked(
    tmp_path: Path, turns: Mapping[str, object] | None = None
) -> AsyncGenerator[RunningApi]:
    """Run the API with the hooks `one` and `two`, whose messages go through the door."""
    channels = [channel_of(tmp_path, "one", SECRET), channel_of(tmp_path, "two", OTHER_SECRET)]
    async with (
        running_api(tmp_path, hooks=[*channels, Deaf()], turns=turns) as api,
        anyio.create_task_group() as tasks,
    ):
        api.client.headers.pop("Authorization")
        for channel in channels:
            ready = anyio.Event()

            async def run(channel: WebhookChannel = channel, ready: anyio.Event = ready) -> None:
                await channel.run(api.door.receive, ready=ready.set)

            tasks.start_soon(run)
            await ready.wait()
        yield api
        tasks.cancel_scope.cancel()


async def post(
    api: RunningApi,
    name: str = "one",
    *,
    body: bytes = BODY,
    secret: str = SECRET,
    message_id: str = "msg_1",
    off: timedelta | None = None,
    headers: Mapping[str, str] | None = None,
) -> httpx2.Response:
    at = api.clock.now() if off is None else api.clock.now() + off
    said = signed(secret, message_id, at, body) | dict(headers or {})
    return await api.client.post(f"/hooks/{name}", content=body, headers=said)


def send_all(transaction: Transaction, at: datetime) -> int:
    """Note that all there is to send was sent; return how much that is."""
    transaction.execute("UPDATE outbox SET sent_at = ?", (stamp(at),))
    return transaction.connection.changes()


async def texts(api: RunningApi, account: str = "one") -> list[str]:
    """Return what the users of a hook said, once each is answered."""
    await api.turns.drain()
    entry = api.state.store.get(KEY.format(account))  # type: ignore[arg-type]
    if entry is None:
        return []

    rows = await api.state.database.read(
        lambda conn: conn.execute(
            "SELECT text FROM messages WHERE session_id = ? AND role = 'user'", (entry.session_id,)
        ).fetchall()
    )
    return [str(text) for (text,) in rows]


async def test_a_signed_message_is_taken_without_a_bearer_token(tmp_path: Path) -> None:
    async with hooked(tmp_path) as api:
        taken = await post(api)
        said = await texts(api)

    assert (taken.status_code, taken.content) == (200, b"")
    assert said == ["hello"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/hooks/none", 404),
        ("/hooks/deaf", 404),
        ("/hooks/ONE", 404),
        ("/hooks/", 404),
        ("/hooks/one/two", 404),
        ("/hooks/../v1/messages", 404),
        ("/hooks/%2e%2e/v1/status", 404),
        ("/hooksone", 401),
        ("/hooks", 401),
        ("/v1/hooks/one", 401),
    ],
)
async def test_there_is_nothing_at_any_other_path(tmp_path: Path, path: str, status: int) -> None:
    async with hooked(tmp_path) as api, await api.connect() as stream:
        head = signed(SECRET, "m", api.clock.now(), BODY) | {"content-length": str(len(BODY))}
        lines = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{api.port}"]
        lines += [f"{name}: {value}" for name, value in head.items()]
        await stream.send("\r\n".join([*lines, "", ""]).encode() + BODY)
        answer, _, body = await read_answer(stream)

    assert answer == status
    assert orjson.loads(body)["status"] == status


async def test_other_methods_are_refused_and_hosts_and_pages_checked_as_everywhere(
    tmp_path: Path,
) -> None:
    async with hooked(tmp_path) as api:
        got = await api.client.get("/hooks/one")
        host = await post(api, headers={"Host": "evil.example"})
        page = await post(api, headers={"Origin": "https://evil.example"})

    assert [one.status_code for one in (got, host, page)] == [405, 421, 403]


async def test_the_secret_of_one_hook_does_not_open_another(tmp_path: Path) -> None:
    async with hooked(tmp_path) as api:
        wrong = await post(api, "two")
        right = await post(api, "two", secret=OTHER_SECRET)

    assert (wrong.status_code, right.status_code) == (401, 200)
    assert wrong.headers["content-type"] == "application/problem+json"
    assert wrong.json()["type"].endswith(":unproven")


async def test_a_body_over_the_bound_is_refused_before_it_is_proven(tmp_path: Path) -> None:
    large = orjson.dumps({"chat_id": "ann", "text": "x" * (MAX_BODY_BYTES - 30)})
    over = b" " * (MAX_BODY_BYTES + 1)

    async def chunks() -> AsyncGenerator[bytes]:
        for _ in range(5):
            yield b" " * 65_536

    async with hooked(tmp_path, turns={"max_text_chars": 300_000}) as api:
        fits = await post(api, body=large[:MAX_BODY_BYTES])
        declared = await post(api, body=over)
        head = signed(SECRET, "m", api.clock.now(), b"")
        trickled = await api.client.post("/hooks/one", content=chunks(), headers=head)

    assert len(large) <= MAX_BODY_BYTES
    assert [one.status_code for one in (fits, declared, trickled)] == [200, 413, 413]


async def test_a_head_that_nothing_can_prove_is_refused_before_the_body_came(
    tmp_path: Path,
) -> None:
    async with hooked(tmp_path) as api, await api.connect() as stream:
        lines = ["POST /hooks/one HTTP/1.1", f"Host: 127.0.0.1:{api.port}", "Content-Length: 999"]
        await stream.send("\r\n".join([*lines, "", ""]).encode())
        status, _, body = await read_answer(stream)

    assert status == 401
    assert orjson.loads(body)["detail"] == "The header webhook-id is missing."


async def test_a_body_that_does_not_come_ends_at_the_deadline(tmp_path: Path) -> None:
    async with hooked(tmp_path) as api, await api.connect() as stream:
        head = signed(SECRET, "m", api.clock.now(), BODY) | {"content-length": str(len(BODY))}
        lines = ["POST /hooks/one HTTP/1.1", f"Host: 127.0.0.1:{api.port}"]
        lines += [f"{name}: {value}" for name, value in head.items()]
        await stream.send("\r\n".join([*lines, "", ""]).encode() + BODY[:5])
        answers: list[int] = []

        async def read() -> None:
            answers.append((await read_answer(stream))[0])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            with anyio.fail_after(30):
                while not answers:
                    await api.clock.advance(15)
                    await anyio.wait_all_tasks_blocked()

    assert answers == [408]


async def test_too_many_failures_lock_a_hook_and_no_other(tmp_path: Path) -> None:
    async with hooked(tmp_path) as api:
        statuses = [(await post(api, secret=OTHER_SECRET)).status_code for _ in range(MAX_FAILURES)]
        locked = await post(api, secret=OTHER_SECRET)
        other = await post(api, "two", secret=SECRET)
        status = (await api.client.get("/livez")).status_code
        await api.clock.advance(LOCKOUT_S)
        again = await post(api, secret=OTHER_SECRET)

    assert statuses == [401] * MAX_FAILURES
    assert (locked.status_code, locked.headers["retry-after"]) == (429, "60")
    assert (other.status_code, status, again.status_code) == (401, 200, 401)


@pytest.mark.parametrize("address", ["127.0.0.1", "203.0.113.9"])
async def test_what_is_proven_comes_in_from_an_address_that_is_locked_out(
    tmp_path: Path, address: str
) -> None:
    """Behind a front a stranger has the address of the platform."""
    async with hooked(tmp_path) as api:
        transport = httpx2.ASGITransport(app=api.app, client=(address, 1))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:

            async def send(secret: str | None) -> int:
                headers = signed(secret, "msg_1", api.clock.now(), BODY) if secret else {}
                response = await client.post("/hooks/one", content=BODY, headers=headers)
                return response.status_code

            for number in range(MAX_FAILURES):
                assert await send(None if number % 2 else OTHER_SECRET) == 401
            statuses = [await send(secret) for secret in (None, SECRET, OTHER_SECRET, SECRET)]
        said = await texts(api)

    assert statuses == [429, 200, 429, 200]
    assert said == ["hello"]


async def test_failures_that_are_long_ago_do_not_count(tmp_path: Path) -> None:
    async with hooked(tmp_path) as api:
        for _ in range(2):
            for _ in range(MAX_FAILURES - 1):
                await post(api, secret=OTHER_SECRET)
            await api.clock.advance(WINDOW_S + 1)
        status = (await post(api, secret=OTHER_SECRET)).status_code

    assert status == 401


async def test_a_replay_is_answered_and_is_one_turn_also_after_a_restart(tmp_path: Path) -> None:
    async with hooked(tmp_path) as api:
        first = await post(api)
        again = await post(api)
        said = await texts(api)
    async with hooked(tmp_path) as api:
        later = await post(api)
        said_later = await texts(api)

    assert [one.status_code for one in (first, again, later)] == [200, 200, 200]
    assert said == said_later == ["hello"]


async def test_ids_are_known_for_days_though_timestamps_are_taken_for_minutes(
    tmp_path: Path,
) -> None:
    days = timedelta(days=DELIVERED_DAYS - 1)
    async with hooked(tmp_path) as api:
        await post(api)
        with anyio.fail_after(30):
            while not await api.state.database.write(lambda tx: send_all(tx, api.clock.now())):
                pass
        api.clock.step_wall(days)
        gone = await discard_old(api.state.database, api.clock, api.pairing)
        again = await post(api, off=-days)
        said = await texts(api)

    assert days.total_seconds() > 100 * TOLERANCE_S
    assert gone == 0
    assert again.status_code == 200
    assert said == ["hello"]


async def test_a_hook_that_breaks_is_one_answer_and_no_more(tmp_path: Path) -> None:
    class Broken:
        account = "broken"
        called = True

        async def call(self, request: HookRequest) -> HookAnswer:
            raise RuntimeError("a bug")

    async with running_api(tmp_path, hooks=[Broken()]) as api:
        broken = await api.client.post("/hooks/broken")
        fine = await api.client.get("/livez")

    assert (broken.status_code, fine.status_code) == (500, 200)


async def test_what_a_channel_refuses_is_a_problem_and_a_receipt_is_text(tmp_path: Path) -> None:
    channel = channel_of(tmp_path, "one", SECRET)
    receipts = [Receipt(accepted=False), Receipt(text="1 message is answered first.")]

    async def receive(_: Inbound) -> Receipt:
        return receipts.pop(0)

    async with running_api(tmp_path, hooks=[channel]) as api, anyio.create_task_group() as tasks:
        away = await post(api)
        ready = anyio.Event()

        async def run() -> None:
            await channel.run(receive, ready=ready.set)

        tasks.start_soon(run)
        await ready.wait()
        refused, told = await post(api), await post(api)
        tasks.cancel_scope.cancel()

    assert (away.status_code, away.headers["retry-after"]) == (503, "10")
    assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (422, "refused")
    assert (told.status_code, told.text) == (200, "1 message is answered first.")


async def test_a_rate_that_is_reached_says_when_to_come_again(tmp_path: Path) -> None:
    async with hooked(tmp_path, {"messages_per_minute": 1}) as api:
        first = await post(api)
        second = await post(api, message_id="msg_2")

    assert (first.status_code, second.status_code) == (200, 429)
    assert int(second.headers["retry-after"]) >= 1
    assert second.json()["type"].endswith(":busy")
