"""Laws of Telegram's webhook: whose calls are taken, when they are answered, what is told."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway.channels.base import LONGEST_WISH_S, Receipt
from gateway.channels.hooks import HookedChannel, HookRequest, JudgesHeads
from gateway.channels.running import ChannelState, open_channels
from gateway.channels.telegram.channel import TelegramChannel
from gateway.channels.telegram.settings import (
    TelegramWebhookSettings,
    problem_of_webhook_secret,
)
from gateway.channels.telegram.webhook import CHECK_S, MAX_UNANSWERED, SECRET_HEADER
from gateway.clock import FakeClock
from gateway.errors import ConfigurationError, StorageBusyError
from gateway.settings import SecretSource
from tests.support.telegram_api import Failure, TelegramServer, message
from tests.support.telegram_runs import running, settings

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from gateway.model import Inbound
    from tests.support.telegram_runs import Run

SECRET = "a-secret_of-tests-0123456789"
URL = "https://chat.example.org/hooks/main"


def webhook(tmp_path: Path, secret: str = SECRET) -> TelegramWebhookSettings:
    file = tmp_path / "secret"
    file.write_text(secret)
    return TelegramWebhookSettings(url=URL, secret=SecretSource(file=str(file)))


def called(
    tmp_path: Path,
    server: TelegramServer | None = None,
    **more: Any,  # noqa: ANN401 - as of `running`
) -> AbstractAsyncContextManager[Run]:
    return running(tmp_path, server, webhook=webhook(tmp_path), **more)


async def status_of(channel: TelegramChannel, body: object, secret: str | None = SECRET) -> int:
    headers = {} if secret is None else {SECRET_HEADER: secret}
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return (await channel.call(HookRequest(headers, raw))).status


def update(number: int, text: str = "hello") -> dict[str, Any]:
    return {"update_id": number, "message": message(text, number)}


async def through(channel: TelegramChannel, headers: dict[str, str], body: bytes) -> int:
    return (await channel.call(HookRequest(headers, body))).status


async def test_telegram_is_told_where_to_call_with_what_secret_and_in_order(
    tmp_path: Path,
) -> None:
    async with called(tmp_path) as run:
        run.server.call = partial(through, run.channel)
        ids = [run.server.push(message=message(f"{n}", n)) for n in range(1, 6)]
        await run.server.until(lambda: run.server.acknowledged == ids)
        methods = [method for method, _ in run.server.asked]
        hook = dict(run.server.hook)

    assert isinstance(run.channel, HookedChannel)
    assert isinstance(run.channel, JudgesHeads)
    assert run.channel.called
    assert (hook["url"], hook["secret_token"]) == (URL, SECRET)
    assert (hook["max_connections"], hook["drop_pending_updates"]) == ("1", "false")
    assert "message" in orjson.loads(hook["allowed_updates"])
    assert "getUpdates" not in methods
    assert [one.text for one in run.received] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("given_", [None, "", SECRET[:-1], SECRET + "x", SECRET.upper(), "é" * 28])
async def test_a_call_without_the_secret_is_refused_and_leaves_no_trace(
    tmp_path: Path, given_: str | None
) -> None:
    async with called(tmp_path) as run:
        headers = {} if given_ is None else {SECRET_HEADER: given_}
        answer = await run.channel.call(HookRequest(headers, orjson.dumps(update(1))))

        early = run.channel.refusal(headers)

    assert early == answer
    assert answer.status == 401
    assert SECRET not in answer.text
    assert run.received == []


async def test_a_call_is_answered_only_once_what_it_says_is_stored(tmp_path: Path) -> None:
    async with called(tmp_path) as run:
        run.receipts = [StorageBusyError(), Receipt()]
        busy = await status_of(run.channel, update(1))
        stored = await status_of(run.channel, update(1))

    assert (busy, stored) == (503, 200)
    assert len(run.received) == 1


async def test_while_the_channel_does_not_run_calls_are_to_come_again(tmp_path: Path) -> None:
    made = settings(tmp_path, TelegramServer(), webhook=webhook(tmp_path))
    before = await status_of(TelegramChannel("main", made, FakeClock()), update(1))
    async with called(tmp_path) as run:
        while_it_runs = await status_of(run.channel, update(1))
    after = await status_of(run.channel, update(1))
    unproven = await status_of(run.channel, update(1), "wrong")

    assert (before, while_it_runs, after, unproven) == (503, 200, 503, 401)


async def test_a_refused_sender_is_told_and_the_call_is_done(tmp_path: Path) -> None:
    async with called(tmp_path) as run:
        run.receipts = [Receipt(accepted=False, text="Not you.")]
        status = await status_of(run.channel, update(5))
        await run.server.until(lambda: run.server.posted)

    assert status == 200
    assert [one.text for one in run.server.posted] == ["Not you."]


class Gated:
    """Takes messages one by one, each when it is let."""

    def __init__(self) -> None:
        self.came: list[str] = []
        self.gate = anyio.Event()

    async def receive(self, inbound: Inbound) -> Receipt:
        self.came.append(inbound.text)
        await self.gate.wait()
        return Receipt(accepted=False, text="no")


async def test_a_call_that_outlasts_the_run_is_answered_as_what_became_of_it(
    tmp_path: Path,
) -> None:
    server, gated, statuses = TelegramServer(), Gated(), list[int]()
    made = settings(tmp_path, server, webhook=webhook(tmp_path))
    channel = TelegramChannel("main", made, FakeClock())

    async def call(number: int) -> None:
        statuses.append(await status_of(channel, update(number, f"{number}")))

    async with server.serving(), anyio.create_task_group() as calls:
        async with anyio.create_task_group() as tasks:
            reached = anyio.Event()
            tasks.start_soon(partial(channel.run, gated.receive, ready=reached.set))
            await reached.wait()
            calls.start_soon(call, 1)
            await anyio.wait_all_tasks_blocked()
            calls.start_soon(call, 2)
            await anyio.wait_all_tasks_blocked()
            waiting = list(gated.came)
            tasks.cancel_scope.cancel()
        gated.gate.set()

    assert waiting == ["1"]  # one at a time: of one chat they keep their order
    assert gated.came == ["1", "2"]
    assert statuses == [200, 200]
    assert server.posted == []


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[]", b"null", {}, {"update_id": "1"}, {"update_id": True}]
)
async def test_what_is_no_update_is_refused(tmp_path: Path, body: object) -> None:
    async with called(tmp_path) as run:
        assert await status_of(run.channel, body) == 400

    assert run.received == []


async def test_an_update_that_is_not_understood_is_passed(tmp_path: Path) -> None:
    strange = {"update_id": 1, "message": {"message_id": "what", "text": "a secret"}}
    with capture_logs() as logs:
        async with called(tmp_path) as run:
            status = await status_of(run.channel, strange)

    assert status == 200
    assert "telegram.update_not_understood" in [line["event"] for line in logs]
    assert "secret" not in str(logs)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["chat", "from", "text", "id", "type", "date", "message_id", "photo"]),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


@given(body=st.binary(max_size=64) | st.fixed_dictionaries({"update_id": JSON, "message": JSON}))
def test_no_call_breaks_the_channel(tmp_path_factory: pytest.TempPathFactory, body: object) -> None:
    async def work() -> int:
        async with called(tmp_path_factory.mktemp("t")) as run:
            status = await status_of(run.channel, body)
            assert run.state() is ChannelState.RUNNING
            return status

    assert anyio.run(work) in {200, 400}


async def test_who_polls_takes_the_webhook_away_and_loses_nothing(tmp_path: Path) -> None:
    server = TelegramServer()
    server.hook = {"url": "https://elsewhere.example.org/a-secret-path"}
    waiting = server.push(message=message("waited", 1))
    with capture_logs() as logs:
        async with running(tmp_path, server) as run:
            await server.until(lambda: waiting in server.acknowledged)
        removed = [fields for method, fields in server.asked if method == "deleteWebhook"]

    assert removed == [{"drop_pending_updates": "false"}]
    assert [one.text for one in run.received] == ["waited"]
    assert not run.channel.called
    told = [line for line in logs if line["event"] == "telegram.webhook_removed"]
    assert [line["account"] for line in told] == ["main"]
    assert "a-secret-path" not in str(logs)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "the webhook was changed: another program removed it"),
        (
            "https://elsewhere.example.org/a-secret-path",
            "the webhook was changed: another program has the messages sent elsewhere",
        ),
    ],
)
async def test_a_webhook_that_another_program_changed_is_told_and_set_again(
    tmp_path: Path, url: str, why: str
) -> None:
    async with called(tmp_path) as run:
        run.server.hook = {"url": url}
        await run.clock.advance(CHECK_S)
        reason = await run.lost()
        lost = await status_of(run.channel, update(1))
        await run.clock.advance(1)
        await run.up()
        again = run.server.hook["url"]

    assert reason == why
    assert lost == 503
    assert again == URL


async def test_calls_that_do_not_come_through_are_told_once(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with called(tmp_path) as run:
            run.server.answers = [404]
            run.server.push(message=message("hello", 1))
            for _ in range(3):
                await checked(run)
            state = run.state()

    told = [line for line in logs if line["event"] == "telegram.webhook_fails"]
    assert [(line["reason"], line["waiting"]) for line in told] == [
        ("Wrong response from the webhook: 404", 1)
    ]
    assert state is ChannelState.RUNNING


async def checked(run: Run) -> float:
    """Let Telegram be asked once whether its calls come through; return what is waited then."""
    waits = len(run.clock.waits_s)
    await run.clock.advance(CHECK_S)
    await run.server.until(lambda: len(run.clock.waits_s) > waits)
    return run.clock.waits_s[-1]


@pytest.mark.parametrize(
    ("failure", "next_s"),
    [
        (Failure(429, "Too Many Requests", {"retry_after": 600}), 600),
        (Failure(429, "Too Many Requests", {"retry_after": 10**6}), LONGEST_WISH_S),
        (Failure(429, "Too Many Requests", {"retry_after": 1}), CHECK_S),
        (Failure(502, body=b"<html>\xe9"), CHECK_S),
        (Failure(500, "Internal Server Error"), CHECK_S),
        (Failure(lost=True), CHECK_S),
    ],
)
async def test_that_telegram_does_not_answer_ends_no_run_and_calls_are_taken(
    tmp_path: Path, failure: Failure, next_s: float
) -> None:
    async with called(tmp_path) as run:
        run.server.failures["getWebhookInfo"] = [failure]
        wait_s = await checked(run)
        status = await status_of(run.channel, update(1))
        assert run.channels is not None
        told = run.channels.statistics()[0]

    assert (status, wait_s) == (200, next_s)
    assert (told.state, told.restarts) == (ChannelState.RUNNING, 0)


async def test_a_pause_that_is_asked_for_as_the_webhook_is_set_is_kept(tmp_path: Path) -> None:
    server = TelegramServer()
    server.failures["setWebhook"] = [Failure(429, "Too Many Requests", {"retry_after": 120})]
    async with called(tmp_path, server, ready=False) as run:
        await run.lost()
        wait_s = run.clock.waits_s[-1]

    assert wait_s == 120


async def test_an_outage_of_telegram_ends_the_run_and_its_end_is_told(tmp_path: Path) -> None:
    broken = Failure(500, "Internal Server Error")
    async with called(tmp_path) as run:
        run.server.failures["getWebhookInfo"] = [broken] * (MAX_UNANSWERED - 1)
        reached = len(run.reached)
        for _ in range(MAX_UNANSWERED):
            await checked(run)
        again = len(run.reached) - reached
        run.server.failures["getWebhookInfo"] = [broken] * MAX_UNANSWERED
        for _ in range(MAX_UNANSWERED):
            await checked(run)
        reason = await run.lost()
        await run.clock.advance(1)
        await run.up()

    assert again == 1
    assert reason == "Telegram fails (Internal Server Error)"


async def test_a_webhook_that_telegram_refuses_is_told(tmp_path: Path) -> None:
    server = TelegramServer()
    refusal = Failure(400, "Bad Request: bad webhook: Webhook can be set up only on ports 80")
    server.failures["setWebhook"] = [refusal]
    async with called(tmp_path, server, ready=False) as run:
        reason = await run.lost()
        await run.clock.advance(1)
        await run.up()

    assert reason.startswith("Telegram fails (Bad Request: bad webhook: Webhook can be set up only")


@pytest.mark.parametrize(
    "secret",
    ["", " ", "undefined", "changeme", "short", "x" * 32, "abab" * 8, "a secret of 24 characters",
     "é" * 32, "a" * 257],
)  # fmt: skip
async def test_without_a_secret_of_its_own_it_does_not_start(tmp_path: Path, secret: str) -> None:
    tables = {"main": settings(tmp_path, TelegramServer(), webhook=webhook(tmp_path, secret))}

    with pytest.raises(ConfigurationError) as caught:
        open_channels(tables, tmp_path, FakeClock())

    (problem,) = caught.value.problems
    assert problem.startswith("channels.main.webhook.secret: ")
    assert secret.strip() == "" or secret == "short" or secret not in problem


def test_secrets_as_programs_draw_them_are_taken() -> None:
    drawn = [
        "0f1e2d3c4b5a69788796a5b4",
        "Zm9vYmFyYmF6cXV4cXV1eA_-abcdef",
        "aB3-" * 3 + "xyz_qrs9tuvw",
    ]

    assert [problem_of_webhook_secret(one) for one in drawn] == ["", "", ""]
