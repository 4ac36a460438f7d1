"""Posting signed bodies to real sockets: what is told of answers, and what is never done."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.abc import SocketAttribute

from gateway.clock import FakeClock
from gateway.signing.posting import MAX_ANSWER_BYTES, Answer, Poster, PostError, retry_after_s
from gateway.signing.signatures import key_of
from tests.support.webhooks import SECRET, Reaction, Receiver

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio.abc import SocketStream


@asynccontextmanager
async def posting(receiver: Receiver, clock: FakeClock) -> AsyncGenerator[Poster]:
    poster = Poster(receiver.url, [key_of(SECRET)], clock, 5.0)
    async with poster.opened():
        yield poster


def trust(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name a proxy on this machine in the environment."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        value = "" if name == "NO_PROXY" else f"http://127.0.0.1:{port}"
        monkeypatch.setenv(name, value)
        monkeypatch.setenv(name.lower(), value)


async def test_a_body_arrives_as_it_is_signed_and_named() -> None:
    receiver = Receiver()
    async with receiver.serving(), posting(receiver, FakeClock()) as poster:
        answer = await poster.post("msg_1", b'{"type": "x", "data": "\xc3\xbc"}')

    assert answer == Answer(204)
    assert answer.accepted
    (post,) = receiver.posts
    assert (post.message_id, post.raw) == ("msg_1", b'{"type": "x", "data": "\xc3\xbc"}')
    assert post.headers["Content-Type"] == "application/json"


async def test_no_redirect_is_followed() -> None:
    elsewhere, receiver = Receiver(), Receiver()
    receiver.always = Reaction(307, {"Location": elsewhere.url})
    async with elsewhere.serving(), receiver.serving(), posting(receiver, FakeClock()) as poster:
        answer = await poster.post("msg_1", b"{}")

    assert (answer.status, answer.accepted) == (307, False)
    assert elsewhere.posts == []


async def test_of_an_endless_answer_only_a_little_is_read() -> None:
    receiver = Receiver()
    receiver.always = Reaction(200, body=b"x" * (50 * MAX_ANSWER_BYTES))
    async with receiver.serving(), posting(receiver, FakeClock()) as poster:
        for number in range(3):
            assert (await poster.post(f"msg_{number}", b"{}")).accepted

    assert receiver.ids == ["msg_0", "msg_1", "msg_2"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_what_is_for_this_machine_goes_through_no_proxy(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver, proxy = Receiver(), Receiver()
    trust(proxy.port, monkeypatch)
    async with receiver.serving(), proxy.serving():
        url = receiver.url.replace("127.0.0.1", host)
        poster = Poster(url, [key_of(SECRET)], FakeClock(), 5.0)
        async with poster.opened():
            assert (await poster.post("msg_1", b"{}")).accepted

    assert (receiver.ids, proxy.posts) == (["msg_1"], [])


async def test_what_is_for_elsewhere_goes_through_the_proxy_unread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    came: list[bytes] = []

    async def refuse(stream: SocketStream) -> None:
        async with stream:
            came.append(await stream.receive())
            await stream.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, refuse)
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - anyio's, no database's
        trust(port, monkeypatch)
        poster = Poster("https://hook.example/in", [key_of(SECRET)], FakeClock(), 5.0)
        async with poster.opened():
            with pytest.raises(PostError):
                await poster.post("msg_1", b"a canary")
        tasks.cancel_scope.cancel()

    assert came[0].startswith(b"CONNECT hook.example:443 ")
    assert b"canary" not in b"".join(came)


async def test_an_answer_that_does_not_come_ends_at_the_deadline() -> None:
    receiver, clock = Receiver(), FakeClock()
    receiver.always = Reaction(wait=anyio.Event())
    told: list[PostError] = []

    async def post(poster: Poster) -> None:
        with pytest.raises(PostError) as caught:
            await poster.post("msg_1", b"{}")
        told.append(caught.value)

    async with (
        receiver.serving(),
        posting(receiver, clock) as poster,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(post, poster)
        await receiver.until(lambda: receiver.posts)
        await clock.advance(5)

    assert [(str(one), one.sent) for one in told] == [("no answer within 5 seconds", True)]


async def test_who_is_not_there_got_nothing() -> None:
    receiver = Receiver()
    async with posting(receiver, FakeClock()) as poster:
        with pytest.raises(PostError) as caught:
            await poster.post("msg_1", b"{}")

    assert not caught.value.sent


async def test_of_a_connection_that_breaks_nobody_knows() -> None:
    receiver = Receiver()
    receiver.always = Reaction(lost=True)
    async with receiver.serving(), posting(receiver, FakeClock()) as poster:
        with pytest.raises(PostError) as caught:
            await poster.post("msg_1", b"{}")

    assert caught.value.sent


async def test_a_poster_that_is_not_open_posts_nothing() -> None:
    receiver = Receiver()
    poster = Poster(receiver.url, [key_of(SECRET)], FakeClock(), 5.0)
    async with receiver.serving():
        with pytest.raises(PostError) as caught:
            await poster.post("msg_1", b"{}")

    assert not caught.value.sent
    assert receiver.posts == []


@pytest.mark.parametrize(
    ("header", "pause_s"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("9" * 30, 365 * 86_400.0),
        ("Thu, 01 Jan 2026 00:02:00 GMT", 120.0),
        ("Wed, 31 Dec 2025 00:00:00 GMT", 0.0),
        ("Thu, 01 Jan 2026 00:02:00 -0000", None),
        ("-7", None),
        ("7.5", None),
        ("\u0667", None),
        ("soon", None),
        ("", None),
    ],
)
def test_a_pause_is_seconds_or_an_instant(header: str, pause_s: float | None) -> None:
    assert retry_after_s(header, FakeClock()) == pause_s
