"""Every problem is told at once, in one line that leads to it and says what is accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.config import load
from gateway.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


ACCEPTED_NAME = "a name of 1 to 64 characters a-z 0-9 _ . - that begins with a-z or 0-9"
ACCEPTED_SECRET = (
    "a table { file = ... }, { env = ... } or { credential = ... }, never the secret itself"
)
TOP_LEVEL = (
    "state_dir, session_store_max_age_days, session_store_max_entries, default_agent, store, "
    "sessions, turns, context, pruning, budgets, access, channels, delivery, webhooks, http, log, "
    "tools, processes, agents, routes"
)
HOLDER = "what holds this key is no table, accepted is one"
NEEDS = (
    "accepted only with behind_tls = true, a token of your own and allowed_hosts "
    "(missing: behind_tls = true, a token of your own, allowed_hosts)"
)


def problems_of(
    path: Path, environ: dict[str, str] | None = None, overrides: dict[str, object] | None = None
) -> list[str]:
    """Return the problems, the directory of the file left out."""
    with pytest.raises(ConfigurationError) as caught:
        load(path, environ or {}, overrides or {})
    return [problem.replace(f"{path.parent}/", "") for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(
            "[http]\nprot = 1",
            "g.toml:2: http.prot: unknown key, did you mean port?",
            id="misspelt-key",
        ),
        pytest.param(
            "zebra = 1", f"g.toml:1: zebra: unknown key, accepted here: {TOP_LEVEL}", id="alien-key"
        ),
        pytest.param(
            "port = 1",
            "g.toml:1: port: unknown key, did you mean the key port of the table [http]?",
            id="key-of-a-table-at-the-top",
        ),
        pytest.param(
            "[http]\ndefault_agent = 'a'",
            "g.toml:2: http.default_agent: unknown key, "
            "did you mean the key default_agent above the first table?",
            id="key-of-the-top-in-a-table",
        ),
        pytest.param(
            "[htpp]\nport = 1",
            "g.toml:1: htpp: unknown key, did you mean http?",
            id="misspelt-table",
        ),
        pytest.param(
            "[http]\nport = '80'",
            'g.toml:2: http.port: "80" is a string, accepted is a whole number from 0 to 65535',
            id="string-for-an-integer",
        ),
        pytest.param(
            "[http]\nport = 80.5",
            "g.toml:2: http.port: 80.5 is a number, accepted is a whole number from 0 to 65535",
            id="fraction-for-an-integer",
        ),
        pytest.param(
            "[http]\nport = true",
            "g.toml:2: http.port: true is a truth value, "
            "accepted is a whole number from 0 to 65535",
            id="boolean-for-an-integer",
        ),
        pytest.param(
            "[http]\nport = 70000",
            "g.toml:2: http.port: 70000 is out of range, "
            "accepted is a whole number from 0 to 65535",
            id="integer-out-of-range",
        ),
        pytest.param(
            "[turns]\ngrace_s = 0",
            "g.toml:2: turns.grace_s: 0 is out of range, accepted is a number above 0, at most 600",
            id="number-out-of-range",
        ),
        pytest.param(
            "[turns]\ngrace_s = nan",
            "g.toml:2: turns.grace_s: nan is out of range, "
            "accepted is a number above 0, at most 600",
            id="not-a-number",
        ),
        pytest.param(
            "[http]\nbehind_tls = 'yes'",
            'g.toml:2: http.behind_tls: "yes" is a string, accepted is true or false',
            id="string-for-a-boolean",
        ),
        pytest.param(
            "[http]\nbehind_tls = 1",
            "g.toml:2: http.behind_tls: 1 is a whole number, accepted is true or false",
            id="integer-for-a-boolean",
        ),
        pytest.param(
            "state_dir = 5",
            "g.toml:1: state_dir: 5 is a whole number, accepted is a path",
            id="integer-for-a-path",
        ),
        pytest.param(
            "state_dir = ''",
            "g.toml:1: state_dir: is no path, "
            "accepted is a path with at least one character and no NUL",
            id="empty-path",
        ),
        pytest.param(
            "[http]\nallowed_hosts = 'a'",
            'g.toml:2: http.allowed_hosts: "a" is a string, accepted is a list of strings',
            id="string-for-a-list",
        ),
        pytest.param(
            "[http]\nallowed_hosts = [\n 'a',\n 1 ]",
            "g.toml:2: http.allowed_hosts[1]: 1 is a whole number, accepted is a string",
            id="wrong-item-of-a-list",
        ),
        pytest.param(
            "http = 1",
            "g.toml:1: http: 1 is a whole number, accepted is a table",
            id="number-for-a-table",
        ),
        pytest.param(
            "[http]\nhost = 2026-01-01",
            "g.toml:2: http.host: is a date or time, accepted is a string",
            id="date-for-a-string",
        ),
        pytest.param(
            "[log]\nlevel = 'trace'",
            'g.toml:2: log.level: "trace" is unknown, accepted is debug, info, warning or error',
            id="unknown-choice",
        ),
        pytest.param(
            "[sessions.reset]\nmode = 'idel'",
            'g.toml:2: sessions.reset.mode: "idel" is unknown, '
            "accepted is none, idle, daily, both or all",
            id="unknown-mode",
        ),
        pytest.param(
            "[sessions.reset]\ntimezone = 'Mars'",
            "g.toml:2: sessions.reset.timezone: 'Mars' is unknown, "
            "accepted is an IANA time zone such as UTC or Europe/Berlin",
            id="unknown-time-zone",
        ),
        pytest.param(
            "[sessions.reset.by_chat_type]\nroom = { mode = 'idle' }",
            "g.toml:2: sessions.reset.by_chat_type.room: is not a name for this, "
            "accepted is dm, group, channel or thread",
            id="unknown-chat-type",
        ),
        pytest.param(
            "[agents.main]\nkind = 'opnai'",
            'g.toml:2: agents.main.kind: "opnai" is unknown, '
            "accepted is anthropic, command, echo, openai or scripted",
            id="unknown-kind",
        ),
        pytest.param(
            "[agents.main]",
            "g.toml:1: agents.main.kind: is missing, "
            "accepted is anthropic, command, echo, openai or scripted",
            id="missing-kind",
        ),
        pytest.param(
            "[agents]\nmain = 1",
            "g.toml:2: agents.main: 1 is a whole number, "
            "accepted is a table with kind = anthropic, command, echo, openai or scripted",
            id="agent-that-is-no-table",
        ),
        pytest.param(
            "[agents.main]\nkind = 'openai'\napi_key = { env = 'K' }",
            "g.toml:1: agents.main.model: is missing, accepted is a string of 1 to 256 characters",
            id="missing-key",
        ),
        pytest.param(
            "[agents.main]\nkind = 'echo'\n\n[agents.'Ma in']\nkind = 'echo'",
            f'g.toml:4: agents."Ma in": is not a name for this, accepted is {ACCEPTED_NAME}',
            id="unusable-agent-name",
        ),
        pytest.param(
            "default_agent = 'Main'",
            f'g.toml:1: default_agent: "Main" cannot be used, accepted is {ACCEPTED_NAME}',
            id="unusable-name-of-the-default-agent",
        ),
        pytest.param(
            "default_agent = 'nobody'",
            "g.toml:1: default_agent: there is no table [agents.nobody], accepted is one of: main",
            id="default-agent-that-is-not-there",
        ),
        pytest.param(
            "\n[agents.a]\nkind = 'echo'\n",
            "g.toml:1: default_agent: there is no table [agents.main], accepted is one of: a",
            id="default-agent-left-out",
        ),
        pytest.param(
            "[[routes]]\nplatform = 'x'\nagent = 'main'\n[[routes]]\nchat_id = '1'\nagent = 'b'",
            "g.toml:6: routes[1].agent: there is no table [agents.b], accepted is one of: main",
            id="route-to-an-agent-that-is-not-there",
        ),
        pytest.param(
            "[agents.main]\nkind = 'echo'\nfallback = ['b']\n[agents.c]\nkind = 'echo'",
            "g.toml:3: agents.main.fallback[0]: there is no table [agents.b], "
            "accepted is one of: c",
            id="fallback-that-is-not-there",
        ),
        pytest.param(
            "[agents.main]\nkind = 'echo'\nfallback = ['c', 'main']\n[agents.c]\nkind = 'echo'",
            "g.toml:3: agents.main.fallback[1]: names itself, accepted is one of: c",
            id="fallback-to-itself",
        ),
        pytest.param(
            "[agents.main]\nkind = 'echo'\nfallback = ['main']",
            "g.toml:3: agents.main.fallback[0]: names itself, "
            "accepted is an agent with a table, and there is no other",
            id="fallback-to-itself-alone",
        ),
        pytest.param(
            "[context.pruning.tools]\nallow = 'a'",
            'g.toml:2: context.pruning.tools.allow: "a" is a string, '
            "accepted is a list of strings of at least 1 character",
            id="string-for-a-list-of-patterns",
        ),
        pytest.param(
            "[context.pruning.tools]\ndeny = ['']",
            'g.toml:2: context.pruning.tools.deny[0]: "" cannot be used, '
            "accepted is a string of at least 1 character",
            id="empty-pattern",
        ),
        pytest.param(
            "[agents.main]\nkind = 'command'\nargv = 'a'",
            'g.toml:3: agents.main.argv: "a" is a string, '
            "accepted is a list of NUL-free strings, at least 1",
            id="string-for-a-list-of-arguments",
        ),
        pytest.param(
            "[[routes]]\nagent = 'main'",
            "g.toml:1: routes[0]: would match every message, accepted is at least one of "
            "platform, account, chat_type, chat_id, user_id (the agent of all other messages is "
            "default_agent)",
            id="route-that-matches-everything",
        ),
        pytest.param(
            "[http]\nhost = '0.0.0.0'",
            f"g.toml:2: http.host: 0.0.0.0 is not a loopback address, {NEEDS}",
            id="open-to-the-network",
        ),
        pytest.param(
            "[http]\nhost = '0.0.0.0'\nbehind_tls = true\nallowed_hosts = ['a.example']",
            "g.toml:2: http.host: 0.0.0.0 is not a loopback address, accepted only with "
            "behind_tls = true, a token of your own and allowed_hosts "
            "(missing: a token of your own)",
            id="open-to-the-network-without-a-token",
        ),
        pytest.param(
            "[http]\nhost = '127.0.0.256'",
            "g.toml:2: http.host: '127.0.0.256' is no address, "
            "accepted is an IP address, localhost or a host name",
            id="no-address",
        ),
        pytest.param(
            "[http]\ntoken = { file = 'a', env = 'B' }",
            "g.toml:2: http.token: give exactly one of file, env, credential",
            id="secret-from-two-places",
        ),
        pytest.param(
            "a = 1\na = 2\n",
            "g.toml:2: is not valid TOML at column 6: Cannot overwrite a value",
            id="key-twice",
        ),
        pytest.param(
            "\n\nport = \n",
            "g.toml:3: is not valid TOML at column 8: Invalid value",
            id="no-value",
        ),
        pytest.param(
            "a = 1\n[http",
            "g.toml:2: is not valid TOML at the end of the file: "
            "Expected ']' at the end of a table declaration",
            id="cut-short",
        ),
        pytest.param(
            "a = " + "[" * 100_000,
            "g.toml: nests too deeply, accepted are a few levels",
            id="nests-deeply",
        ),
        pytest.param(
            "a = " + "9" * 5_000,
            "g.toml: holds a number that is too long, accepted are at most 4300 digits",
            id="endless-number",
        ),
        pytest.param(
            "#" * 1_048_577,
            "g.toml: is too large, accepted are at most 1048576 bytes",
            id="too-large",
        ),
        pytest.param(
            "'a\u202eb' = 1",
            f'g.toml:1: "a\\u202eb": unknown key, accepted here: {TOP_LEVEL}',
            id="key-that-would-turn-the-line-round",
        ),
    ],
)
def test_a_file_with_a_problem_gets_this_line(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "g.toml"
    path.write_text(text)

    assert problems_of(path) == [problem]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(
            b"a = 1\nb = '\xff'",
            "g.toml:2: is not valid UTF-8, accepted is TOML in UTF-8",
            id="utf",
        ),
        pytest.param(
            "a = 1".encode("utf-16"),
            "g.toml:1: is not valid UTF-8, accepted is TOML in UTF-8",
            id="utf-16",
        ),
        pytest.param(
            b"\xef\xbb\xbf[http]",
            "g.toml:1: begins with a byte order mark, accepted is UTF-8 without one",
            id="byte-order-mark",
        ),
    ],
)
def test_a_file_that_is_no_text_gets_this_line(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "g.toml"
    path.write_bytes(content)

    assert problems_of(path) == [problem]


def test_a_file_that_cannot_be_read_gets_its_line(tmp_path: Path) -> None:
    (tmp_path / "g.toml").mkdir()

    assert problems_of(tmp_path / "g.toml") == [
        "g.toml: is not a regular file, accepted is a TOML file"
    ]
    assert problems_of(tmp_path / "none.toml") == [
        "none.toml: is not there, accepted is a TOML file"
    ]
    assert problems_of(tmp_path / ("x" * 300)) == [
        f"{'x' * 300}: cannot be read (File name too long)"
    ]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        pytest.param(
            "GATEWAY_HTTP__PORT",
            "abc",
            'http.port: "abc" is a string, accepted is a whole number from 0 to 65535',
            id="word-for-an-integer",
        ),
        pytest.param(
            "GATEWAY_HTTP__PORT",
            "true",
            "http.port: true is a truth value, accepted is a whole number from 0 to 65535",
            id="boolean-for-an-integer",
        ),
        pytest.param(
            "GATEWAY_HTTP__PORT",
            "70000",
            "http.port: 70000 is out of range, accepted is a whole number from 0 to 65535",
            id="out-of-range",
        ),
        pytest.param(
            "GATEWAY_HTPP__PORT",
            "1",
            "htpp.port: unknown variable, did you mean GATEWAY_HTTP__PORT?",
            id="misspelt-table",
        ),
        pytest.param(
            "GATEWAY_AGENTS__MAIN__KNID",
            "1",
            "agents.main.knid: unknown variable, did you mean GATEWAY_AGENTS__MAIN__KIND?",
            id="misspelt-key-of-an-agent",
        ),
        pytest.param(
            "GATEWAY_ZEBRA",
            "1",
            f"zebra: unknown variable, accepted here: {TOP_LEVEL}",
            id="alien",
        ),
        pytest.param(
            "GATEWAY_HTTP__HOST",
            "0.0.0.0",  # noqa: S104 - it is refused
            f"http.host: 0.0.0.0 is not a loopback address, {NEEDS}",
            id="open-to-the-network",
        ),
        pytest.param(
            "GATEWAY_HTTP__PORT__X",
            "1",
            f"http.port.x: {HOLDER}",
            id="too-deep",
        ),
        pytest.param(
            "GATEWAY_HTTP__HOST",
            "\udcff",
            "http.host: is not valid UTF-8, accepted is text in UTF-8",
            id="no-text",
        ),
        pytest.param(
            "GATEWAY_AGENTS__NEW__RESERVE_TOKENS",
            "1",
            "agents.new.kind: is missing, accepted is anthropic, command, echo, openai or scripted",
            id="half-an-agent",
        ),
    ],
)
def test_a_variable_with_a_problem_gets_this_line(
    tmp_path: Path, name: str, text: str, problem: str
) -> None:
    path = tmp_path / "g.toml"
    path.write_text("[http]\nport = 1\n")

    assert problems_of(path, {name: text}) == [f"environment {name}: {problem}"]


def test_a_key_below_one_that_is_no_table_is_told_too(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    path.write_text("http = 1\n")

    assert problems_of(path, {"GATEWAY_HTTP__PORT": "1"}) == [
        "g.toml:1: http: 1 is a whole number, accepted is a table",
        f"environment GATEWAY_HTTP__PORT: http.port: {HOLDER}",
    ]


def test_the_command_line_is_a_place_too(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    path.write_text("")

    assert problems_of(path, {}, {"http.port": -1, "http.prot": "1"}) == [
        "command line: http.port: -1 is out of range, accepted is a whole number from 0 to 65535",
        "command line: http.prot: unknown key, did you mean port?",
    ]


def test_all_problems_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    path.write_text(
        "session_store_max_age_days = true\nzebra = 1\n[log]\nlevel = 'x'\n[http]\nport = -1\n"
        "[[routes]]\nplatform = 'x'\nagent = 'nobody'\n"
    )
    places = [
        problem.split(": ")[:2] for problem in problems_of(path, {"GATEWAY_TURNS__GRACE_S": "x"})
    ]

    assert places == [
        ["g.toml:2", "zebra"],
        ["g.toml:4", "log.level"],
        ["g.toml:6", "http.port"],
        ["g.toml:9", "routes[0].agent"],
        ["environment GATEWAY_TURNS__GRACE_S", "turns.grace_s"],
    ]


def test_an_address_open_to_the_network_is_told_together_with_other_problems(
    tmp_path: Path,
) -> None:
    path = tmp_path / "g.toml"
    path.write_text("zebra = 1\n[http]\nhost = '0.0.0.0'\nport = -1\ntoken = { env = 'T' }\n")
    unknown, host, port = problems_of(path, {"GATEWAY_HTTP__BEHIND_TLS": "true"})

    assert unknown.startswith("g.toml:1: zebra: ")
    assert host.startswith("g.toml:3: http.host: 0.0.0.0 is not a loopback address")
    assert host.endswith("(missing: allowed_hosts)")
    assert port.startswith("g.toml:4: http.port: ")


def test_what_would_be_mended_is_a_warning_beside_the_problems(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    path.write_text("session_store_max_age_days = true\nzebra = 1\n")
    with pytest.raises(ConfigurationError) as caught:
        load(path, {}, {})

    assert len(caught.value.problems) == 1
    (warning,) = caught.value.warnings
    assert warning == (
        f"{path}:1: session_store_max_age_days: true is a truth value, "
        "accepted is a number of days from 0, where 0 keeps sessions for ever"
    )


def test_a_file_of_garbage_is_told_of_in_a_hundred_lines(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    path.write_text("".join(f"key_{number} = 1\n" for number in range(5_000)))
    problems = problems_of(path)

    assert len(problems) == 101
    assert problems[-1] == "... and 4900 problems more"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[http]\ntoken = 'hunter2'", id="string"),
        pytest.param("[http]\ntoken = ['hunter2']", id="list"),
        pytest.param("[http]\ntoken = { value = 'hunter2' }", id="unknown-key"),
        pytest.param("[http]\ntoken = { file = ['hunter2'] }", id="wrong-type-within"),
        pytest.param("[http]\nport = -1\ntoken = 'hunter2' oops", id="syntax"),
        pytest.param("[http]\napi_key = 'hunter2'", id="key-elsewhere"),
        pytest.param("[agents.main]\nkind = 'echo'\napi_key = 'hunter2'", id="wrong-kind"),
        pytest.param("[agents.main]\napi_key = 'hunter2'", id="no-kind"),
        pytest.param(
            "[agents.main]\nkind = 'openai'\nmodel = 'm'\napi_key = 'hunter2'", id="agent"
        ),
    ],
)
def test_a_secret_in_the_file_is_refused_and_never_shown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "g.toml"
    path.write_text(text)

    assert "hunter2" not in "".join(problems_of(path))


@pytest.mark.parametrize("key", ["http.token", "agents.main.api_key"])
def test_an_inline_secret_is_told_where_secrets_belong(tmp_path: Path, key: str) -> None:
    path = tmp_path / "g.toml"
    path.write_text(
        "[agents.main]\nkind = 'openai'\nmodel = 'm'\nbase_url = 'http://127.0.0.1:1/v1'\n"
    )
    name = f"GATEWAY_{key.upper().replace('.', '__')}"

    assert problems_of(path, {name: "hunter2"}) == [
        f"environment {name}: {key}: is a string, accepted is {ACCEPTED_SECRET}"
    ]


def test_an_error_carries_no_input_in_its_chain(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    path.write_text("[http]\ntoken = 'hunter2'")
    with pytest.raises(ConfigurationError) as caught:
        load(path, {}, {})

    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
