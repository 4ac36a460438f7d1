"""Sessions over HTTP: pages, entries, transcripts, and everything that changes one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
import structlog

from tests.api.running import KEY, RunningApi, message, running_api
from tests.support.state import create_all, entry, key_of

if TYPE_CHECKING:
    from pathlib import Path

UNKNOWN = "agent:main:http::dm:nobody::"


async def _said(api: RunningApi, *texts: str) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    for text in texts:
        answer = (await api.post("/v1/messages", message(text=text))).json()
    return answer


async def _pages(api: RunningApi, query: str) -> list[list[str]]:
    pages, cursor = [], ""
    while True:
        answer = (await api.client.get(f"/v1/sessions?{query}{cursor}")).json()
        pages.append([entry["session_key"] for entry in answer["sessions"]])
        if answer["next_cursor"] is None:
            return pages
        cursor = f"&cursor={answer['next_cursor']}"


async def test_pages_give_every_session_once(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await create_all(api.state.store, (entry(f"c{n}") for n in range(150)))

        pages = await _pages(api, "limit=70")

        assert [len(page) for page in pages] == [70, 70, 10]
        assert {key for page in pages for key in page} == {key_of(f"c{n}") for n in range(150)}
        assert [len(page) for page in await _pages(api, "")] == [100, 50]


async def test_a_page_shows_entries_as_they_are_in_the_file(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        answer = await _said(api, "hello")

        [shown] = (await api.client.get("/v1/sessions")).json()["sessions"]

    assert shown["session_id"] == answer["session_id"]
    assert shown["busy"] is False
    assert shown["created_at"] == "2026-01-01T00:00:00Z"
    assert shown["source"]["platform"] == "http"
    assert (shown["turns"], shown["context_tokens"], shown["context_source"]) == (1, 7, "usage")


async def test_a_platform_without_sessions_has_an_empty_page(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await create_all(api.state.store, (entry(f"c{n}") for n in range(3)))

        assert await _pages(api, "platform=telegram") == [[]]
        assert [len(page) for page in await _pages(api, "platform=http")] == [3]


async def test_wrong_parameters_are_told_what_is_accepted(tmp_path: Path) -> None:
    cases = {
        "/v1/sessions?limit=0": "a whole number from 1 to 1000",
        "/v1/sessions?limit=1001": "a whole number from 1 to 1000",
        "/v1/sessions?limit=-1": "a whole number from 1 to 1000",
        "/v1/sessions?limit=1.5": "limit: is '1.5'",
        "/v1/sessions?limit=": "limit: is empty",
        "/v1/sessions?limit=%D9%A1": "a whole number from 1 to 1000",
        f"/v1/sessions?limit={'9' * 4000}": "a whole number from 1 to 1000",
        "/v1/sessions?cursor=%21": "the next_cursor of the page before",
        "/v1/sessions?cursor=YWJj": "the next_cursor of the page before",
        "/v1/sessions?platfrom=http": "did you mean platform?",
        "/v1/sessions?limit=1&limit=2": "a parameter twice",
        f"/v1/sessions/{KEY}?x=1": "'x': no such query parameter",
        f"/v1/sessions/{KEY}/transcript?after=-1": "after: is '-1'",
        f"/v1/sessions/{KEY}/transcript?after={2**63}": "a whole number from 0 to",
        "/v1/sessions/alice": "not a session key",
        "/v1/sessions/agent:main:http::room:alice::": "the chat type one of dm, group",
        "/v1/sessions/..%2F..%2Fetc": None,
    }
    async with running_api(tmp_path) as api:
        await _said(api, "hello")
        for path, told in cases.items():
            response = await api.client.get(path)
            assert (path, response.status_code) == (path, 400 if told else 404)
            assert (told or "") in response.json()["detail"]


async def test_an_entry_is_shown_with_whether_it_is_busy(tmp_path: Path) -> None:
    async with (
        running_api(tmp_path, gate_open=False) as api,
        anyio.create_task_group() as group,
    ):
        group.start_soon(_said, api, "hello")
        with anyio.fail_after(30):
            await api.agent.started.wait()
        busy = (await api.client.get(f"/v1/sessions/{KEY}")).json()
        [listed] = (await api.client.get("/v1/sessions")).json()["sessions"]

        for method, path in (
            ("POST", f"/v1/sessions/{KEY}/reset"),
            ("POST", f"/v1/sessions/{KEY}/undo"),
            ("DELETE", f"/v1/sessions/{KEY}"),
            ("DELETE", f"/v1/sessions/{KEY}?erase=true"),
        ):
            response = await api.client.request(method, path)
            assert response.status_code == 409
            assert "running" in response.json()["detail"]
        # A pause waits for nothing: it holds for the next message.
        assert (await api.post(f"/v1/sessions/{KEY}/suspend")).json()["suspended_at"]
        api.agent.gate.set()

    assert busy["busy"] is True
    assert busy["session_key"] == KEY
    assert busy == listed | {"context_account": busy["context_account"]}


async def test_an_unknown_session_is_not_found(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        one = f"/v1/sessions/{UNKNOWN}"
        for method, path in (
            ("GET", one),
            ("GET", f"{one}/transcript"),
            ("POST", f"{one}/reset"),
            ("POST", f"{one}/undo"),
            ("POST", f"{one}/suspend"),
            ("POST", f"{one}/resume"),
            ("DELETE", one),
            ("DELETE", f"{one}?erase=true"),
        ):
            response = await api.client.request(method, path)
            assert (path, response.status_code) == (path, 404)


async def test_a_transcript_has_both_sides_in_order(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        answer = await _said(api, "one", "two")

        first = (await api.client.get(f"/v1/sessions/{KEY}/transcript?limit=3")).json()
        after = first["next_after"]
        rest = (await api.client.get(f"/v1/sessions/{KEY}/transcript?after={after}")).json()

    assert first["session_id"] == answer["session_id"]
    assert [(row["role"], row["text"]) for row in first["messages"] + rest["messages"]] == [
        ("user", "one"),
        ("assistant", "working one"),
        ("user", "two"),
        ("assistant", "working two"),
    ]
    assert rest["next_after"] is None
    assert rest["messages"][0]["turn_id"] == answer["turn_id"]
    assert rest["messages"][0]["created_at"] == "2026-01-01T00:00:00Z"


async def test_a_reset_begins_anew_and_an_undo_brings_back(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        first = await _said(api, "before")
        with structlog.testing.capture_logs() as logs:
            reset = (await api.post(f"/v1/sessions/{KEY}/reset")).json()
            await _said(api, "after")
            now = (await api.client.get(f"/v1/sessions/{KEY}/transcript")).json()
            path = f"/v1/sessions/{KEY}/transcript?session_id={first['session_id']}"
            before = (await api.client.get(path)).json()
            undone = (await api.post(f"/v1/sessions/{KEY}/undo")).json()

    assert reset["previous_session_id"] == first["session_id"] != reset["session_id"]
    assert reset["reset_reason"] == "manual"
    assert [row["text"] for row in now["messages"] if row["role"] == "user"] == ["after"]
    assert [row["text"] for row in before["messages"] if row["role"] == "user"] == ["before"]
    assert undone["session_id"] == first["session_id"]
    assert undone["turns"] == 1
    events = [log["event"] for log in logs if log["event"].startswith("session.")]
    assert events == ["session.reset", "session.undone"]


async def test_nothing_to_undo_is_a_conflict(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await _said(api, "hello")
        assert (await api.post(f"/v1/sessions/{KEY}/undo")).status_code == 409


async def test_only_conversations_of_the_key_can_be_read(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await _said(api, "hello")
        other = (await api.post("/v1/messages", message(chat_id="bob", text="secret"))).json()

        path = f"/v1/sessions/{KEY}/transcript?session_id={other['session_id']}"
        response = await api.client.get(path)

    assert response.status_code == 404
    assert "secret" not in response.text


async def test_a_session_is_paused_and_resumed(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await _said(api, "hello")
        paused = (await api.post(f"/v1/sessions/{KEY}/suspend")).json()
        resumed = (await api.post(f"/v1/sessions/{KEY}/resume", {})).json()

    assert paused["suspended_at"] == "2026-01-01T00:00:00Z"
    assert resumed == paused | {"suspended_at": None, "suspended_by": None}


async def test_a_command_in_the_path_takes_no_fields(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await _said(api, "hello")
        response = await api.post(f"/v1/sessions/{KEY}/reset", {"reason": "x"})
    assert response.status_code == 400
    assert "'reason': no such field" in response.json()["detail"]


async def test_a_removal_keeps_what_was_said(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        answer = await _said(api, "hello")

        removed = await api.client.delete(f"/v1/sessions/{KEY}")
        shown = await api.client.get(f"/v1/sessions/{KEY}")
        said = (await api.client.get(f"/v1/sessions/{KEY}/transcript")).json()
        again = await api.client.delete(f"/v1/sessions/{KEY}")

        assert removed.json() == {"removed": True, "erased": False}
        assert shown.status_code == again.status_code == 404
        assert said["session_id"] == answer["session_id"]
        assert said["messages"][0]["text"] == "hello"
        undone = (await api.post(f"/v1/sessions/{KEY}/undo")).json()
        assert undone["session_id"] == answer["session_id"]


@pytest.mark.parametrize("removed_before", [False, True])
async def test_an_erasure_leaves_nothing_behind(tmp_path: Path, removed_before: bool) -> None:  # noqa: FBT001 - a column of the table
    async with running_api(tmp_path) as api:
        await _said(api, "a word nobody else says: xylograph")
        if removed_before:
            await api.client.delete(f"/v1/sessions/{KEY}")

        erased = await api.client.delete(f"/v1/sessions/{KEY}?erase=true")

        assert erased.json() == {"removed": not removed_before, "erased": True}
        said = await api.client.get(f"/v1/sessions/{KEY}/transcript")
        assert said.status_code == 404
        assert (await api.client.delete(f"/v1/sessions/{KEY}?erase=true")).status_code == 404
        files = [path for path in api.state.path.rglob("*") if path.is_file()]
        assert not [path for path in files if b"xylograph" in path.read_bytes()]


async def test_erase_is_true_or_false(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await _said(api, "hello")
        response = await api.client.delete(f"/v1/sessions/{KEY}?erase=yes")
        assert response.status_code == 400
        assert "true or false" in response.json()["detail"]
        assert len(api.state.store) == 1
