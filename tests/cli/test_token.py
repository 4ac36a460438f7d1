"""`gateway token`, beside a daemon and on a directory that none runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import openai
import pytest

from gateway.clock import SystemClock
from tests.cli.processes import gateway, running_gateway
from tests.support.state import open_state

if TYPE_CHECKING:
    from pathlib import Path


def prepared(state_dir: Path) -> Path:
    """Make a state directory that was used."""

    async def run() -> None:
        async with open_state(state_dir, SystemClock()):
            pass

    anyio.run(run)
    return state_dir


def test_tokens_are_made_listed_and_revoked_without_a_daemon(tmp_path: Path) -> None:
    state = prepared(tmp_path / "state")

    nobody = gateway("token", "list", "--state-dir", state)
    made = gateway("token", "create", "alice", "--state-dir", state)
    other = gateway("token", "create", "bob", "--state-dir", state, "--json").document
    revoked = gateway("token", "revoke", "alice", "--state-dir", state)
    twice = gateway("token", "revoke", "alice", "--state-dir", state)
    taken = gateway("token", "create", "alice", "--state-dir", state)
    again = gateway("token", "create", "alice", "--again", "--state-dir", state)
    never = gateway("token", "create", "nobody", "--again", "--state-dir", state)
    listed = gateway("token", "list", "--state-dir", state)
    document = gateway("token", "list", "--state-dir", state, "--json").document

    assert nobody.stderr.endswith("there are no tokens\n")
    assert made.stdout.startswith("sgw_")
    assert made.stdout.count("\n") == 1
    assert "shown this once" in made.stderr
    assert other["name"] == "bob"
    assert revoked.stdout == "revoked alice\n"
    assert (twice.status, taken.status, again.status) == (1, 1, 0)
    assert "would find its sessions" in taken.stderr
    assert "say that it may: --again" in taken.stderr
    assert (never.status, never.stdout) == (1, "")
    assert "No token ever had this name" in never.stderr
    head, *rows = listed.stdout.splitlines()
    assert head.split() == ["NAME", "CREATED", "LAST", "USED", "(HOUR)", "REVOKED"]
    assert [row.split()[0] for row in rows] == ["bob", "alice"]
    assert [one["name"] for one in document["tokens"]] == ["bob", "alice"]
    for outcome in (listed, again, taken):
        assert made.stdout.strip() not in outcome.stdout + outcome.stderr


def test_a_token_opens_the_daemon_until_it_is_revoked(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running_gateway(state) as url:
        token = gateway("token", "create", "alice", "--state-dir", state).stdout.strip()
        with openai.OpenAI(
            api_key=token,
            base_url=f"{url}/v1",
            max_retries=0,
            http_client=openai.DefaultHttpxClient(trust_env=False),
        ) as client:
            models = [model.id for model in client.models.list()]
            answer = client.chat.completions.create(
                model=models[0], messages=[{"role": "user", "content": "hello"}], user="bob"
            )
            gateway("token", "revoke", "alice", "--state-dir", state)
            with pytest.raises(openai.AuthenticationError):
                client.models.list()
        (row,) = gateway("token", "list", "--state-dir", state, "--json").document["tokens"]
        listed = gateway("token", "list", "--state-dir", state).stdout

    _, line = listed.splitlines()
    created, used = line.split()[1:4], line.split()[4:7]
    assert created <= used
    assert answer.choices[0].message.content == "hello"
    assert row["last_used_at"]
    assert row["revoked_at"]
