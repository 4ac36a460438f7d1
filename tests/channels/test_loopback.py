"""Laws of the loopback channel, over its real socket."""

from __future__ import annotations

import socket
import stat
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from gateway.channels.base import (
    ChannelError,
    NotConnectedError,
    Outbound,
    Receipt,
    SendError,
)
from gateway.channels.loopback.channel import MAX_WAITING, LoopbackChannel
from gateway.channels.settings import LoopbackSettings
from gateway.clock import FakeClock
from gateway.errors import StorageFullError, UnavailableError
from gateway.model import (
    Attachment,
    AttachmentKind,
    Change,
    ChatType,
    Inbound,
    SessionSource,
)
from tests.support.loopback import connected, message

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

ANN = SessionSource("loopback", "ann", account="mine", thread_id="t", user_id="u")


@dataclass
class Running:
    """A channel that runs, and what it has handed over."""

    channel: LoopbackChannel
    clock: FakeClock
    received: list[Inbound] = field(default_factory=list)
    receipts: list[Receipt | Exception] = field(default_factory=list)
    """What becomes of messages, in order; then all are stored."""
    times_ready: int = 0
    gate: anyio.Event | None = None
    """What messages wait for, where there is one."""

    async def receive(self, inbound: Inbound) -> Receipt:
        await anyio.lowlevel.checkpoint()
        if self.gate is not None:
            await self.gate.wait()
        said = self.receipts.pop(0) if self.receipts else Receipt()
        if isinstance(said, Exception):
            raise said

        self.received.append(inbound)
        return said


@asynccontextmanager
async def running(state_dir: Path, **settings: object) -> AsyncGenerator[Running]:
    clock = FakeClock()
    made = LoopbackSettings.model_validate({"kind": "loopback", **settings})
    run = Running(LoopbackChannel("mine", made, state_dir, clock), clock)
    ready = anyio.Event()

    def note_ready() -> None:
        run.times_ready += 1
        ready.set()

    async def serve() -> None:
        await run.channel.run(run.receive, ready=note_ready)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        with anyio.fail_after(30):
            await ready.wait()
        yield run
        tasks.cancel_scope.cancel()


def outbound(text: str = "hi", delivery_id: str = "t-1", **more: Any) -> Outbound:  # noqa: ANN401 - fields of it
    return Outbound(ANN, text, delivery_id, **more)


async def test_a_message_is_answered_once_it_is_stored(state_dir: Path) -> None:
    async with running(state_dir) as run, connected(run.channel.path) as client:
        said = await client.ask(
            **message(chat_type="thread", thread_id="t", user_id="7", user_name="Ann\n\u202eB"),
        )

        assert said == {"accepted": "m1"}
        (inbound,) = run.received
        assert inbound == Inbound(
            SessionSource(
                "loopback", "ann", ChatType.THREAD, "mine", "t", "7", "Ann\ufffd\ufffdB", ""
            ),
            "hello 1",
            "m1",
        )
        assert inbound.typed


async def test_what_comes_beside_a_text_and_what_becomes_of_a_message_is_told(
    state_dir: Path,
) -> None:
    file = {"kind": "image", "media_type": "image/png", "name": "a.png", "size_bytes": 7}
    async with running(state_dir) as run, connected(run.channel.path) as client:
        await client.ask(**message(text="", attachments=[file, {"name": "b"}]))
        await client.ask(**message(edited=True))
        await client.ask(retracted=True, message_id="m1", chat_id="ann")

    first, edit, retraction = run.received
    assert first.attachments == (
        Attachment(AttachmentKind.IMAGE, "image/png", "a.png", 7),
        Attachment(AttachmentKind.FILE, name="b"),
    )
    assert (first.text, first.change) == ("", Change.NEW)
    assert (edit.text, edit.change) == ("hello 1", Change.EDITED)
    assert (retraction.text, retraction.change) == ("", Change.RETRACTED)
    assert {one.message_id for one in run.received} == {"m1"}


async def test_a_client_that_serves_edits_and_shows_that_an_answer_is_made(
    state_dir: Path,
) -> None:
    async with running(state_dir, edits=True, typing=True) as run:
        with pytest.raises(NotConnectedError):
            await run.channel.edit(outbound(), "17")
        await run.channel.show_typing(ANN)
        async with connected(run.channel.path) as client:
            await client.serve()
            await run.channel.show_typing(ANN)
            typing = await client.read()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run.channel.edit, outbound("new"), "17")
                edit = await client.read()
                await client.write(delivered="t-1")

    place = {"chat_id": "ann", "chat_type": "dm", "thread_id": "t", "user_id": "u"}
    assert typing == {"typing": True, **place}
    assert edit == {"edit": "t-1", "of": "17", **place, "text": "new", "plain": False}


async def test_who_shows_no_sign_of_typing_is_told_none(state_dir: Path) -> None:
    async with running(state_dir) as run, connected(run.channel.path) as client:
        await client.serve()
        await run.channel.show_typing(ANN)

        assert await client.ask(**message()) == {"accepted": "m1"}
        assert (run.channel.edits, run.channel.typing_s) == (False, 0.0)


async def test_what_is_forwarded_was_not_typed(state_dir: Path) -> None:
    async with running(state_dir) as run, connected(run.channel.path) as client:
        await client.ask(**message(text="/stop", forwarded=True))

        assert [one.typed for one in run.received] == [False]


async def test_a_refusal_is_told_at_once(state_dir: Path) -> None:
    async with running(state_dir) as run, connected(run.channel.path) as client:
        run.receipts = [
            Receipt(accepted=False, text="Too many messages."),
            Receipt(accepted=False),
            Receipt(text="Stopped."),
        ]
        said = [await client.ask(**message(number)) for number in (1, 2, 3)]

        assert said == [
            {"refused": "m1", "text": "Too many messages."},
            {"refused": "m2"},
            {"accepted": "m3", "text": "Stopped."},
        ]


async def test_what_cannot_be_stored_is_not_acknowledged(state_dir: Path) -> None:
    async with running(state_dir) as run, connected(run.channel.path) as client:
        run.receipts = [StorageFullError()]
        first = await client.ask(**message())
        second = await client.ask(**message())

        assert first == {"retry": "m1", "error": "the gateway cannot store it at the moment"}
        assert second == {"accepted": "m1"}


async def test_that_the_gateway_stops_is_told(state_dir: Path) -> None:
    async with running(state_dir) as run, connected(run.channel.path) as client:
        run.receipts = [UnavailableError()]
        told = await client.ask(**message())

    assert told == {"retry": "m1", "error": "the gateway is stopping, and takes no messages"}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        pytest.param(b"hello", "not JSON", id="no-json"),
        pytest.param(b"\xff\xfe", "the line is not JSON", id="no-utf-8"),
        pytest.param(b"[" * 9_000, "the line is nested too deep", id="a-deep-list"),
        pytest.param(b"[" * 100_000, "the line holds too many values", id="a-long-list"),
        pytest.param(
            b'{"text":"a secret","message_id":"a","chat_id":"a","chat_id":"secret"}',
            "the line gives the key 'chat_id' twice, accepted is once; accepted is one JSON object",
            id="a-field-twice",
        ),
        pytest.param(b"[1]", "not an object", id="a-list"),
        pytest.param(b"{}", "of no known kind", id="empty"),
        pytest.param(b'{"chat_id": "secret"}', "of no known kind", id="no-text"),
        pytest.param(b'{"text":"x","chat_id":"a"}', "message_id: accepted", id="no-message-id"),
        pytest.param(b'{"text":"x","message_id":"a"}', "chat_id: accepted", id="no-chat"),
        pytest.param(b'{"text":"","message_id":"a","chat_id":"a"}', "text: accepted", id="blank"),
        pytest.param(b'{"text":1,"message_id":"a","chat_id":"a"}', "text: accepted", id="a-number"),
        pytest.param(
            b'{"text":"x","message_id":"a","chat_id":"a","sender":"secret"}',
            "'sender': no such field; accepted beside text: message_id, chat_id,",
            id="an-unknown-field",
        ),
        pytest.param(
            b'{"text":"x","message_id":"a","chat_id":"a","\\u202e%b":"secret"}' % (b"x" * 500),
            "'\\u202e" + "x" * 63 + "'...: no such field; accepted",
            id="a-field-that-steers",
        ),
        pytest.param(
            b'{"text":"x","message_id":"a","chat_id":"a","chat_type":"club"}',
            "chat_type: accepted is one of dm, group, channel, thread",
            id="an-unknown-chat-type",
        ),
        pytest.param(
            b'{"text":"x","message_id":"a\\n","chat_id":"a"}',
            "none of them a control",
            id="control",
        ),
        pytest.param(
            b'{"text":"x","message_id":"a","chat_id":"a\\u0000"}',
            "none of them a control",
            id="nul",
        ),
        pytest.param(
            b'{"text":"x","message_id":"%b","chat_id":"a"}' % (b"a" * 513),
            "up to 512 characters",
            id="a-long-id",
        ),
        pytest.param(
            b'{"text":"x","message_id":"a","chat_id":"a","forwarded":"no"}',
            "forwarded: accepted is true or false",
            id="a-word-for-a-flag",
        ),
        pytest.param(
            b'{"text":"","message_id":"a","chat_id":"a","attachments":{}}',
            "attachments: accepted is a list of up to 100 objects",
            id="attachments",
        ),
        pytest.param(
            b'{"text":"","message_id":"a","chat_id":"a","attachments":[{"url":"x"}]}',
            "attachments: accepted are objects with kind, media_type, name, size_bytes",
            id="attachment",
        ),
        pytest.param(
            b'{"text":"","message_id":"a","chat_id":"a","attachments":[{"kind":"fax"}]}',
            "kind: accepted is one of image, audio, voice, video, sticker, file, other",
            id="kind-of-attachment",
        ),
        pytest.param(
            b'{"text":"x","message_id":"a","chat_id":"a","edited":"yes"}',
            "edited: accepted is true or false",
            id="edited",
        ),
        pytest.param(
            b'{"retracted":false,"message_id":"a","chat_id":"a"}',
            "retracted: accepted is true",
            id="retracted",
        ),
        pytest.param(b'{"serve":1}', "serve: accepted is true or false", id="serve"),
        pytest.param(b'{"failed":"t-1"}', "retryable: accepted is true or false", id="failed"),
        pytest.param(
            b'{"failed":"t-1","retryable":true,"retry_after_s":-1}',
            "retry_after_s: accepted is a number from 0",
            id="a-negative-pause",
        ),
    ],
)
async def test_a_wrong_line_is_told_and_harms_nothing(
    state_dir: Path, line: bytes, told: str
) -> None:
    async with running(state_dir) as run, connected(run.channel.path) as client:
        await client.write_raw(line + b"\n")
        answer = await client.read()

        assert told in answer["error"]
        assert "secret" not in str(answer)
        assert run.received == []
        assert await client.ask(**message()) == {"accepted": "m1"}


async def test_a_wrong_message_is_named_in_the_answer(state_dir: Path) -> None:
    async with running(state_dir) as run, connected(run.channel.path) as client:
        answer = await client.ask(**message(7, sender="x"))

        assert answer["message_id"] == "m7"


async def test_a_line_without_end_ends_its_connection_alone(state_dir: Path) -> None:
    async with (
        running(state_dir, max_line_bytes=1_024) as run,
        connected(run.channel.path) as client,
        connected(run.channel.path) as other,
    ):
        await client.write_raw(b"x" * 2_000)

        assert await client.read() == {"error": "longer than 1024 bytes; the connection ends"}
        assert await client.ended()
        assert await other.ask(**message()) == {"accepted": "m1"}


async def test_no_more_clients_than_may_be_are_connected(state_dir: Path) -> None:
    async with running(state_dir, max_connections=1) as run:
        async with connected(run.channel.path) as client:
            assert await client.ask(**message()) == {"accepted": "m1"}
            async with connected(run.channel.path) as other:
                assert await other.read() == {"error": "too many clients are connected"}
                assert await other.ended()
        with anyio.fail_after(30):
            while True:
                async with connected(run.channel.path) as later:
                    if await later.ask(**message(2)) == {"accepted": "m2"}:
                        break


async def test_a_client_that_serves_gets_what_is_sent(state_dir: Path) -> None:
    async with running(state_dir) as run, connected(run.channel.path) as client:
        await client.serve()
        saw: list[dict[str, Any]] = []

        async def show() -> None:
            saw.append(await client.read())
            await client.write(delivered=saw[0]["deliver"], id="17")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(show)
            sent = await run.channel.send(outbound(reply_to="m1", repeat=True))

        assert sent == "17"
        assert saw == [
            {
                "deliver": "t-1",
                "chat_id": "ann",
                "chat_type": "dm",
                "thread_id": "t",
                "user_id": "u",
                "reply_to": "m1",
                "text": "hi",
                "repeat": True,
                "plain": False,
            }
        ]


@pytest.mark.parametrize(
    ("fields", "retryable", "retry_after_s"),
    [
        pytest.param({"retryable": False, "error": "no chat"}, False, None, id="for-good"),
        pytest.param({"retryable": True, "retry_after_s": 9}, True, 9.0, id="for-now"),
    ],
)
async def test_a_client_can_refuse_what_is_sent(
    state_dir: Path, fields: dict[str, object], *, retryable: bool, retry_after_s: float | None
) -> None:
    async with running(state_dir) as run, connected(run.channel.path) as client:
        await client.serve()

        async def refuse() -> None:
            got = await client.read()
            await client.write(failed=got["deliver"], **fields)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(refuse)
            with pytest.raises(SendError) as caught:
                await run.channel.send(outbound())

        told = caught.value
        assert (told.retryable, told.retry_after_s, told.ambiguous) == (
            *(retryable, retry_after_s),
            False,
        )
        assert str(told) == fields.get("error", "the client gave no reason")


async def test_without_a_serving_client_nothing_can_be_sent(state_dir: Path) -> None:
    async with running(state_dir) as run:
        with pytest.raises(NotConnectedError):
            await run.channel.send(outbound())
        async with connected(run.channel.path) as client:
            with pytest.raises(NotConnectedError):
                await run.channel.send(outbound())
            await client.serve()
            assert run.times_ready == 2
            assert await client.ask(serve=False) == {"serving": False}
            with pytest.raises(NotConnectedError):
                await run.channel.send(outbound())


async def test_one_client_serves_at_a_time(state_dir: Path) -> None:
    async with (
        running(state_dir) as run,
        connected(run.channel.path) as first,
        connected(run.channel.path) as second,
    ):
        await first.serve()
        await first.serve()
        assert await second.ask(serve=True) == {"error": "another client serves"}
        assert await first.ask(serve=False) == {"serving": False}
        await second.serve()


async def test_a_client_that_goes_away_may_have_shown_it(state_dir: Path) -> None:
    async with running(state_dir) as run:
        async with connected(run.channel.path) as client:
            await client.serve()

            async def leave() -> None:
                await client.read()
                await client.stream.aclose()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(leave)
                with pytest.raises(SendError) as caught, anyio.fail_after(30):
                    await run.channel.send(outbound())
        with pytest.raises(NotConnectedError):
            await run.channel.send(outbound())

        assert (caught.value.retryable, caught.value.ambiguous) == (True, True)


async def test_a_client_that_is_silent_may_have_shown_it(state_dir: Path) -> None:
    async with (
        running(state_dir, answer_timeout_s=5) as run,
        connected(run.channel.path) as client,
    ):
        await client.serve()
        caught: list[SendError] = []

        async def send() -> None:
            try:
                await run.channel.send(outbound())
            except SendError as error:
                caught.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            await client.read()
            await run.clock.advance(5)

        assert [(one.retryable, one.ambiguous) for one in caught] == [(True, True)]
        # What comes too late says nothing new.
        await client.write(delivered="t-1", id="late")
        assert await client.ask(**message()) == {"accepted": "m1"}


async def test_a_client_that_does_not_read_is_left_and_holds_nothing_up(state_dir: Path) -> None:
    async with (
        running(state_dir, answer_timeout_s=5) as run,
        connected(run.channel.path) as client,
    ):
        await client.serve()
        failed = anyio.Event()

        async def send() -> None:
            with pytest.raises(SendError):
                await run.channel.send(outbound("x" * 8_000_000))
            failed.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            await run.clock.advance(5)
            with anyio.fail_after(30):
                await failed.wait()
        async with connected(run.channel.path) as other:
            with anyio.fail_after(30):
                while await other.ask(serve=True) != {"serving": True}:
                    await anyio.lowlevel.checkpoint()


async def test_deliveries_to_many_chats_wait_beside_each_other(state_dir: Path) -> None:
    async with running(state_dir) as run, connected(run.channel.path) as client:
        await client.serve()
        ids: dict[str, str] = {}

        async def send(delivery_id: str) -> None:
            ids[delivery_id] = await run.channel.send(outbound(delivery_id=delivery_id))

        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(send, f"t-{number}")
            got = [(await client.read())["deliver"] for _ in range(5)]
            for delivery_id in reversed(got):
                await client.write(delivered=delivery_id, id=f"shown {delivery_id}")

        assert ids == {f"t-{n}": f"shown t-{n}" for n in range(5)}


async def test_a_message_that_takes_long_holds_up_no_answer(state_dir: Path) -> None:
    async with running(state_dir) as run, connected(run.channel.path) as client:
        await client.serve()
        run.gate = anyio.Event()
        await client.write(**message(1))
        await client.write(**message(2))

        async def show() -> None:
            got = await client.read()
            await client.write(delivered=got["deliver"], id="17")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(show)
            with anyio.fail_after(30):
                assert await run.channel.send(outbound()) == "17"
        assert run.received == []
        run.gate.set()

        assert [await client.read() for _ in range(2)] == [{"accepted": "m1"}, {"accepted": "m2"}]
        assert [one.message_id for one in run.received] == ["m1", "m2"]


async def test_more_messages_than_may_wait_come_in_their_order_also_of_one_who_leaves(
    state_dir: Path,
) -> None:
    many = 3 * MAX_WAITING
    async with running(state_dir) as run, connected(run.channel.path) as client:
        run.gate = anyio.Event()
        for number in range(many):
            await client.write(**message(number))
        await client.stream.send_eof()
        run.gate.set()

        said = [await client.read() for _ in range(many)]
        assert said == [{"accepted": f"m{number}"} for number in range(many)]
        assert await client.ended()
        assert [one.message_id for one in run.received] == [f"m{n}" for n in range(many)]


async def test_who_is_gone_while_its_messages_wait_harms_nothing(state_dir: Path) -> None:
    async with running(state_dir) as run:
        run.gate = anyio.Event()
        async with connected(run.channel.path) as client:
            await client.write(**message(1))
            await client.write(**message(2))
        run.gate.set()
        async with connected(run.channel.path) as other:
            assert await other.ask(**message(3)) == {"accepted": "m3"}


async def test_the_socket_is_the_owners_alone_and_goes_at_the_end(state_dir: Path) -> None:
    async with running(state_dir) as run:
        path = run.channel.path
        assert path == state_dir / "mine.sock"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    assert not path.exists()


async def test_a_socket_that_a_killed_gateway_left_is_taken_over(state_dir: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(state_dir / "mine.sock"))
    left.close()
    async with running(state_dir) as run, connected(run.channel.path) as client:
        assert await client.ask(**message()) == {"accepted": "m1"}


async def _run_alone(channel: LoopbackChannel) -> None:
    async def receive(_: Inbound) -> Receipt:
        raise AssertionError

    await channel.run(receive, ready=lambda: None)


def _channel(path: Path) -> LoopbackChannel:
    settings = LoopbackSettings(kind="loopback", path=path)
    return LoopbackChannel("other", settings, path.parent, FakeClock())


async def test_a_socket_that_another_program_listens_on_is_left_alone(state_dir: Path) -> None:
    async with running(state_dir) as run:
        with pytest.raises(ChannelError, match="another program listens there"):
            await _run_alone(_channel(run.channel.path))
        async with connected(run.channel.path) as client:
            assert await client.ask(**message()) == {"accepted": "m1"}


async def test_a_file_that_is_no_socket_is_left_alone(state_dir: Path) -> None:
    path = state_dir / "notes.txt"
    path.write_text("mine")
    with pytest.raises(ChannelError, match="is no socket"):
        await _run_alone(_channel(path))

    assert path.read_text() == "mine"


@pytest.mark.parametrize("name", ["x" * 120, "missing/x.sock"], ids=["long", "no-directory"])
async def test_a_path_that_cannot_be_used_is_told(state_dir: Path, name: str) -> None:
    with pytest.raises(ChannelError, match=str(state_dir)):
        await _run_alone(_channel(state_dir / name))
