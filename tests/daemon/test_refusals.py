"""Laws of a daemon that must not start: it says why and where, and touches nothing."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import run_to_end, running_daemon
from tests.support.state import entry, import_file, open_state

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_second_daemon_on_the_same_directory_is_told_who_holds_it(tmp_path: Path) -> None:
    async with running_daemon(tmp_path / "state") as daemon:
        ended = await run_to_end(tmp_path / "state")

        assert ended.code == 75
        assert f"pid {daemon.process.pid}" in ended.log[-1]["error"]
        assert (await daemon.say("still here"))["reply"] == "still here"


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = await run_to_end(tmp_path / "state", port=port)

    assert ended.code == 69
    assert f"127.0.0.1:{port}" in ended.log[-1]["error"]
    assert "--port" in ended.log[-1]["error"]


async def test_a_bad_configuration_is_told_whole_with_file_and_line(tmp_path: Path) -> None:
    config = '[turns]\ngrace = 3\nmax_running = "many"\n[agents.main]\nkind = "echo"\n'

    ended = await run_to_end(tmp_path / "state", config)

    assert ended.code == 78
    told = ended.output.decode()
    assert "state.toml:2" in told
    assert "grace_s" in told
    assert "state.toml:3" in told
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("secret", ["", "changeme", "undefined"])
async def test_a_secret_that_is_none_is_refused_before_anything_is_made(
    tmp_path: Path, secret: str
) -> None:
    (tmp_path / "key").write_text(secret)
    config = (
        '[agents.main]\nkind = "openai"\nmodel = "m"\nbase_url = "http://127.0.0.1:1/v1"\n'
        f'api_key = {{ file = "{tmp_path / "key"}" }}\n'
    )

    ended = await run_to_end(tmp_path / "state", config)

    assert ended.code == 78
    assert "agents.main.api_key" in ended.output.decode()
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
async def test_a_state_directory_that_is_open_to_others_is_refused(
    tmp_path: Path, mode: int
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(mode)

    ended = await run_to_end(tmp_path / "state")

    assert ended.code == 78
    assert f"{mode:04o}" in ended.log[-1]["error"]
    assert "0700" in ended.log[-1]["error"]


@pytest.mark.parametrize("content", [b"", b"\0" * 512, b"not JSON", b"[]", b'{"version":1}'])
async def test_a_sessions_file_that_cannot_be_read_is_never_taken_for_an_empty_one(
    tmp_path: Path, content: bytes
) -> None:
    import_file(tmp_path / "state", content)

    ended = await run_to_end(tmp_path / "state")

    assert ended.code == 65
    assert "sessions.json" in ended.log[-1]["error"]
    assert (tmp_path / "state" / "sessions.json").read_bytes() == content


async def test_a_missing_sessions_file_beside_a_used_database_is_not_an_empty_store(
    tmp_path: Path,
) -> None:
    async with open_state(tmp_path / "state") as state:
        await state.store.create(entry("alice"))
    (tmp_path / "state" / "sessions.json").unlink()

    ended = await run_to_end(tmp_path / "state")

    assert ended.code == 65
    assert not (tmp_path / "state" / "sessions.json").exists()


async def test_a_database_that_is_none_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    database = tmp_path / "state" / "gateway.db"
    database.write_bytes(b"this is no database" * 100)
    database.chmod(0o600)

    ended = await run_to_end(tmp_path / "state")

    assert ended.code == 65
    assert "gateway.db" in ended.log[-1]["error"]
    assert database.read_bytes() == b"this is no database" * 100


@pytest.mark.parametrize("content", ["short\n", "", "\xff"])
async def test_a_token_file_that_holds_no_token_is_refused_with_the_remedy(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "token").write_bytes(content.encode("latin-1"))
    (tmp_path / "state" / "token").chmod(0o600)

    ended = await run_to_end(tmp_path / "state")

    assert ended.code == 78
    assert str(tmp_path / "state" / "token") in ended.log[-1]["problems"][0]
    assert (tmp_path / "state" / "token").read_bytes() == content.encode("latin-1")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o601])
async def test_a_token_file_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    token = tmp_path / "state" / "token"
    token.write_text("a-token-made-for-the-tests\n")
    token.chmod(mode)

    ended = await run_to_end(tmp_path / "state")

    assert ended.code == 78
    assert ended.log[-1]["error"] == f"{token}: mode {mode:04o}, accepted is a file, mode 0600"
    assert token.stat().st_mode & 0o777 == mode


async def test_a_token_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "elsewhere").write_text("a-token-made-for-the-tests\n")
    (tmp_path / "elsewhere").chmod(0o600)
    token = tmp_path / "state" / "token"
    token.symlink_to(tmp_path / "elsewhere")

    ended = await run_to_end(tmp_path / "state")

    assert ended.code == 78
    assert ended.log[-1]["error"] == f"{token}: a link, accepted is a file, mode 0600"


async def test_a_token_of_ones_own_that_is_short_or_open_to_everyone_is_refused_at_start(
    tmp_path: Path,
) -> None:
    (tmp_path / "secret").write_text("a-canary")
    (tmp_path / "secret").chmod(0o644)

    ended = await run_to_end(
        tmp_path / "state", f'[http]\ntoken = {{ file = "{tmp_path / "secret"}" }}\n'
    )

    assert ended.code == 78
    opened, short = ended.log[-1]["problems"]
    assert "http.token" in opened
    assert "0644" in opened
    assert "http.token: is too short" in short
    assert b"a-canary" not in ended.output
    assert not (tmp_path / "state").exists()


async def test_the_token_that_was_made_is_no_other_secret(tmp_path: Path) -> None:
    """It opens the whole API: what a platform sends along must not."""
    state = tmp_path / "state"
    async with running_daemon(state):
        pass
    copy = tmp_path / "secret"
    copy.write_text((state / "token").read_text())
    copy.chmod(0o600)
    config = (
        '[channels.bot]\nkind = "telegram"\ntoken = { file = "%s" }\n'
        '[channels.bot.webhook]\nurl = "https://c.example.org/hooks/bot"\n'
        'secret = { file = "%s" }\n'
    )
    bot = tmp_path / "bot"
    bot.write_text("123456:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
    bot.chmod(0o600)
    ended = await run_to_end(state, config % (bot, copy))

    assert ended.code == 78
    assert b"channels.bot.webhook.secret: is the same secret as the token" in ended.output
