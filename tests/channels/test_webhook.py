"""The webhook channel: what is taken and how it reads, what is refused, and answers."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.channels.base import NotConnectedError, Outbound, Receipt, SendError
from gateway.channels.hooks import HookAnswer, HookedChannel, HookRequest, JudgesHeads
from gateway.channels.webhook import channel as webhook
from gateway.channels.webhook.channel import AT_ONCE_BYTES, NOWHERE, WebhookChannel
from gateway.channels.webhook.settings import WebhookChannelSettings
from gateway.clock import FakeClock
from gateway.errors import BusyError, ConfigurationError, StorageFullError
from gateway.model import AttachmentKind, ChatType, Inbound, SessionSource
from gateway.settings import SecretSource
from gateway.signing.signatures import prove
from tests.support.webhooks import OTHER_SECRET, SECRET, THIRD_SECRET, Reaction, Receiver, signed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

TARGET = SessionSource("webhook", "ann", account="hook", user_id="ann")


def secret_file(path: Path, secret: str) -> SecretSource:
    path.write_text(secret)
    path.chmod(0o600)
    return SecretSource(file=str(path))


def made(tmp_path: Path, clock: FakeClock | None = None, **settings: Any) -> WebhookChannel:  # noqa: ANN401 - keys of the table
    """Return a channel without replies, unless a test says where they go."""
    if "reply_url" in settings:
        settings["reply_secret"] = secret_file(tmp_path / "out", OTHER_SECRET)
    else:
        settings["replies"] = False
    secrets = settings.pop("secrets", [SECRET])
    sources = [secret_file(tmp_path / f"in{n}", one) for n, one in enumerate(secrets)]
    table = WebhookChannelSettings(kind="webhook", secrets=sources, **settings)
    return WebhookChannel("hook", table, clock or FakeClock())


@asynccontextmanager
async def running(
    channel: WebhookChannel, answer: Callable[[Inbound], Receipt] = lambda _: Receipt()
) -> AsyncGenerator[list[Inbound]]:
    received: list[Inbound] = []
    ready = anyio.Event()

    async def receive(inbound: Inbound) -> Receipt:
        received.append(inbound)
        return answer(inbound)

    async def run() -> None:
        await channel.run(receive, ready=ready.set)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await ready.wait()
        yield received
        tasks.cancel_scope.cancel()


async def posted(
    channel: WebhookChannel, body: object, *, secret: str = SECRET, message_id: str = "msg_1"
) -> HookAnswer:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    headers = signed(secret, message_id, FakeClock().now(), raw)
    return await channel.call(HookRequest(headers, raw))


def test_it_is_a_channel_that_is_called(tmp_path: Path) -> None:
    channel = made(tmp_path)

    assert isinstance(channel, HookedChannel)
    assert isinstance(channel, JudgesHeads)
    assert channel.called


async def test_a_message_says_where_it_comes_from(tmp_path: Path) -> None:
    channel = made(tmp_path)
    fields = {
        "chat_id": "club",
        "chat_type": "thread",
        "thread_id": "t1",
        "user_id": "ann",
        "user_name": "Ann\u202e",
        "text": "look",
        "forwarded": True,
        "attachments": [{"kind": "image", "name": "a.png", "media_type": "image/png"}],
    }
    async with running(channel) as received:
        answer = await posted(channel, fields)

    assert answer == HookAnswer(200)
    (inbound,) = received
    assert inbound.source == SessionSource(
        "webhook", "club", ChatType.THREAD, "hook", "t1", "ann", "Ann�"
    )
    assert (inbound.text, inbound.message_id, inbound.typed) == ("look", "msg_1", False)
    assert [one.kind for one in inbound.attachments] == [AttachmentKind.IMAGE]


async def test_an_event_is_the_text_of_a_message_in_one_chat(tmp_path: Path) -> None:
    for chat_id, channel in (
        ("hook", made(tmp_path, format="event")),
        ("alerts", made(tmp_path, format="event", chat_id="alerts")),
    ):
        async with running(channel) as received:
            for number, body in enumerate(
                (b' { "b" : 1 , "a":["\\u00fc", null]}', b'"/new"', b"7")
            ):
                assert (await posted(channel, body, message_id=f"m{number}")).status == 200

        assert [one.text for one in received] == ['{"b":1,"a":["ü",null]}', '"/new"', "7"]
        assert {(one.source.chat_id, one.source.user_id) for one in received} == {
            (chat_id, chat_id)
        }
        assert not any(one.typed for one in received)


async def test_each_secret_opens_while_one_takes_the_place_of_another(tmp_path: Path) -> None:
    channel = made(tmp_path, secrets=[SECRET, OTHER_SECRET])
    body = {"chat_id": "ann", "text": "hi"}
    async with running(channel) as received:
        statuses = [
            (await posted(channel, body, secret=one, message_id=one[6:12])).status
            for one in (SECRET, OTHER_SECRET, THIRD_SECRET)
        ]

    assert statuses == [200, 200, 401]
    assert len(received) == 2


@pytest.mark.parametrize(
    ("body", "told"),
    [
        pytest.param(b"", "not JSON", id="nothing"),
        pytest.param(b"[]", "not a JSON object", id="list"),
        pytest.param(b'{"chat_id": "a", "text": NaN}', "not JSON", id="nan"),
        pytest.param(
            b'{"chat_id": "a", "chat_id": "b", "text": "x"}', "key 'chat_id' twice", id="twice"
        ),
        pytest.param(b'{"a": %b%b}' % (b"[" * 32, b"]" * 32), "nested too deep", id="deep"),
        pytest.param(b'{"a": [%b1]}' % (b"1," * 10_000), "too many values", id="many"),
        pytest.param(b'{"text": "x"}', "chat_id: accepted is", id="no-chat"),
        pytest.param(b'{"chat_id": "a"}', "text: accepted is", id="no-text"),
        pytest.param(
            b'{"chat_id": "a", "text": "x", "message_id": "m"}', "'message_id': no such", id="id"
        ),
        pytest.param(b'{"chat_id": "a\\ud800", "text": "x"}', "chat_id", id="surrogate-in-an-id"),
        pytest.param(b'{"chat_id": "a", "text": "x", "chat_type": "x"}', "one of dm", id="type"),
    ],
)
async def test_a_body_that_is_none_is_refused_with_what_is_accepted(
    tmp_path: Path, body: bytes, told: str
) -> None:
    channel = made(tmp_path)
    async with running(channel) as received:
        answer = await posted(channel, body)

    assert answer.status == 400
    assert told in answer.text
    assert received == []


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text() | st.sampled_from(["text", "chat_id", "chat_type", "attachments"]), inner
        )
    ),
    max_leaves=20,
)


@given(body=st.binary(max_size=200) | JSON.map(orjson.dumps), form=st.booleans())
async def test_signed_junk_is_taken_or_refused_and_never_breaks_anything(
    tmp_path_factory: pytest.TempPathFactory, body: bytes, *, form: bool
) -> None:
    path = tmp_path_factory.getbasetemp()
    channel = made(path, format="event" if form else "message")
    async with running(channel) as received:
        answer = await posted(channel, body)

    assert answer.status in {200, 400}
    assert len(received) == (answer.status == 200)
    assert all(one.text or one.attachments for one in received)


@given(
    st.dictionaries(
        st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature"]), st.text()
    ),
    st.binary(max_size=50),
)
async def test_what_nothing_proves_is_never_taken(
    tmp_path_factory: pytest.TempPathFactory, headers: dict[str, str], body: bytes
) -> None:
    channel = made(tmp_path_factory.getbasetemp())
    async with running(channel) as received:
        head = channel.refusal(headers)
        answer = await channel.call(HookRequest(headers, body))

    assert answer.status == 401
    assert head is None or head.status == 401
    assert received == []


async def test_what_could_not_be_stored_is_to_come_again(tmp_path: Path) -> None:
    def fail(_: Inbound) -> Receipt:
        raise StorageFullError

    channel, body = made(tmp_path), {"chat_id": "ann", "text": "hi"}
    async with running(channel, fail):
        full = await posted(channel, body)
    away = await posted(channel, body)

    assert (full.status, away.status) == (503, 503)


async def test_what_is_refused_is_told_as_such_and_what_waits_too(tmp_path: Path) -> None:
    channel, body = made(tmp_path), {"chat_id": "ann", "text": "hi"}
    async with running(channel, lambda _: Receipt(accepted=False, text="No.")):
        refused = await posted(channel, body)
    async with running(channel, lambda _: Receipt(text="2 messages first.")):
        waits = await posted(channel, body)

    assert (refused, waits) == (HookAnswer(422, "No."), HookAnswer(200, "2 messages first."))


async def test_a_bound_that_is_reached_says_when_to_come_again(tmp_path: Path) -> None:
    channel, body = made(tmp_path), {"chat_id": "ann", "text": "hi"}
    answers = []
    for own in (True, False):
        busy = BusyError("Later.", retry_after_s=7.0, caller_limit=own)
        receipt = Receipt(accepted=False, text=str(busy), busy=busy)
        async with running(channel, lambda _, receipt=receipt: receipt):  # type: ignore[misc]
            answers.append(await posted(channel, body))

    assert answers == [HookAnswer(429, "Later.", 7.0), HookAnswer(503, "Later.", 7.0)]


@pytest.mark.parametrize("large", [False, True])
async def test_large_bodies_are_proven_beside_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, large: bool
) -> None:
    threads: list[bool] = []

    def proving(*given: Any) -> None:  # noqa: ANN401
        threads.append(threading.current_thread() is threading.main_thread())
        prove(*given)

    monkeypatch.setattr(webhook, "prove", proving)
    channel = made(tmp_path)
    text = "x" * (AT_ONCE_BYTES if large else 100)
    async with running(channel) as received:
        answer = await posted(channel, {"chat_id": "ann", "text": text})
        forged = await posted(channel, {"chat_id": "ann", "text": text}, secret=OTHER_SECRET)

    assert (answer.status, forged.status) == (200, 401)
    assert [one.text for one in received] == [text]
    assert threads == [not large] * 2


async def test_where_no_answers_are_posted_they_go_nowhere(tmp_path: Path) -> None:
    channel = made(tmp_path)
    async with running(channel):
        shown_id = await channel.send(Outbound(TARGET, "hi", "t-1"))

    assert shown_id == NOWHERE


async def test_an_answer_is_a_signed_event(tmp_path: Path) -> None:
    receiver = Receiver(OTHER_SECRET)
    channel = made(tmp_path, reply_url=receiver.url)
    async with receiver.serving(), running(channel):
        shown_id = await channel.send(Outbound(TARGET, "**hi**", "t-1.400", "msg_1", repeat=True))

    (post,) = receiver.posts
    # A full stop would leave open where the id ends in what is signed.
    assert shown_id == post.message_id == "t-1_400"
    assert post.body == {
        "type": "message.sent",
        "timestamp": "2026-01-01T00:00:00Z",
        "data": {
            "id": "t-1_400",
            "account": "hook",
            "chat_id": "ann",
            "chat_type": "dm",
            "thread_id": "",
            "user_id": "ann",
            "reply_to": "msg_1",
            "text": "**hi**",
            "repeat": True,
            "plain": False,
        },
    }


@pytest.mark.parametrize(
    ("status", "retryable", "ambiguous"),
    [
        *((status, False, False) for status in (301, 307, 400, 401, 403, 404, 410, 413)),
        *((status, True, False) for status in (408, 409, 425, 429)),
        *((status, True, True) for status in (500, 502, 503, 504)),
    ],
)
async def test_an_answer_that_is_not_taken_is_tried_again_where_that_may_help(
    tmp_path: Path, status: int, *, retryable: bool, ambiguous: bool
) -> None:
    receiver = Receiver(OTHER_SECRET)
    receiver.always = Reaction(status, {"Retry-After": "9", "Location": "http://127.0.0.1:1/"})
    channel = made(tmp_path, reply_url=receiver.url)
    async with receiver.serving(), running(channel):
        with pytest.raises(SendError) as caught:
            await channel.send(Outbound(TARGET, "a secret", "t-1"))

    assert (caught.value.retryable, caught.value.ambiguous) == (retryable, ambiguous)
    assert caught.value.retry_after_s == 9.0
    assert str(caught.value) == f"answered {status}"


async def test_an_address_that_is_not_there_was_not_asked(tmp_path: Path) -> None:
    channel = made(tmp_path, reply_url=Receiver().url)
    async with running(channel):
        with pytest.raises(NotConnectedError):
            await channel.send(Outbound(TARGET, "hi", "t-1"))


@pytest.mark.parametrize(
    "secret", ["", "  ", "undefined", "null", "changeme", "whsec_null", "x" * 40]
)
def test_a_secret_that_is_none_opens_nothing(tmp_path: Path, secret: str) -> None:
    with pytest.raises(ConfigurationError, match=r"channels.hook.secrets\[0\]"):
        made(tmp_path, secrets=[secret])


def test_a_secret_that_is_missing_opens_nothing(tmp_path: Path) -> None:
    source = SecretSource(file=str(tmp_path / "none"))
    settings = WebhookChannelSettings(kind="webhook", secrets=[source], replies=False)

    with pytest.raises(ConfigurationError, match="not there"):
        WebhookChannel("hook", settings, FakeClock())
