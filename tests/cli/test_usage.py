"""`gateway usage`, beside a daemon and on a directory that none runs on."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from gateway.model import ModelCall, SessionId, Usage
from gateway.transcripts import usage
from tests.cli.processes import gateway, running_gateway
from tests.support.state import START, import_file, open_state

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """
[agents.main]
kind = "scripted"
replies = ["!usage 900 50 4000 100", "first", "!usage 100 0 0 0", "second"]

[agents.free]
kind = "scripted"
replies = ["!usage 10 1 0 0", "third"]

[[routes]]
chat_id = "bob"
agent = "free"
"""
PRICE = """
[[context.cache]]
agent = "main"
input_usd_per_mtok = 10.0
output_usd_per_mtok = 100.0
"""
COLUMNS = "CALLS  INPUT TOKENS  CACHE READ  CACHE WRITTEN  OUTPUT TOKENS  ALL TOKENS  USD"


def used(state: Path) -> None:
    for chat in ("ann", "bob", "ann"):
        who = ("--chat-id", chat, "--user-id", chat)
        said = gateway("chat", *who, "hello", "--state-dir", state)
        assert said.status == 0, said.stderr


def test_sums_are_the_same_with_and_without_a_daemon(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running_gateway(state, config=CONFIG + PRICE):
        used(state)
        running = gateway("usage", "--by", "user", "--state-dir", state, "--json")
    stopped = gateway("usage", "--by", "user", "--state-dir", state, "--json")
    table = gateway("usage", "--by", "agent", "--state-dir", state)

    assert running.document == stopped.document
    rows = {row["name"]: row["total_tokens"] for row in running.document["rows"]}
    assert rows == {"http::user:ann": 5_150, "http::user:bob": 11}
    head, *lines = table.stdout.splitlines()
    assert head.split() == ["AGENT", *COLUMNS.split(), "UNPRICED", "CALLS"]
    assert [line.split() for line in lines] == [
        ["main", "2", "1000", "4000", "100", "50", "5150", "0.020250", "0"],
        ["free", "1", "10", "0", "0", "1", "11", "-", "1"],
        ["all", "3", "1010", "4000", "100", "51", "5161", "0.020250", "1"],
    ]
    assert "no price is known of 1 call, and USD is without them: " in table.stderr
    assert "[[context.cache]]" in table.stderr


async def counted(path: Path) -> Path:
    """Make a state directory in which two users have used something on two days."""
    async with open_state(path) as state:
        for day, (user, model) in enumerate((("ann", "m"), ("bob", "m\u202e\x1b[2J"))):
            call = ModelCall(model, START + timedelta(days=day), Usage(10 - day))
            await state.database.write(
                lambda tx, user=user, call=call: usage.count(  # type: ignore[misc]
                    tx, SessionId("s"), "main", user, [(call, None)]
                )
            )
    return path


async def test_days_that_are_asked_for_and_a_limit_are_kept_to(tmp_path: Path) -> None:
    state = await counted(tmp_path / "state")

    part = gateway("usage", "--by", "user", "--limit", "1", "--state-dir", state)
    since = gateway("usage", "--since", "2026-01-02", "--state-dir", state, "--json").document

    assert [line.split()[0] for line in part.stdout.splitlines()] == ["USER", "ann", "all"]
    assert "there are more than 1 (--limit); the last line has all of them" in part.stderr
    assert [row["name"] for row in since["rows"]] == ["2026-01-02"]
    assert (since["total"]["calls"], since["since"], since["until"]) == (1, "2026-01-02", None)


async def test_names_steer_no_terminal(tmp_path: Path) -> None:
    state = await counted(tmp_path / "state")

    text = gateway("usage", "--by", "model", "--state-dir", state).stdout
    document = gateway("usage", "--by", "model", "--state-dir", state, "--json").stdout

    assert "m\\u202e\\x1b[2J" in text
    assert not {"\u202e", "\x1b"} & {*text, *document}


def test_where_nothing_was_counted_that_is_said(tmp_path: Path) -> None:
    state = import_file(tmp_path / "state", {"version": 1, "sessions": {}})

    outcome = gateway("usage", "--state-dir", state)

    assert (outcome.status, outcome.stdout) == (0, "")
    assert outcome.stderr.endswith("nothing was counted\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(
            ("--by", "week"),
            "'--by': 'week' is unknown, accepted is day, agent, model or user.",
            id="by",
        ),
        pytest.param(("--since", "20260101"), "a day as YYYY-MM-DD", id="since"),
        pytest.param(("--until", "2026-13-01"), "a day as YYYY-MM-DD", id="until"),
        pytest.param(("--limit", "0"), "greater than or equal to 1", id="limit"),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_opened(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    outcome = gateway("usage", *arguments, "--state-dir", tmp_path / "no")

    assert outcome.status == 2
    assert said in " ".join(outcome.stderr.split())
    assert not (tmp_path / "no").exists()


def test_days_the_wrong_way_round_are_refused(tmp_path: Path) -> None:
    state = import_file(tmp_path / "state", {"version": 1, "sessions": {}})

    outcome = gateway(
        "usage", "--since", "2026-01-02", "--until", "2026-01-01", "--state-dir", state
    )

    assert outcome.status == 1
    assert "a day from since, 2026-01-02, on" in outcome.stderr


async def test_users_are_shown_as_their_platform_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "state"
    named = "matrix:work:user:~40anna-3~3Amatrix.test"
    async with open_state(path) as state:
        call = ModelCall("m", START, Usage(5))
        await state.database.write(
            lambda tx: usage.count(tx, SessionId("s"), "main", named, [(call, None)])
        )

    table = gateway("usage", "--by", "user", "--state-dir", path)
    document = gateway("usage", "--by", "user", "--state-dir", path, "--json").document

    assert "\nmatrix:work:user:@anna-3:matrix.test  " in table.stdout
    assert [row["name"] for row in document["rows"]] == [named]
