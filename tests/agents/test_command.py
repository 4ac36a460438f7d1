"""Laws of the agent that is a program: what it is given, and what becomes of its answer."""

from __future__ import annotations

import fcntl
import sys
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import orjson
import pytest

from gateway.agents.command import CommandAgent, command_of
from gateway.agents.command_wire import BROKEN_OFF, NO_ANSWER, TOO_MUCH
from gateway.agents.settings import CommandSettings
from gateway.clock import FakeClock
from gateway.errors import AgentError, AgentFailure
from gateway.model import Image, Message, Role, ToolCall, TurnId, Usage
from tests.support.command_programs.playing import (
    ECHO,
    GOOD,
    PATIENCE_S,
    Run,
    agent_of,
    answered,
    failed,
    python,
    run,
    user,
)

if TYPE_CHECKING:
    from pathlib import Path

CALL = "say('tool_call', id='{0}', name='look', arguments={{'at': '{0}'}});"
RESULT = "say('tool_result', id='{0}', text='saw {0}');"


def _example() -> CommandAgent:
    settings = CommandSettings(argv=[sys.executable, str(ECHO)], model="parrot")
    return CommandAgent(settings, command_of("a", settings), FakeClock())


async def test_the_example_program_answers() -> None:
    answer = await answered(_example(), user("one\ntwo ü🙂"))

    assert answer.text == "one\ntwo ü🙂"
    assert [(call.model, call.usage) for call in answer.calls] == [("parrot", None)]
    assert [message.turn_id for message in answer.messages] == ["t1"]


async def test_a_piece_comes_before_the_next_is_written(tmp_path: Path) -> None:
    code = """
say("text", text="")
say("text", text="one ")
while not os.path.exists("read"):
    time.sleep(0.001)
say("text", text="two")
say("done")
"""
    answer = Run()
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer.follow, agent_of(code, cwd=str(tmp_path)))
            await answer.begun.wait()
            (tmp_path / "read").touch()

    assert answer.deltas == ["one ", "two"]
    assert answer.text == "one two"


async def test_a_program_is_given_the_whole_conversation() -> None:
    said = [
        Message(Role.SYSTEM, "summary"),
        user("look"),
        Message(
            Role.ASSISTANT,
            "",
            (ToolCall("c1", "look", '{"at": 1}'), ToolCall("c2", "look", "not json")),
            turn_id=TurnId("t1"),
        ),
        Message(
            Role.TOOL,
            "saw",
            tool_call_id="c1",
            tool_name="look",
            images=(Image("image/png", "aGk="),),
        ),
        Message(Role.NOTICE, "never sent"),
        user("und ü🙂\n\"'"),
    ]
    code = "say('text', text=sys.stdin.read()); say('done')"
    line = (await answered(agent_of(code), *said)).text

    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert orjson.loads(line) == {
        "type": "turn",
        "version": 1,
        "session": "0123abcd",
        "messages": [
            {"role": "system", "text": "summary"},
            {"role": "user", "text": "look"},
            {
                "role": "assistant",
                "text": "",
                "tool_calls": [
                    {"id": "c1", "name": "look", "arguments": {"at": 1}},
                    {"id": "c2", "name": "look", "arguments": "not json"},
                ],
            },
            {
                "role": "tool",
                "text": "saw",
                "tool_call_id": "c1",
                "tool_name": "look",
                "images": [{"media_type": "image/png", "data": "aGk="}],
            },
            {"role": "user", "text": "und ü🙂\n\"'"},
        ],
    }


async def test_tools_that_the_program_ran_go_to_the_transcript() -> None:
    code = "say('text', text='Let me see. ');" + CALL.format("a") + RESULT.format("a")
    answer = await answered(agent_of(code + "say('text', text='It is a.'); say('done')"))

    asked, result, last = answer.messages
    assert (asked.text, asked.tool_calls) == (
        "Let me see. ",
        (ToolCall("a", "look", '{"at":"a"}'),),
    )
    assert (result.role, result.text) == (Role.TOOL, "saw a")
    assert (result.tool_call_id, result.tool_name) == ("a", "look")
    assert (last.text, last.tool_calls) == ("It is a.", ())
    assert answer.text == "Let me see. It is a."
    assert {message.turn_id for message in answer.messages} == {"t1"}


async def test_tools_that_ran_at_once_are_one_message_with_results_in_the_order_of_calls() -> None:
    lines = [CALL.format("a"), CALL.format("b"), RESULT.format("b"), CALL.format("c")]
    lines += ["say('text', text='meanwhile');", RESULT.format("a"), RESULT.format("c")]
    lines += [CALL.format("d"), RESULT.format("d"), "say('done')"]
    answer = await answered(agent_of("".join(lines)))

    shape = [
        (message.role, message.text, [call.call_id for call in message.tool_calls])
        for message in answer.messages
    ]
    assert shape == [
        (Role.ASSISTANT, "meanwhile", ["a", "b", "c"]),
        (Role.TOOL, "saw a", []),
        (Role.TOOL, "saw b", []),
        (Role.TOOL, "saw c", []),
        (Role.ASSISTANT, "", ["d"]),
        (Role.TOOL, "saw d", []),
    ]
    assert answer.text == "meanwhile"


async def test_each_usage_line_is_a_request_to_a_model() -> None:
    code = (
        "say('usage', input_tokens=10, output_tokens=2, cache_read_tokens=5,"
        " cache_write_tokens=3, model='big');"
        "say('usage', input_tokens=20, output_tokens=1); say('text', text='x'); say('done')"
    )
    first, second = (await answered(agent_of(code, model="mine"))).calls

    assert (first.model, first.usage, first.cache_counted) == ("big", Usage(10, 2, 5, 3), True)
    assert (second.model, second.usage, second.cache_counted) == ("mine", Usage(20, 1), False)


async def test_an_error_line_is_what_the_user_reads_and_the_log_does_not() -> None:
    code = "say('text', text='so far'); say('error', text='Out of\\0 ink.'); time.sleep(60)"
    result = await run(agent_of(code))

    assert result.deltas == ["so far"]
    assert result.error is not None
    assert result.error.user_text == "Out of ink."
    assert "ink" not in str(result.error)
    assert result.error.failure is AgentFailure.OTHER


PROTOCOL = {
    "bad json": ("print('{\"type\":')", "line 1 of its output is not JSON", BROKEN_OFF),
    "blank": ("print()", "line 1 of its output is not JSON", BROKEN_OFF),
    "a list": ("print('[]')", "line 1 of its output is not an object", BROKEN_OFF),
    "bad utf-8": (
        'say(\'text\', text=\'a\'); os.write(1, b\'{"type":"text","text":"\\xff"}\\n\')',
        "line 2 of its output is not UTF-8",
        BROKEN_OFF,
    ),
    "type": (
        "say('canary')",
        "line 1 of its output has no known type; accepted: text",
        BROKEN_OFF,
    ),
    "no type": ("print('{}')", "has no known type", BROKEN_OFF),
    "key": ("say('text', text='a', txt='canary')", "is wrong at text.txt: Extra", BROKEN_OFF),
    "missing": ("say('text')", "is wrong at text.text: Field required", BROKEN_OFF),
    "wrong": ("say('text', text=1)", "is wrong at text.text: Input should be", BROKEN_OFF),
    "name": (
        "say('tool_call', id='1', name='canary canary', arguments={})",
        "is wrong at tool_call.name: String should match",
        BROKEN_OFF,
    ),
    "negative": (
        "say('usage', input_tokens=-1, output_tokens=0)",
        "is wrong at usage.input_tokens: Input should be greater",
        BROKEN_OFF,
    ),
    "no result": (
        CALL.format("a") + "say('text', text='x'); say('done')",
        "its answer ended before the result of a tool",
        BROKEN_OFF,
    ),
    "no call": (RESULT.format("a"), "line 1 of its output is a result without a call", BROKEN_OFF),
    "twice": (
        CALL.format("a") + RESULT.format("a") + RESULT.format("a"),
        "line 3 of its output is a result without a call",
        BROKEN_OFF,
    ),
    "used id": (
        CALL.format("a") + RESULT.format("a") + CALL.format("a"),
        "line 3 of its output calls a tool by a used id",
        BROKEN_OFF,
    ),
    "no text": ("say('done')", "its answer has no text", NO_ANSWER),
    "no done": ("say('text', text='canary')", "exited with 0 before its answer was", BROKEN_OFF),
    "closed": (
        "os.close(1); time.sleep(0.05)",
        "exited with 0 before its answer was whole",
        BROKEN_OFF,
    ),
    "endless line": (
        "os.write(1, b'canary' * 20_000); time.sleep(60)",
        "a line is longer than 100000 bytes",
        TOO_MUCH,
    ),
    "flood": (
        "while True: say('text', text='canary' * 1000)",
        "its output is longer than 1000000 bytes",
        TOO_MUCH,
    ),
}


@pytest.mark.parametrize("name", PROTOCOL)
async def test_what_breaks_the_protocol_ends_the_answer_and_is_not_quoted(name: str) -> None:
    code, reason, user_text = PROTOCOL[name]
    agent = agent_of(code, max_line_bytes=100_000, max_output_bytes=1_000_000)
    error = await failed(agent)

    assert str(error).startswith("python")
    assert reason in str(error)
    assert "canary" not in repr(error)
    assert (error.user_text, error.failure) == (user_text, AgentFailure.OTHER)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("say('text', text='a'); sys.exit(3)", "exited with 3 before its answer was whole"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was ended by signal 11 before its answer"),
        ("raise ValueError('canary')", "exited with 1 before its answer was whole"),
        (
            "os.close(1)\ntime.sleep(0.02)\nsys.exit(7)",
            "exited with 7 before its answer was whole",
        ),
    ],
)
async def test_a_crash_is_an_outage(code: str, reason: str) -> None:
    error = await failed(agent_of(code))

    assert reason in str(error)
    assert "canary" not in repr(error)
    assert (error.user_text, error.failure) == (BROKEN_OFF, AgentFailure.OUTAGE)


@pytest.mark.parametrize("status", [0, 1])
async def test_what_follows_done_is_not_looked_at(status: int) -> None:
    code = f"say('text', text='a'); say('done'); print('garbage'); sys.exit({status})"

    assert (await answered(agent_of(code))).text == "a"


async def test_the_last_line_needs_no_end() -> None:
    code = "say('text', text='a'); sys.stdout.write('{\"type\": \"done\"}')"

    assert (await answered(agent_of(code))).text == "a"


async def test_a_character_may_be_cut_between_two_writes() -> None:
    code = """
for byte in '{"type":"text","text":"ü🙂"}\\n{"type":"done"}\\n'.encode():
    os.write(1, bytes([byte]))
    time.sleep(0.0005)
"""
    assert (await answered(agent_of(code))).text == "ü🙂"


async def test_calls_without_results_are_told_where_the_program_fails() -> None:
    code = CALL.format("a") + CALL.format("b") + RESULT.format("b") + "sys.exit(1)"
    result = await run(agent_of(code))

    asked, done = result.messages
    assert [call.call_id for call in asked.tool_calls] == ["a", "b"]
    assert (done.role, done.tool_call_id) == (Role.TOOL, "b")
    assert result.error is not None


async def test_a_program_may_read_nothing_of_what_it_is_given() -> None:
    code = "os.close(0); time.sleep(0.02);" + GOOD
    answer = await answered(agent_of(code), user("x" * 1_000_000))

    assert answer.text == "fine"


async def test_a_long_conversation_goes_in_while_the_answer_comes_out() -> None:
    said = [user("ü" * 1_000) for _ in range(5_000)]
    code = """
for _ in range(20):
    say("text", text="x" * 50_000)
    os.write(2, b"note\\n" * 20_000)
say("text", text=str(len(turn()["messages"])))
for _ in range(20):
    say("text", text="x" * 50_000)
say("done")
"""
    answer = await answered(agent_of(code), *said)

    assert answer.text == "x" * 1_000_000 + "5000" + "x" * 1_000_000


async def test_the_environment_is_what_the_table_says_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = tmp_path / "key"
    secret.write_text("s3cret value\n")
    monkeypatch.setenv("TZ", "Europe/Berlin")
    monkeypatch.setenv("LANG", "C.UTF-8")
    monkeypatch.setenv("GATEWAY_TOKEN", "canary")
    monkeypatch.delenv("USER", raising=False)
    table: dict[str, Any] = {
        "inherit_env": ["TZ", "LANG", "USER"],
        "env": {"LANG": "de_DE.UTF-8", "NOTE": "a b=c\n$HOME"},
        "secret_env": {"KEY": {"file": str(secret)}},
    }
    code = """
given = open("/proc/self/environ", encoding="utf-8").read().split("\\0")
say("text", text=json.dumps(sorted(filter(None, given))))
say("done")
"""
    answer = await answered(agent_of(code, **table))

    assert orjson.loads(answer.text) == [
        "KEY=s3cret value",
        "LANG=de_DE.UTF-8",
        "NOTE=a b=c\n$HOME",
        "TZ=Europe/Berlin",
    ]


async def test_by_default_a_program_is_given_a_few_harmless_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "canary")
    code = """
given = open("/proc/self/environ", encoding="utf-8").read().split("\\0")
say("text", text=" ".join(sorted(name.partition("=")[0] for name in filter(None, given))))
say("done")
"""
    names = (await answered(agent_of(code))).text.split()

    assert "PATH" in names
    assert set(names) <= {"PATH", "HOME", "LANG", "LC_ALL", "TZ", "USER", "LOGNAME"}


async def test_words_with_blanks_and_shell_characters_stay_as_they_are(tmp_path: Path) -> None:
    words = ["a b", "$HOME", "*", "; touch owned", "`id`", '"', "'", "", "ü\n", "--", "|cat"]
    code = "say('text', text=json.dumps(sys.argv[1:])); say('done')"
    settings = CommandSettings(argv=[*python(code), *words], cwd=tmp_path)
    agent = CommandAgent(settings, command_of("a", settings), FakeClock())

    assert orjson.loads((await answered(agent)).text) == words
    assert list(tmp_path.iterdir()) == []


async def test_a_program_runs_in_its_directory_and_holds_no_file_of_the_daemon(
    tmp_path: Path,
) -> None:
    code = """
found = sorted(os.listdir("/proc/self/fd"), key=int)
say("text", text=json.dumps([os.getcwd(), found, os.getsid(0) == os.getpid()]))
say("done")
"""
    with (tmp_path / "open").open("w") as held:
        fcntl.fcntl(held, fcntl.F_SETFD, 0)
        directory, found, leads = orjson.loads(
            (await answered(agent_of(code, cwd=str(tmp_path)))).text
        )

    assert directory == str(tmp_path)
    assert found == ["0", "1", "2", "3"]  # the last is the listing's own
    assert leads


async def test_a_program_that_is_gone_is_told_when_a_turn_needs_it(tmp_path: Path) -> None:
    program = tmp_path / "agent"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o700)
    settings = CommandSettings(argv=[str(program)])
    agent = CommandAgent(settings, command_of("a", settings), FakeClock())
    program.unlink()
    error = await failed(agent)

    assert str(error) == "agent: cannot be started (No such file or directory)"
    assert error.failure is AgentFailure.OUTAGE
    assert "operator" in error.user_text


async def test_a_program_answers_turns_alone() -> None:
    agent = agent_of(GOOD, model="mine", context_window_tokens=9_000, reserve_tokens=9)
    facts = agent.facts()

    assert (facts.model, facts.window_tokens, facts.reserve_tokens) == ("mine", 9_000, 9)
    assert (facts.overhead_chars, facts.cache_ttl_s, facts.completes) == (0, None, False)
    with pytest.raises(AgentError, match="answers turns alone"):
        await agent.complete([user("hi")])
    await agent.aclose()


async def test_a_program_runs_on_the_loop_of_the_daemon_as_well() -> None:
    async def work() -> tuple[Run, Run]:
        code = "say('text', text=str(len(sys.stdin.read()))); say('done')"
        said = user("x" * 1_000_000)
        bad = "say('text', text='x'); os.close(0); time.sleep(0.02); sys.exit(3)"
        return await run(agent_of(code), said), await run(agent_of(bad), said)

    def in_a_loop_of_its_own() -> tuple[Run, Run]:
        return anyio.run(work, backend_options={"use_uvloop": True})

    good, bad = await anyio.to_thread.run_sync(in_a_loop_of_its_own)

    assert int(good.text) > 1_000_000
    assert "exited with 3" in str(bad.error)
    assert bad.deltas == ["x"]
