"""`gateway context compact`, beside a daemon and on a directory that none runs on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import httpx2

from tests.cli.processes import gateway, running_gateway

if TYPE_CHECKING:
    from pathlib import Path

KEY = "agent:main:http::dm:ann::"
SUMMARY = "Ann said a and b. \\u001b[2J"
CONFIG = f"""
[agents.main]
kind = "scripted"
replies = ["one", "two", "three", "four", "five", "{SUMMARY}", "six"]

[context.compaction]
keep_turns = 2
"""
LONG = 1_200


def say(url: str, state: Path, *letters: str) -> None:
    headers = {"Authorization": f"Bearer {(state / 'token').read_text().strip()}"}
    with httpx2.Client(base_url=url, headers=headers, timeout=30) as client:
        for letter in letters:
            body = {"chat_id": "ann", "text": letter * LONG}
            assert client.post("/v1/messages", json=body).status_code == 200


def show(state: Path) -> Any:  # noqa: ANN401 - JSON
    return gateway("context", "show", KEY, "--state-dir", state, "--json").document


def test_what_was_done_is_printed_and_the_summary_with_it(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running_gateway(state, config=CONFIG) as url:
        say(url, state, *"abcde")
        done = gateway("context", "compact", KEY, "--state-dir", state)
        shown = show(state)
        told = gateway("context", "show", KEY, "--state-dir", state)
        say(url, state, "f")
        later = gateway("context", "show", KEY, "--state-dir", state)
        transcript = gateway("transcript", "show", KEY, "--state-dir", state).stdout

    assert (done.status, done.stderr) == (0, "")
    facts, _, text = done.stdout.partition("\n\n")
    lines = dict(re.split(r" {2,}", line, maxsplit=1) for line in facts.splitlines())
    assert lines["summarised"] == "the 3 oldest turns"
    assert lines["by"] == "main (scripted)"
    assert lines["size before"].endswith(" tokens, estimated")
    # Numbers stand as `context show` has them, without commas, so that they are found again.
    before, after = (int(lines[f"size {when}"].split()[0]) for when in ("before", "after"))
    assert before > 1_000 > after > 0
    # A summary steers no terminal.
    assert text == "Ann said a and b. \\x1b[2J\n"
    assert (shown["size"]["summarised_turns"], shown["size"]["left_out_turns"]) == (3, 0)
    assert re.search(
        r"^left out +the 3 oldest turns summarised, none left out$", told.stdout, re.MULTILINE
    )
    since = "old turns were summarised since the last request"
    assert re.search(rf"^cache +cold: {since}$", told.stdout, re.MULTILINE)
    assert re.search(
        "^last request +none since old turns were summarised$", told.stdout, re.MULTILINE
    )
    assert re.search("^last request +.* by scripted; cache: ", later.stdout, re.MULTILINE)
    assert (told.stderr, later.stderr) == ("", "")
    assert [line["state"] for line in shown["messages"]] == [
        "summary",
        *["left_out"] * 6,
        *["kept"] * 4,
    ]
    for letter in "abcdef":
        assert letter * LONG in transcript


def test_json_has_all_of_it_and_nothing_done_is_a_failure(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running_gateway(state, config=CONFIG) as url:
        say(url, state, *"ab")
        little = gateway("context", "compact", KEY, "--state-dir", state)
        as_json = gateway("context", "compact", KEY, "--state-dir", state, "--json")
        say(url, state, *"cde")
        done = gateway("context", "compact", KEY, "--state-dir", state, "--json")

    told = "nothing was changed: there are no turns that may be summarised"
    assert (little.status, little.stdout) == (1, "")
    assert told in little.stderr
    assert (as_json.status, as_json.document["compacted"]) == (1, False)
    assert as_json.document["why_not"] in told
    assert done.status == 0
    assert done.document["summary"]["turns"] == 3
    assert done.document["summary"]["text"].startswith("Ann said a and b.")


def test_what_cannot_be_done_is_refused_in_words_and_so_it_is_without_a_daemon(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    with running_gateway(state, config='[agents.main]\nkind = "echo"\n') as url:
        say(url, state, "a")
        unknown = gateway("context", "compact", KEY.replace("ann", "bob"), "--state-dir", state)
        no_key = gateway("context", "compact", "ann", "--state-dir", state)
        cannot = gateway("context", "compact", KEY, "--state-dir", state)

    assert [one.status for one in (unknown, no_key, cannot)] == [1, 1, 1]
    assert "There is no such session." in unknown.stderr
    assert "not a session key" in no_key.stderr
    assert "The agent main cannot summarise." in cannot.stderr
    assert unknown.stdout == no_key.stdout == cannot.stdout == ""

    # Nobody could be asked for a summary.
    stopped = gateway("context", "compact", KEY, "--state-dir", state)
    assert (stopped.status, stopped.stdout) == (69, "")
    assert "no gateway is running with the state directory" in stopped.stderr
    assert "gateway run" in stopped.stderr
