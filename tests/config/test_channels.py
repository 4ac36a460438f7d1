"""Channels that name each other's things, and tables that name channels there are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.config import GatewayConfig, check_here, doubtful_here, load
from gateway.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

TWO = '[channels.main]\nkind = "loopback"\n[channels.work]\nkind = "loopback"\n'
"""Lines 1 to 4."""
BOT = '[channels.bot]\nkind = "telegram"\ntoken = { env = "A_TOKEN" }\n'
"""Three lines."""
HOST = "[http]\nallowed_hosts = ['x.org']\n"
"""Two lines."""


def problems_of(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "g.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load(path, {}, {})
    return [one.replace(f"{path}:", "") for one in caught.value.problems]


def doubts_of(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "g.toml"
    path.write_text(text)
    return [one.replace(f"{path}:", "") for one in load(path, {}, {}).doubts]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(
            TWO + 'path = "/run/a/../main.sock"\n[channels.more]\nkind = "loopback"\n'
            'path = "/run/main.sock"',
            "8: channels.more.path: is the socket of channels.work, accepted is one for each",
            id="one-path",
        ),
        pytest.param(
            'state_dir = "/srv/s"\n' + TWO + 'path = "/srv/s/main.sock"',
            "6: channels.work.path: is the socket of channels.main, accepted is one for each",
            id="the-path-that-another-has-by-default",
        ),
        pytest.param(
            '[channels.a]\nkind = "loopback"\npath = "state/b.sock"\n'
            '[channels.b]\nkind = "loopback"\n',
            "4: channels.b: is the socket of channels.a, accepted is one for each",
            id="by-default-the-path-of-another",
        ),
        pytest.param(
            BOT + BOT.replace("bot", "again"),
            "6: channels.again.token: is that of channels.bot.token, accepted is one for each",
            id="one-token",
        ),
        pytest.param(
            TWO + '[[routes]]\nplatform = "loopback"\naccount = "wrok"\nagent = "main"',
            '7: routes[0].account: no loopback channel is called "wrok", accepted is one of: main, '
            "work",
            id="route-account",
        ),
        pytest.param(
            TWO + '[[routes]]\naccount = "wrok"\nagent = "main"',
            '6: routes[0].account: no channel is called "wrok", accepted is one of: main, work',
            id="route-account-of-any-platform",
        ),
        pytest.param(
            BOT + TWO + '[[routes]]\nplatform = "telegram"\naccount = "work"\nagent = "main"',
            '10: routes[0].account: no telegram channel is called "work", accepted is one of: bot',
            id="route-account-of-another-platform",
        ),
        pytest.param(
            TWO + '[access.platforms."loopback/wrok"]\nallow_users = ["ann"]',
            '5: access.platforms."loopback/wrok": no loopback channel is called "wrok", accepted '
            "is one of: main, work",
            id="access-account",
        ),
        pytest.param(
            BOT + 'webhook = { url = "https://x.org:444/hooks/bot", secret = { env = "S" } }',
            "4: channels.bot.webhook.url: has port 444, accepted are those that Telegram calls: "
            "443, 80, 88 and 8443",
            id="webhook-port",
        ),
    ],
)
def test_what_can_never_work_is_refused_with_its_place(
    tmp_path: Path, text: str, problem: str
) -> None:
    assert problems_of(tmp_path, text) == [problem]


@pytest.mark.parametrize(
    ("text", "doubt"),
    [
        pytest.param(
            '[[routes]]\nplatform = "matrix"\naccount = "work"\nagent = "main"',
            '3: routes[0].account: there is no channel of "matrix", so this does nothing',
            id="route-platform",
        ),
        pytest.param(
            '[[routes]]\naccount = "work"\nagent = "main"',
            '2: routes[0].account: there is no channel "work", so this does nothing',
            id="route-account",
        ),
        pytest.param(
            TWO + '[access.platforms.telegram]\nallow_users = ["1"]',
            '5: access.platforms.telegram: there is no channel of "telegram", so this does nothing',
            id="access",
        ),
        pytest.param(
            "[processes]\nmax_running_per_session = 9",
            "2: processes.max_running_per_session: is above max_running (8), which counts first, "
            "so this does nothing",
            id="processes",
        ),
        pytest.param(
            HOST + BOT + 'webhook = { url = "https://x.org/bots/bot", secret = { env = "S" } }',
            "6: channels.bot.webhook.url: does not end in /hooks/bot: what stands in front has to "
            "lead there",
            id="webhook",
        ),
        pytest.param(
            BOT + 'webhook = { url = "https://X.org/hooks/bot", secret = { env = "S" } }',
            '4: channels.bot.webhook.url: the host "x.org" is not in http.allowed_hosts: every '
            "call is answered 421, unless the front sends another host",
            id="webhook-host",
        ),
    ],
)
def test_what_may_be_meant_is_a_warning_with_its_place(
    tmp_path: Path, text: str, doubt: str
) -> None:
    assert doubts_of(tmp_path, text) == [doubt]


def test_what_names_channels_there_are_is_neither(tmp_path: Path) -> None:
    text = (
        HOST
        + BOT
        + 'webhook = { url = "https://x.org/hooks/bot", secret = { env = "S" } }\n'
        + TWO
        + '[[routes]]\nplatform = "loopback"\naccount = "work"\nagent = "main"\n'
        '[[routes]]\naccount = "bot"\nagent = "main"\n'
        '[[routes]]\nplatform = "http"\nagent = "main"\n'
        '[[routes]]\nplatform = "openai"\naccount = "a-token"\nagent = "main"\n'
        '[access.platforms."telegram/bot"]\nallow_users = ["1"]\n'
        '[access.platforms."openai/a-token"]\nallow_users = ["1"]\n'
        "[processes]\nmax_running = 1\n"
    )

    assert doubts_of(tmp_path, text) == []


@pytest.mark.parametrize("channel", ["kind = 'telegramm'", "", "kind = 5", "kind = ['telegram']"])
def test_where_a_table_is_of_no_platform_nothing_else_says_which_channels_there_are(
    tmp_path: Path, channel: str
) -> None:
    text = (
        f"[channels.a]\n{channel}\n[channels.b]\nkind = 'loopback'\n"
        "[[routes]]\nplatform = 'telegram'\naccount = 'a'\nagent = 'main'\n"
        "[[sessions.identities]]\nname = 'ann'\nmembers = ['telegram/a/1', 'loopback/b/1']\n"
    )

    (problem,) = problems_of(tmp_path, text)
    assert "channels.a" in problem


def test_a_server_of_ones_own_calls_any_port(tmp_path: Path) -> None:
    text = BOT + (
        'base_url = "https://bots.example.org"\n'
        'webhook = { url = "https://x.org:444/hooks/bot", secret = { env = "S" } }\n'
    )

    assert doubts_of(tmp_path, HOST.replace("x.org", "x.org:444") + text) == []


def test_the_same_rules_hold_of_values_from_a_program() -> None:
    token = {"kind": "telegram", "token": {"env": "A"}}

    with pytest.raises(ConfigurationError, match=r"channels\.b\.token: is that of"):
        GatewayConfig.from_dict({"channels": {"a": token, "b": token}})


def test_a_directory_that_is_not_there_yet_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    path.write_text(f'[channels.a]\nkind = "loopback"\npath = "{tmp_path}/none/a.sock"\n')
    loaded = load(path, {}, {})

    assert check_here(loaded.config, loaded.places) == ()
    (doubt,) = doubtful_here(loaded.config, loaded.places)
    assert doubt == (
        f"{path}:3: channels.a.path: the directory {tmp_path}/none is not there; the channel waits "
        "until it is"
    )
    (tmp_path / "none").mkdir()
    assert doubtful_here(loaded.config, loaded.places) == ()


@pytest.mark.parametrize(
    ("token", "secret", "problem"),
    [
        ("what", "0123456789abcdef01234567", "channels.bot.token: no token of a bot"),
        (
            "1:a",
            "0123456789",
            "channels.bot.webhook.secret: cannot be used, accepted are 24 to 256",
        ),
        (
            "1:a",
            "changeme",
            "channels.bot.webhook.secret: environment variable S is blank or holds",
        ),
        ("1:a", " ", "channels.bot.webhook.secret: environment variable S is blank or holds"),
        ("1:a", None, "channels.bot.webhook.secret: environment variable S is not there"),
    ],
)
def test_secrets_that_a_bot_cannot_have_are_told_before_the_start(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: str,
    secret: str | None,
    problem: str,
) -> None:
    path = tmp_path / "g.toml"
    hook = 'webhook = { url = "https://x.org/hooks/bot", secret = { env = "S" } }\n'
    path.write_text(BOT + hook)
    monkeypatch.setenv("A_TOKEN", token)
    if secret is not None:
        monkeypatch.setenv("S", secret)
    loaded = load(path, {}, {})

    (told,) = check_here(loaded.config, loaded.places)
    assert told.partition(": ")[2].startswith(problem)
    assert "0123456789" not in told
