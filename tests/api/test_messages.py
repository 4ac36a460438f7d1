"""A message over HTTP: its answer whole and streamed, its faults, its bounds."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import apsw
import orjson
import pytest

from gateway.errors import StorageError
from tests.api.running import KEY, events_of, message, read_until_closed, running_api

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.durable.batch import Transaction

STREAM = "text/event-stream"


async def test_a_message_is_answered_with_its_reply(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        response = await api.post("/v1/messages", message(user_name="Al\nice"))

        assert response.status_code == 200
        answer = response.json()
        entry = api.state.store.get(answer["session_key"])
    assert entry is not None
    assert answer == {
        "session_key": KEY,
        "session_id": entry.session_id,
        "turn_id": answer["turn_id"],
        "reply": "working hello",
        "duplicate": False,
        "reset": None,
        "usage": {
            "input_tokens": 7,
            "output_tokens": 3,
            "cache_read_tokens": 0,
            "cache_write_tokens": 0,
            "cache_write_1h_tokens": 0,
            "reasoning_tokens": 0,
        },
        "context": {
            "tokens": 7,
            "window_tokens": 100_000,
            "source": "usage",
            "measured_at": "2026-01-01T00:00:00Z",
            "turns_left_out": 0,
        },
        "status": "ok",
        "agent": "main",
        "fallbacks": [],
    }
    assert entry.source.user_name == "Al�ice"
    assert entry.turns == 1


async def test_the_same_message_id_is_one_turn_and_one_reply(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        first = (await api.post("/v1/messages", message(message_id="m1"))).json()
        second = (await api.post("/v1/messages", message(message_id="m1"))).json()

        assert second == first | {"duplicate": True}
        assert api.turns.statistics().completed == 1


async def test_a_stream_gives_pieces_and_then_the_whole(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        body = message(agent="chunks", message_id="m1")
        response = await api.post("/v1/messages", body, accept=STREAM)
        again = await api.post("/v1/messages", body)

    assert response.headers["content-type"] == "text/event-stream"
    *deltas, done = events_of(response.text)
    assert deltas == [("delta", {"text": text}) for text in ("one ", "two ", "three")]
    assert done == ("done", again.json() | {"duplicate": False})
    assert done[1]["reply"] == "one two three"


async def test_a_stream_that_waits_says_how_many_are_answered_first(tmp_path: Path) -> None:
    async with running_api(tmp_path, gate_open=False) as api, anyio.create_task_group() as group:
        group.start_soon(api.post, "/v1/messages", message())
        with anyio.fail_after(30):
            await api.agent.started.wait()
        stream = api.client.stream(
            "POST", "/v1/messages", json=message(text="again"), headers={"Accept": STREAM}
        )
        async with stream as response:
            chunks = response.aiter_text()
            with anyio.fail_after(30):
                first = await anext(chunks)
            assert events_of(first) == [("queued", {"ahead": 1})]
            api.agent.gate.set()
            rest = [chunk async for chunk in chunks]
    assert events_of("".join(rest))[-1][0] == "done"


async def test_a_silent_stream_says_that_it_lives(tmp_path: Path) -> None:
    async with running_api(tmp_path, gate_open=False) as api:
        stream = api.client.stream(
            "POST", "/v1/messages", json=message(), headers={"Accept": STREAM}
        )
        async with stream as response:
            chunks = response.aiter_text()
            with anyio.fail_after(30):
                assert "working" in await anext(chunks)
                await api.clock.advance(15)
                assert await anext(chunks) == ": still here\n\n"
                api.agent.gate.set()
                rest = [chunk async for chunk in chunks]
    assert events_of("".join(rest))[-1][0] == "done"


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
async def test_a_client_that_goes_away_cancels_nothing(tmp_path: Path, accept: str) -> None:
    async with running_api(tmp_path, gate_open=False) as api:
        body = orjson.dumps(message(message_id="m1"))
        head = api.head(
            "POST",
            "/v1/messages",
            f"Accept: {accept}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        )
        async with await api.connect() as stream:
            await stream.send(head + body)
            with anyio.fail_after(30):
                await api.agent.started.wait()
        # Another request and its answer: by then the server has seen the client go.
        assert (await api.client.get("/livez")).status_code == 200
        api.agent.gate.set()

        response = await api.post("/v1/messages", message(message_id="m1"))

        assert response.json()["reply"] == "working hello"
        assert response.json()["duplicate"] is True
        assert api.turns.statistics().completed == 1


async def test_a_turn_that_fails_is_answered_with_its_status(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        response = await api.post("/v1/messages", message(text="fail"))
    assert response.status_code == 200
    assert response.json()["status"] == "failed"
    assert "I cannot." in response.json()["reply"]


async def test_a_paused_session_says_so(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.post("/v1/messages", message())
        await api.post(f"/v1/sessions/{KEY}/suspend")

        answer = (await api.post("/v1/messages", message())).json()

    assert (answer["status"], answer["turn_id"]) == ("paused", "")


async def test_a_return_after_a_removal_says_how_to_undo_it(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        first = (await api.post("/v1/messages", message())).json()
        await api.client.delete(f"/v1/sessions/{KEY}")

        answer = (await api.post("/v1/messages", message())).json()

        assert answer["reset"] == {
            "reason": "removed",
            "previous_session_id": first["session_id"],
            "undo": f"POST /v1/sessions/{KEY}/undo",
        }
        method, path = answer["reset"]["undo"].split()
        undone = await api.client.request(method, path)
        assert undone.json()["session_id"] == first["session_id"]


async def test_a_wrong_field_is_named_with_what_is_accepted(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, object], str]] = [
        ({"chat_id": ""}, "chat_id: is empty"),
        ({"chat_id": 7}, "chat_id: is 7, accepted is a string"),
        ({"chat_id": None}, "chat_id: is missing"),
        ({"chat_id": "x" * 513}, "accepted are up to 512"),
        ({"thread_id": "a\nb"}, "thread_id: holds control characters"),
        ({"text": ""}, "text: is empty"),
        ({"text": "  "}, "The message is empty"),
        ({"text": ["a"]}, "text: is a list"),
        ({"text": {"a": 1}}, "text: is an object"),
        ({"text": True}, "text: is true"),
        ({"user_name": 1.5}, "user_name: is 1.5"),
        ({"chat_type": "room"}, "one of dm, group, channel, thread"),
        ({"chat_typ": "dm"}, "did you mean chat_type?"),
        ({"agent": "nobody"}, "There is no agent 'nobody'"),
        ({"text": "x" * 100_001}, "accepted are up to 100000"),
        ({"x" * 5_000: 1}, "no such field; accepted: chat_id"),
        ({f"x{n}": 1 for n in range(5_000)}, "and more"),
    ]
    async with running_api(tmp_path) as api:
        for fields, place in cases:
            response = await api.post("/v1/messages", message(**fields))
            assert response.status_code == 400
            assert response.headers["content-type"] == "application/problem+json"
            assert place in response.json()["detail"]
            assert len(response.content) < 8_192
        assert len(api.state.store) == 0


async def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        response = await api.post("/v1/messages", {"text": 1, "user": "x"})
    assert response.json()["problems"] == [
        "chat_id: is missing, accepted is a string that is not empty",
        "text: is 1, accepted is a string that is not empty",
        "'user': no such field; did you mean user_id?",
    ]


async def test_a_lone_surrogate_is_replaced(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        response = await api.client.post(
            "/v1/messages",
            content=b'{"chat_id": "alice", "text": "a\\ud83d \\ud83d\\ude00 \\\\ud83d"}',
            headers={"Content-Type": "application/json"},
        )
    assert response.json()["reply"] == "working a� 😀 \\ud83d"


@pytest.mark.parametrize("name", ["chat_id", "thread_id", "user_id", "message_id", "agent"])
@pytest.mark.parametrize(
    "unfit", ["\\u0000", "\\u001b", "\\u0085", "\\ud83d", "\\ude00", "\\ufffd"]
)
async def test_an_id_is_refused_rather_than_mended_into_another(
    tmp_path: Path, name: str, unfit: str
) -> None:
    fields = {"chat_id": "alice", "text": "hello", name: "a?b"}
    async with running_api(tmp_path) as api:
        response = await api.client.post(
            "/v1/messages",
            content=orjson.dumps(fields).replace(b"?", unfit.encode()),
            headers={"Content-Type": "application/json"},
        )

        assert response.status_code == 400
        (problem,) = response.json()["problems"]
        assert problem == (
            f"{name}: holds control characters, lone surrogates or U+FFFD, "
            "accepted is a string without them"
        )
        assert len(api.state.store) == 0


async def test_an_id_of_whole_characters_is_taken_as_it_is(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        answer = (await api.post("/v1/messages", message(chat_id="a b 😀 ç"))).json()
        entry = api.state.store.get(answer["session_key"])

    assert entry is not None
    assert entry.source.chat_id == "a b 😀 ç"


async def test_a_bound_is_told_with_when_to_come_again(tmp_path: Path) -> None:
    bounds = {"max_waiting_per_session": 0}
    async with (
        running_api(tmp_path, turns=bounds, gate_open=False) as api,
        anyio.create_task_group() as group,
    ):
        group.start_soon(api.post, "/v1/messages", message())
        with anyio.fail_after(30):
            await api.agent.started.wait()

        response = await api.post("/v1/messages", message(text="again"), accept=STREAM)
        api.agent.gate.set()

    assert response.status_code == 429
    assert int(response.headers["retry-after"]) == response.json()["retry_after_s"] == 5


async def test_a_reply_that_cannot_be_stored_is_told_as_a_problem(tmp_path: Path) -> None:
    def fail(_transaction: Transaction) -> None:
        raise apsw.IOError

    with suppress(StorageError):  # a store whose database failed cannot be closed in order
        async with running_api(tmp_path, gate_open=False) as api:
            stream = api.client.stream(
                "POST", "/v1/messages", json=message(), headers={"Accept": STREAM}
            )
            async with stream as response:
                chunks = response.aiter_text()
                first = await anext(chunks)
                with pytest.raises(StorageError):
                    await api.state.database.write(fail)
                api.agent.gate.set()
                rest = [chunk async for chunk in chunks]

    name, problem = events_of("".join([first, *rest]))[-1]
    assert (name, problem["status"]) == ("error", 503)
    assert problem["type"].endswith(":unavailable")
    assert "Your message is kept" in problem["detail"]


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
async def test_who_waits_while_the_gateway_stops_is_told(tmp_path: Path, accept: str) -> None:
    answers = []

    async with running_api(tmp_path, gate_open=False, grace_s=0.1) as api:

        async def ask() -> None:
            answers.append(await api.post("/v1/messages", message(), accept=accept))

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            with anyio.fail_after(30):
                await api.agent.started.wait()
            api.stop.set()
        with anyio.fail_after(30):
            await api.served.wait()

    [response] = answers
    if accept == "*/*":
        assert response.status_code == 503
        problem = response.json()
    else:
        name, problem = events_of(response.text)[-1]
        assert name == "error"
    assert problem["type"] == "urn:session-gateway:problem:unavailable"
    assert "message_id" in problem["detail"]


async def test_bytes_after_the_body_of_a_message_are_a_request_of_their_own(
    tmp_path: Path,
) -> None:
    async with running_api(tmp_path) as api, await api.connect() as stream:
        body = orjson.dumps(message())
        more = ("Content-Type: application/json", f"Content-Length: {len(body)}")
        one = api.head("POST", "/v1/messages", *more) + body
        two = api.head("GET", "/livez", "Connection: close")
        await stream.send(one + two)

        received = await read_until_closed(stream)

    assert received.index(b'"reply":"working hello"') < received.index(b'{"alive":true}')
