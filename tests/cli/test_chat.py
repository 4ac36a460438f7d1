"""`gateway chat`, and what asks back at a terminal."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import orjson
import pytest

from gateway.cli.chat import context_text, waiting
from gateway.cli.chat_lines import commands, completions
from tests.cli.processes import gateway, running_gateway, terminal
from tests.support.long_sessions import STARTED

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

KEY = "agent:main:http::dm:ann::"
SCRIPT = """
[agents.main]
kind = "scripted"
replies = [{lines}]

[turns]
grace_s = 0.1
"""
ASKING = f"""
[agents.main]
kind = "scripted"
replies = ['!call box_add {{"a": 1, "b": 2}} && box_add {{"a": 3, "b": 4}}', "done"]

[agents.main.tools]
allow = ["*"]
ask = ["box_add"]

[tools.servers.box]
{STARTED}
"""


@contextmanager
def running_with_tools(state: Path) -> Generator[None]:
    """Run a daemon whose server of tools has started; it is ready without one that is slow."""
    with running_gateway(state, config=ASKING):
        for _ in range(100):
            (server,) = gateway("status", "--json", "--state-dir", state).document["tools"]
            if server["state"] == "running":
                break
        yield


def test_one_message_is_answered_and_the_session_is_of_the_chat(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running_gateway(state):
        reply = gateway("chat", "--chat-id", "ann", "héllo\x1b[2J", "--state-dir", state)
        listed = gateway("sessions", "list", "--state-dir", state)

    assert (reply.status, reply.stdout, reply.stderr) == (0, "héllo\\x1b[2J\n", "")
    assert listed.stdout.splitlines()[1].startswith(f"{KEY}  ")


def test_piped_text_is_one_message(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running_gateway(state):
        reply = gateway("chat", "--json", "--state-dir", state, stdin=b"one\ntwo \xff\n")
        nothing = gateway("chat", "--state-dir", state, stdin=b" \n")

    assert reply.document["reply"] == "one\ntwo \ufffd"
    assert reply.document["status"] == "ok"
    assert nothing.status == 2
    assert "there is no text" in nothing.stderr


def test_a_text_and_piped_text_are_too_much(tmp_path: Path) -> None:
    reply = gateway("chat", "one", "--state-dir", tmp_path / "state", stdin=b"two\n")

    assert reply.status == 2
    assert "accepted is TEXT or piped input" in reply.stderr


def test_resets_and_pauses_are_told(tmp_path: Path) -> None:
    state = tmp_path / "state"
    say = ("chat", "--chat-id", "ann", "hello", "--state-dir", state)
    with running_gateway(state):
        gateway(*say)
        gateway("sessions", "remove", KEY, "--state-dir", state)
        returned = gateway(*say)
        gateway("sessions", "suspend", KEY, "--state-dir", state)
        while_paused = gateway(*say)

    assert returned.status == 0
    assert returned.stdout.endswith("hello\n")
    assert returned.stdout.count("/undo brings the earlier one back") == 1
    assert while_paused.status == 1
    assert while_paused.stdout.count("The operator can let it go on.") == 1
    assert returned.stderr == while_paused.stderr == ""


def test_a_failed_answer_ends_with_1_and_shows_what_the_user_reads(tmp_path: Path) -> None:
    config = SCRIPT.format(lines='"!fail Not today."')
    state = tmp_path / "state"
    with running_gateway(state, config=config):
        reply = gateway("chat", "hello", "--state-dir", state)

    assert reply.status == 1
    assert "Not today." in reply.stdout


def test_an_agent_that_is_not_there_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running_gateway(state):
        reply = gateway("chat", "--agent", "nobody", "hello", "--state-dir", state, "--json")

    assert reply.status == 1
    assert reply.stdout == ""
    assert reply.problem["status"] == 400


def test_chat_needs_a_daemon_and_says_how_to_start_one(tmp_path: Path) -> None:
    reply = gateway("chat", "hello", "--state-dir", tmp_path / "state")

    assert reply.status == 69
    assert "start it with: gateway run" in reply.stderr


def test_a_dialogue_goes_on_after_an_answer_is_no_longer_waited_for(tmp_path: Path) -> None:
    config = SCRIPT.format(lines='"!chunks Hel|lo", "!hang"')
    state = tmp_path / "state"
    with (
        running_gateway(state, config=config),
        terminal("chat", "--chat-id", "ann", "--state-dir", state) as screen,
    ):
        screen.wait_for("> ")
        screen.type("hi\n")
        screen.wait_for("Hello\n")
        screen.wait_for("> ")
        screen.interrupt()
        screen.wait_for("> ")
        screen.type("again\n")
        wait_until_busy(state)
        listed = gateway("sessions", "list", "--state-dir", state).stdout
        screen.interrupt()
        screen.wait_for("no longer waiting")
        screen.wait_for("> ")
        screen.type("\x04")
        assert screen.end() == 0
    assert listed.splitlines()[1].endswith("  busy")


@pytest.mark.parametrize("dialogue", [False, True], ids=["one-message", "dialogue"])
def test_a_yes_at_the_prompt_is_one_to_the_question_on_the_screen(
    tmp_path: Path, *, dialogue: bool
) -> None:
    state = tmp_path / "state"
    text = () if dialogue else ("add",)
    with (
        running_with_tools(state),
        terminal("chat", "--chat-id", "ann", *text, "--state-dir", state) as screen,
    ):
        if dialogue:
            screen.wait_for("> ")
            screen.type("add\n")
        asked = screen.wait_for("yes or no> ")
        assert 'with {"a": 1, "b": 2}' in asked
        number = asked.partition('Answer "yes ')[2][:4]
        screen.type(f"perhaps\nyes {9_999 - int(number)}\n")
        screen.wait_for("yes or no> ")
        screen.wait_for("yes or no> ")
        # The second yes is typed before there is anything that it could answer.
        screen.type("y\nyes\n")
        assert "box_add may be used (allowed by " in screen.wait_for('with {"a": 3, "b": 4}')
        second = screen.wait_for("yes or no> ").partition('Answer "yes ')[2][:4]
        screen.type("no\n")
        shown = screen.wait_for("done\n")
        assert "box_add was not used (refused by " in shown
        if dialogue:
            screen.wait_for("> ")
            screen.type("\x04")
        assert screen.end() == 0
        said = gateway("transcript", "show", KEY, "--state-dir", state, "--json").document

    results = [one["text"] for one in said["messages"] if one["role"] == "tool"]
    assert results[0] == "3"
    assert results[1].startswith("'box_add' was not run")
    assert number != second


def test_a_yes_with_the_number_is_taken_at_the_prompt_too(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with (
        running_with_tools(state),
        terminal("chat", "--chat-id", "ann", "add", "--state-dir", state) as screen,
    ):
        for _ in range(2):
            number = screen.wait_for("yes or no> ").partition('Answer "yes ')[2][:4]
            screen.type(f"Yes {number}\n")
            screen.wait_for("box_add may be used (allowed by ")
        screen.wait_for("done\n")
        assert screen.end() == 0


def test_a_table_at_a_terminal_is_ruled_and_folds_keys(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running_gateway(state):
        gateway("chat", "--chat-id", "a" * 60, "hello", "--state-dir", state)
        with terminal("sessions", "list", "--state-dir", state) as screen:
            shown = screen.wait_for("active")

    assert "─" in shown
    assert "…" not in shown


def test_erasing_asks_at_a_terminal(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running_gateway(state):
        gateway("chat", "--chat-id", "ann", "hello", "--state-dir", state)
        kept = _erase(state, "n")
        still_there = gateway("transcript", "show", KEY, "--state-dir", state)
        erased = _erase(state, "y")
        gone = gateway("transcript", "show", KEY, "--state-dir", state)

    assert kept == 1
    assert still_there.status == 0
    assert erased == 0
    assert gone.status == 1


def _erase(state: Path, answer: str) -> int:
    with terminal("sessions", "remove", KEY, "--erase", "--state-dir", state) as screen:
        screen.wait_for("[y/N]")
        screen.type(f"{answer}\n")
        return screen.end()


def wait_until_busy(state: Path) -> None:
    for _ in range(100):
        shown = gateway("sessions", "show", KEY, "--state-dir", state, "--json")
        # There is no such session before its first message has arrived.
        if shown.status == 0 and shown.document["busy"]:
            return
    raise AssertionError("no turn is running")


def test_tab_completes_commands(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with (
        running_gateway(state),
        terminal("chat", "--chat-id", "ann", "--state-dir", state) as screen,
    ):
        screen.wait_for("> ")
        screen.type("/und\t")
        screen.wait_for("/undo ")
        screen.type("\n")
        screen.wait_for("There is no")
        screen.wait_for("\n> ")
        # Several begin so: the second Tab lists them.
        screen.type("/st\t\t")
        listed = screen.wait_for("/stop")
        assert "/status" in listed
        screen.type("a\t\n")
        screen.wait_for("/status ")
        screen.wait_for("\n> ")
        # Nothing but a command is completed.
        screen.type("st\t!\n")
        assert "status" not in screen.wait_for("st!\n")
        screen.wait_for("> ")
        screen.type("\x04")
        assert screen.end() == 0


def test_lines_are_called_back_and_a_yes_is_not(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with (
        running_with_tools(state),
        terminal("chat", "--chat-id", "ann", "--state-dir", state) as screen,
    ):
        screen.wait_for("> ")
        screen.type("add\n")
        for _ in range(2):
            screen.wait_for("yes or no> ")
            screen.type("no\n")
        screen.wait_for("done\n")
        screen.wait_for("\n> ")
        # Ctrl-P, the line before.
        screen.type("\x10")
        assert screen.wait_for("add").endswith("add")
        screen.type("\x15\x04")
        assert screen.end() == 0


def test_the_context_in_use_is_told_after_answers_and_on_request(tmp_path: Path) -> None:
    config = SCRIPT.format(lines='"!usage 11800 5 200 0", "Hello", "Bye"')
    state = tmp_path / "state"
    with (
        running_gateway(state, config=config),
        terminal("chat", "--chat-id", "ann", "--state-dir", state) as screen,
    ):
        screen.wait_for("> ")
        screen.type("/context\n")
        screen.wait_for("known after the first answer")
        screen.wait_for("> ")
        screen.type("hi\n")
        screen.wait_for("Hello\ncontext: 12k/200k, counted\n")
        screen.wait_for("> ")
        screen.type("/context\n")
        screen.wait_for("context: 12k/200k, counted\n")
        screen.wait_for("> ")
        screen.type("bye\n")
        assert ", estimated\n" in screen.wait_for("estimated\n")
        screen.wait_for("> ")
        screen.type("\x04")
        assert screen.end() == 0
        one = gateway("chat", "--chat-id", "ann", "again", "--state-dir", state)

    # One message is answered with nothing but the answer.
    assert (one.stdout, one.stderr) == ("Hello\n", "")


@pytest.mark.parametrize(
    ("tokens", "text"),
    [(0, "0"), (999, "999"), (1_000, "1k"), (1_250, "1.2k"), (12_400, "12k"), (1_500_000, "1.5M")],
)
def test_a_size_is_told_at_a_glance(tokens: int, text: str) -> None:
    measured = {"tokens": tokens, "window_tokens": 200_000, "source": "usage"}

    assert context_text({"measured": measured}) == f"context: {text}/200k, counted"
    assert not context_text({"measured": {**measured, "source": "unknown"}})
    assert not context_text(None)


@pytest.mark.parametrize("processes", [False, True], ids=["without-processes", "with-processes"])
def test_tab_offers_what_can_be_typed(*, processes: bool) -> None:
    offered = completions("/", commands(processes=processes))

    assert {"/reset ", "/new ", "/context ", "/quit ", "/exit "} <= set(offered)
    assert ({"/bg ", "/ps "} <= set(offered)) == processes
    assert completions("/Re", commands(processes=processes)) == ["/reset ", "/resume "]


@pytest.mark.parametrize("enabled", ["false", "true"])
def test_tab_offers_processes_where_the_gateway_has_them(tmp_path: Path, enabled: str) -> None:
    state = tmp_path / "state"
    with (
        running_gateway(state, config=f"[processes]\nenabled = {enabled}\n"),
        terminal("chat", "--state-dir", state) as screen,
    ):
        screen.wait_for("> ")
        # What begins a command alone is completed; what begins none stays as it is.
        screen.type("/b\tX\n")
        screen.wait_for("/bg X" if enabled == "true" else "/bX")


@pytest.mark.parametrize("word", ["/quit", " /EXIT "])
def test_a_dialogue_can_be_left_with_a_word_and_help_says_so(tmp_path: Path, word: str) -> None:
    state = tmp_path / "state"
    with running_gateway(state), terminal("chat", "--state-dir", state) as screen:
        screen.wait_for("> ")
        screen.type("/help\n")
        told = screen.wait_for("Ctrl-D)\n")
        screen.wait_for("> ")
        screen.type(f"{word}\n")
        assert screen.end() == 0

    assert "tells the commands" in told
    assert "/context - " in told
    assert "/quit - ends the dialogue" in told


def test_that_no_gateway_runs_is_told_before_anything_is_typed(tmp_path: Path) -> None:
    with terminal("chat", "--state-dir", tmp_path / "state") as screen:
        shown = screen.rest()
        assert screen.end() == 69

    assert "start it with: gateway run" in shown
    assert "> " not in shown


@pytest.mark.parametrize("agents", [["main"], ["main", "spare"]])
def test_the_greeting_names_the_agent_where_it_is_sure(tmp_path: Path, agents: list[str]) -> None:
    state = tmp_path / "state"
    config = "".join(f"[agents.{one}]\nkind = 'echo'\n" for one in agents)
    with running_gateway(state, config=config):
        with terminal("chat", "--chat-id", "ann", "--state-dir", state) as screen:
            greeting = screen.wait_for("> ")
        with terminal("chat", "--agent", agents[-1], "--state-dir", state) as screen:
            named = screen.wait_for("> ")
        with terminal("chat", "--agent", "nope", "--state-dir", state) as screen:
            refused = screen.rest()
            assert screen.end() == 1

    assert greeting.startswith("chat ann with main: " if len(agents) == 1 else "chat ann: ")
    assert f" with {agents[-1]}: " in named
    assert f"No agent is called nope; there are: {', '.join(agents)}." in refused
    assert "> " not in refused


@pytest.mark.parametrize(("ahead", "text"), [(1, "1 message is"), (2, "2 messages are")])
def test_who_waits_is_told_how_long_in_good_english(ahead: int, text: str) -> None:
    assert waiting(ahead) == f"waiting: {text} answered first"


def test_what_becomes_of_a_turn_is_told_where_the_gateway_dies_in_it(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with (
        running_gateway(state, config=SCRIPT.format(lines='"!hang"')),
        terminal("chat", "--chat-id", "ann", "--state-dir", state) as screen,
    ):
        screen.wait_for("> ")
        screen.type("hi\n")
        wait_until_busy(state)
        os.kill(orjson.loads((state / "lock").read_bytes())["pid"], signal.SIGKILL)
        shown = screen.rest()
        assert screen.end() == 69

    told = " ".join(shown.split())
    assert "runs a turn that its end cut off once more, or tells that there is no answer" in told
