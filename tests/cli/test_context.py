"""`gateway context show`, beside a daemon and on a directory that none runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.processes import gateway, running_gateway
from tests.support.state import import_file

if TYPE_CHECKING:
    from pathlib import Path

KEY = "agent:main:http::dm:ann::"
CONFIG = """
[agents.main]
kind = "echo"
context_window_tokens = 30_000

[context.pruning]
mode = "{mode}"
keep_last_assistants = 1
"""


def say(state: Path, *texts: str) -> None:
    for text in texts:
        assert gateway("chat", "--chat-id", "ann", text, "--state-dir", state).status == 0


def show(state: Path, *arguments: str | Path) -> Any:  # noqa: ANN401 - JSON
    outcome = gateway("context", "show", KEY, "--state-dir", state, *arguments, "--json")
    assert outcome.status == 0, outcome.stderr
    return outcome.document


def facts(stdout: str) -> dict[str, str]:
    """Return what stands below the messages, by name."""
    _, _, below = stdout.rpartition("\n\n")
    return {line[:15].strip(): line[15:] for line in below.splitlines()}


def imported(path: Path, agent: str = "main") -> Path:
    """Make a state directory with one session in which nothing was said here."""
    entry = {
        "session_key": KEY.replace("main", agent),
        "session_id": "s-ann",
        "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z",
        "source": {"platform": "http", "chat_id": "ann"},
    }
    return import_file(path, {"version": 1, "sessions": {entry["session_key"]: entry}})


def test_a_round_is_foretold_then_done_and_shown_the_same_with_and_without_a_daemon(
    tmp_path: Path,
) -> None:
    state, file = tmp_path / "state", tmp_path / "running.toml"
    with running_gateway(state, config=CONFIG.format(mode="always")):
        # What comes before the last result is too short for the round that comes amid its turn.
        say(state, "hello", "!tool 3000", "!tool 45000")
        table = gateway("context", "show", KEY, "--dry-run", "--state-dir", state)
        planned = show(state, "--dry-run")
        say(state, "after")
        running = show(state, "--text")
        told = gateway("context", "show", KEY, "--state-dir", state).stdout
        status = gateway("status", "--state-dir", state, "--json").document
        detail = gateway("sessions", "show", KEY, "--state-dir", state).stdout
    stopped = show(state, "--text", "--config", file)

    head, *_ = table.stdout.splitlines()
    assert head.split() == ["NO", "ROLE", "TOOL", "SAID", "SENT", "STATE", "WHY", "NEXT"]
    trimmed = [line for line in planned["messages"] if line["next_state"] == "trimmed"]
    assert [line["tool_name"] for line in trimmed] == ["echo_tool"]
    assert f"trimmed ({trimmed[0]['next_chars']})" in table.stdout
    foretold = facts(table.stdout)
    assert foretold["next round"].startswith("1 result trimmed, 0 cleared, ")
    assert foretold["next round"].endswith(
        "no price configured (prune: context.pruning.mode is always)"
    )

    sent = [line["sent_chars"] for line in running["messages"] if line["state"] == "trimmed"]
    assert sent == [line["next_chars"] for line in trimmed]
    # What time does to it apart, a look at a stopped gateway is a look at a running one.
    for one in (running, stopped):
        assert one["cache"].pop("age_s") >= 0
    assert stopped == running

    below = facts(told)
    assert below["agent"] == "main, model echo"
    assert below["window"].startswith("30000 tokens, ")
    assert below["left out"] == "no turns"
    assert below["cache"].startswith("warm until 2")
    assert below["last request"].endswith("by echo; cache: not counted")
    saved = running["account"]["saved_tokens"]
    assert below["pruned so far"] == (
        f"1 round, 1 result trimmed, 0 cleared, {saved} tokens saved, no price configured"
    )
    assert "next round" not in below
    assert (status["contexts"]["rounds"], status["contexts"]["trimmed"]) == (1, 1)
    assert ["context_account.saved_tokens", str(saved)] in map(str.split, detail.splitlines())


@pytest.mark.parametrize(("read_multiplier", "word"), [("0.1", "saved"), ("0.0", "lost")])
def test_money_is_told_as_saved_or_lost(tmp_path: Path, read_multiplier: str, word: str) -> None:
    state, file = tmp_path / "state", tmp_path / "running.toml"
    price = f"[[context.cache]]\ninput_usd_per_mtok = 3.0\nread_multiplier = {read_multiplier}\n"
    with running_gateway(state, config=CONFIG.format(mode="always") + price):
        # The first result leaves at a warm cache: what stands behind it is written anew.
        say(state, "!tool 60000", "bye")
    told = gateway("context", "show", KEY, "--state-dir", state, "--config", file).stdout

    usd = show(state, "--config", file)["account"]["saved_usd"]
    assert (usd > 0) is (word == "saved")
    assert facts(told)["pruned so far"].endswith(f" tokens saved, {abs(usd):.6f} USD {word}")


def test_text_is_shown_on_request_and_steers_no_terminal(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running_gateway(state, config=CONFIG.format(mode="cache-ttl")):
        say(state, "Ann\u202e\u001b[2J says\nhello", "!tool 20")
        without = gateway("context", "show", KEY, "--state-dir", state).stdout
        told = gateway("context", "show", KEY, "--text", "--state-dir", state).stdout
        document = gateway("context", "show", KEY, "--text", "--json", "--state-dir", state).stdout

    assert "Ann" not in without
    assert told.splitlines()[1].endswith("Ann\\u202e\\x1b[2J says hello")
    assert 'calls echo_tool {"chars": 20}' in told
    assert not {"\u202e", "\x1b"} & {*told, *document}


def test_a_session_without_a_turn_is_shown(tmp_path: Path) -> None:
    state = imported(tmp_path / "state")

    outcome = gateway("context", "show", KEY, "--dry-run", "--state-dir", state)

    assert outcome.status == 0
    assert outcome.stderr.endswith("nothing was said yet\n")
    below = facts(f"\n\n{outcome.stdout}")
    assert below["sent"] == "0 of 0 messages, 0 of 0 characters"
    assert below["window"] == "200000 tokens, 0.0% filled"
    assert below["measured"] == "not yet"
    assert below["cache"] == "cold: no request has succeeded yet"
    assert below["last request"] == "none"
    assert below["next round"].startswith("none (small): ")


def test_of_a_removed_agent_the_window_is_unknown(tmp_path: Path) -> None:
    state = imported(tmp_path / "state", "gone")

    outcome = gateway(
        "context", "show", KEY.replace("main", "gone"), "--dry-run", "--state-dir", state
    )

    below = facts(f"\n\n{outcome.stdout}")
    assert below["agent"] == "gone, not configured"
    assert below["window"] == "unknown: there is no such agent"
    assert below["next round"].startswith("none (unknown): no agent 'gone' is configured")


def test_an_unknown_session_is_refused(tmp_path: Path) -> None:
    state = imported(tmp_path / "state")

    unknown = gateway("context", "show", KEY.replace("ann", "bob"), "--state-dir", state)
    no_key = gateway("context", "show", "ann", "--state-dir", state)

    assert (unknown.status, no_key.status) == (1, 1)
    assert unknown.stderr.endswith("gateway: Not found: There is no session with this key.\n")
    assert "not a session key" in no_key.stderr
    assert unknown.stdout == no_key.stdout == ""
