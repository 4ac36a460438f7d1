"""Laws of what others may see: modes of files, and what the log never holds."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from tests.agents.wire_server import error_answer, text_answer, wire_server
from tests.support.daemon import running_daemon

if TYPE_CHECKING:
    from pathlib import Path

KEY = "sk-canary-5e2f7b01"
ASKED = "canary-of-the-user-77aa"
ANSWERED = "canary-of-the-model-88bb"
PROMPT = "canary-of-the-prompt-99cc"


def _config(base_url: str, key_file: Path) -> str:
    return (
        '[log]\nlevel = "debug"\n'
        '[agents.main]\nkind = "openai"\nmodel = "wire"\nmax_retries = 0\n'
        f'base_url = "{base_url}"\napi_key = {{ file = "{key_file}" }}\n'
        f'system_prompt = "{PROMPT}"\n'
        '[agents.echo]\nkind = "echo"\n'
    )


async def test_a_model_behind_an_endpoint_answers_with_the_key_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    (tmp_path / "key").chmod(0o600)
    async with (
        wire_server(text_answer("Hello", " there", usage=(120, 20, 100))) as wire,
        running_daemon(tmp_path / "state", _config(wire.base_url, tmp_path / "key")) as daemon,
    ):
        first = await daemon.say("hello")
        second = await daemon.say("again")

        assert first["reply"] == second["reply"] == "Hello there"
        assert wire.requests[0].headers["authorization"] == f"Bearer {KEY}"
        assert [m["content"] for m in wire.requests[1].body["messages"]] == [
            PROMPT,
            "hello",
            "Hello there",
            "again",
        ]
        entry = await daemon.get(f"/v1/sessions/{first['session_key']}")
        assert (entry["input_tokens"], entry["cache_read_tokens"]) == (40, 200)
        assert (entry["context_tokens"], entry["context_source"]) == (120, "usage")
        assert entry["total_tokens"] == 280
        assert entry["model"] == "wire"


async def test_no_secret_and_no_message_is_ever_in_the_log(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "key").chmod(0o600)
    refused = error_answer(401, f"Incorrect API key provided: {KEY}; you wrote {ASKED}")
    broken = error_answer(500, f"cannot answer {ASKED} of {KEY}")
    cut = text_answer(ANSWERED).cut(200)
    async with (
        wire_server(text_answer(ANSWERED), refused, broken, cut) as wire,
        running_daemon(tmp_path / "state", _config(wire.base_url, tmp_path / "key")) as daemon,
    ):
        statuses = [(await daemon.say(f"{ASKED} {number}"))["status"] for number in range(4)]
        assert statuses == ["ok", "failed", "failed", "failed"]
        for body in (f'{{"text": "{ASKED}"', f'["{ASKED}"]', f'{{"chat_id": "x", "{ASKED}": 1}}'):
            headers = {"Content-Type": "application/json"}
            await daemon.client.post("/v1/messages", content=body, headers=headers)
        await daemon.client.get("/v1/status", headers={"Authorization": f"Bearer {ASKED}"})
        said = str(await daemon.said("agent:main:http::dm:alice::"))
        assert KEY not in said
        await daemon.terminate()

        output = daemon.log.raw.decode()
        assert len(daemon.log.of("turn.completed")) == 4
        token = (tmp_path / "state" / "token").read_text().strip()
        for canary in (KEY, ASKED, ANSWERED, PROMPT, token):
            assert canary not in output


async def test_everything_of_the_state_is_private_whatever_the_umask(tmp_path: Path) -> None:
    config = "[store]\nsnapshot_interval_s = 0.05\n"
    async with running_daemon(tmp_path / "state", config, umask=0) as daemon:
        for number in range(3):
            await daemon.say("hello", f"chat{number}")
            await daemon.log.wait_for("store.snapshot", count=number + 1)
        await daemon.post("/v1/prune", {})
        # It may be amid a snapshot, whose file would be gone before it is looked at.
        await daemon.kill()
        found = [tmp_path / "state", *(tmp_path / "state").rglob("*")]
        names = {path.name for path in found}
        assert {"lock", "token", "sessions.json", "gateway.db", "gateway.db-wal"} <= names
        for path in found:
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode == (0o700 if path.is_dir() else 0o600), path.name
