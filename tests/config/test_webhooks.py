"""Rules of webhooks, in and out, as files break them: names, addresses, secrets of their own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.config import check_here, load
from gateway.errors import ConfigurationError
from gateway.webhooks.settings import WebhookSettings
from tests.support.webhooks import OTHER_SECRET, SECRET, THIRD_SECRET

SHIPPED = Path(__file__).parents[2] / "config" / "gateway.toml"
HOOK = '[channels.{name}]\nkind = "webhook"\nreplies = false\nsecrets = [{{ env = "{env}" }}]\n'
OUT = (
    '[[webhooks]]\nname = "{name}"\nurl = "https://example.org/in"\nsecret = {{ env = "{env}" }}\n'
)


def hook(name: str, env: str) -> str:
    return HOOK.format(name=name, env=env)


def out(name: str, env: str) -> str:
    return OUT.format(name=name, env=env)


def problems_of(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "g.toml"
    path.write_text(text)
    try:
        loaded = load(path, {}, {})
    except ConfigurationError as error:
        return [one.replace(str(path), "g.toml") for one in error.problems]

    found = check_here(loaded.config, loaded.places)
    return [one.replace(str(path), "g.toml") for one in found]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(
            '[channels.a]\nkind = "webhook"\nreplies = false',
            "g.toml:1: channels.a.secrets: is missing, accepted is a list of tables",
            id="no-secrets",
        ),
        pytest.param(
            '[channels.a]\nkind = "webhook"\nsecrets = []\nreplies = false',
            "g.toml:3: channels.a.secrets: cannot be used, accepted is a list of tables",
            id="empty-secrets",
        ),
        pytest.param(
            '[channels.a]\nkind = "webhook"\nsecrets = [{ env = "A" }]',
            "g.toml:1: channels.a.reply_url: is missing, accepted is one beside the other, or "
            "replies = false",
            id="answers-to-nobody",
        ),
        pytest.param(
            f'{hook("a", "A")}reply_url = "https://example.org/"',
            "g.toml:3: channels.a.replies: is false beside an address of answers",
            id="answers-and-none",
        ),
        pytest.param(
            f'{hook("a", "A")}chat_id = "x"',
            'g.toml:5: channels.a.chat_id: is given, accepted only with format = "event"',
            id="chat-of-messages",
        ),
        pytest.param(
            out("a", "A").replace("https://example", "http://example"),
            "g.toml:3: webhooks[0].url: would be sent in the clear; accepted is https://",
            id="http",
        ),
        pytest.param(
            out("a", "A").replace("https://", "https://user:word@"),
            "g.toml:3: webhooks[0].url: not a usable address",
            id="user-in-the-url",
        ),
        pytest.param(
            out("a", "A") + out("a", "B"),
            "g.toml:6: webhooks[1].name: is taken, accepted is a name of its own for each",
            id="same-name",
        ),
        pytest.param(
            out("a", "A") + 'events = ["session.erased"]',
            'g.toml:5: webhooks[0].events[0]: "session.erased" is unknown',
            id="unknown-event",
        ),
        pytest.param(
            out("a", "A") + "events = []",
            "g.toml:5: webhooks[0].events: cannot be used",
            id="no-events",
        ),
        pytest.param(
            out("A b", "A"), 'g.toml:2: webhooks[0].name: "A b" cannot be used', id="name"
        ),
    ],
)
def test_a_wrong_table_is_told_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    (told,) = problems_of(tmp_path, text)

    assert told.startswith(problem)


@pytest.mark.parametrize("secret", [None, "", " ", "undefined", "null", "changeme"])
@pytest.mark.parametrize("table", [hook("a", "A"), out("a", "A")])
def test_a_secret_that_is_none_is_refused_by_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, secret: str | None
) -> None:
    if secret is not None:
        monkeypatch.setenv("A", secret)

    (told,) = problems_of(tmp_path, table)

    assert "a.secrets[0]: environment variable A" in told or "webhooks[0].secret: env" in told


@pytest.mark.parametrize("secret", ["whsec_null", "a-plain-secret-of-40-characters-or-more-x"])
def test_a_secret_that_cannot_sign_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setenv("A", secret)

    told = problems_of(tmp_path, hook("a", "A"))

    assert len(told) == 1
    assert "accepted is whsec_ and the base64 of 24 to 64 random bytes" in told[0]
    assert secret not in told[0]


@pytest.mark.parametrize(
    ("text", "second", "first"),
    [
        pytest.param(
            hook("a", "A") + hook("b", "A"), "channels.b.secrets[0]", "channels.a.secrets[0]",
            id="two-hooks",
        ),
        pytest.param(
            hook("a", "A") + out("o", "A"), "webhooks[0].secret", "channels.a.secrets[0]",
            id="in-and-out",
        ),
        pytest.param(
            out("o", "A") + out("p", "A"), "webhooks[1].secret", "webhooks[0].secret", id="two-out"
        ),
        pytest.param(
            hook("a", "A").replace("replies = false", 'reply_url = "https://example.org/"')
            + 'reply_secret = { env = "A" }\n',
            "channels.a.reply_secret", "channels.a.secrets[0]",
            id="answers-and-calls",
        ),
        pytest.param(
            hook("a", "A") + '[http]\ntoken = { env = "A" }\n', "channels.a.secrets[0]",
            "http.token",
            id="token-of-the-api",
        ),
        pytest.param(
            hook("a", "A") + '[agents.main]\nkind = "openai"\nmodel = "m"\n'
            'api_key = { env = "A" }\n',
            "channels.a.secrets[0]", "agents.main.api_key",
            id="key-of-an-agent",
        ),
    ],
)  # fmt: skip
def test_one_secret_opens_one_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, second: str, first: str
) -> None:
    monkeypatch.setenv("A", SECRET)

    (told,) = problems_of(tmp_path, text)

    assert f"{second}: is the same secret as {first}, accepted is one of its own for each" in told


def test_secrets_of_their_own_are_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, secret in (("A", SECRET), ("B", OTHER_SECRET), ("C", THIRD_SECRET)):
        monkeypatch.setenv(name, secret)

    assert problems_of(tmp_path, hook("a", "A") + hook("b", "B") + out("o", "C")) == []


def test_the_example_in_the_shipped_file_shows_the_defaults(tmp_path: Path) -> None:
    table = SHIPPED.read_text().partition("#[[webhooks]]")[2].partition("\n\n")[0]
    path = tmp_path / "g.toml"
    path.write_text("[[webhooks]]" + re.sub(r"^#(?=[a-z])", "", table, flags=re.MULTILINE))

    (shown,) = load(path, {}, {}).config.webhooks

    assert shown.model_fields_set == set(WebhookSettings.model_fields)
    assert shown == WebhookSettings(name=shown.name, url=shown.url, secret=shown.secret)
