"""Laws of the settings of channels and of delivery, as files give them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.channels.matrix.settings import MatrixSettings
from gateway.channels.settings import ChannelSettings, LoopbackSettings
from gateway.channels.telegram.settings import TelegramSettings
from gateway.channels.webhook.settings import WebhookChannelSettings
from gateway.config import GatewayConfig, load
from gateway.errors import ConfigurationError

SHIPPED = Path(__file__).parents[2] / "config" / "gateway.toml"


def test_without_a_table_there_is_no_channel() -> None:
    assert GatewayConfig().channels == {}


def test_a_table_makes_a_channel_of_its_name(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text('[channels.bridge]\nkind = "loopback"\n[channels.cron]\nkind = "loopback"\n')

    channels = load(path, {}, {}).config.channels

    assert channels == {name: LoopbackSettings(kind="loopback") for name in ("bridge", "cron")}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(
            "[channels.a]",
            "1: channels.a.kind: is missing, accepted is loopback, matrix, telegram or webhook",
            id="no-kind",
        ),
        pytest.param(
            '[channels.a]\nkind = "fax"',
            '2: channels.a.kind: "fax" is unknown, accepted is loopback, matrix, telegram or '
            "webhook",
            id="unknown-kind",
        ),
        pytest.param(
            '[channels."A b"]\nkind = "loopback"',
            '1: channels."A b": is not a name for this, accepted is a name of 1 to 32 characters '
            "a-z 0-9 _ - that begins with a-z or 0-9",
            id="name",
        ),
        pytest.param(
            '[channels.a]\nkind = "loopback"\npaht = "x"',
            "3: channels.a.paht: unknown key, did you mean path?",
            id="unknown-key",
        ),
        pytest.param(
            '[channels.a]\nkind = "loopback"\nmax_text_chars = 10',
            "3: channels.a.max_text_chars: 10 is out of range, "
            "accepted is a whole number from 256 to 10000000",
            id="too-short-texts",
        ),
        pytest.param(
            '[channels.a]\nkind = "matrix"\ntoken = { env = "A" }',
            "1: channels.a.homeserver: is missing, accepted is an address such as "
            "https://matrix.example.org",
            id="matrix-without-a-homeserver",
        ),
        pytest.param(
            '[channels.a]\nkind = "matrix"\ntoken = { env = "A" }\n'
            'homeserver = "http://matrix.example.org"',
            "4: channels.a.homeserver: would send the token in the clear; accepted is https://, or "
            "http:// on this machine, such as https://matrix.example.org",
            id="matrix-http",
        ),
        pytest.param(
            '[channels.a]\nkind = "matrix"\ntoken = { env = "A" }\n'
            'homeserver = "https://matrix.example.org/_matrix/"',
            "4: channels.a.homeserver: names the paths of the API, accepted is what stands before "
            "them: https://matrix.example.org",
            id="matrix-path",
        ),
        pytest.param(
            '[channels.a]\nkind = "matrix"\ntoken = { env = "A" }\n'
            'homeserver = "https://matrix.example.org"\njoin = ["*.example.org"]',
            "5: channels.a.join: names nobody whose invitations could be accepted; accepted are "
            "users such as @anna:example.org, homeservers such as example.org, and *",
            id="matrix-join",
        ),
        pytest.param(
            '[channels.a]\nkind = "telegram"',
            "1: channels.a.token: is missing, accepted is a table { file = ... }, { env = ... } or "
            "{ credential = ... }, never the secret itself",
            id="telegram-without-a-token",
        ),
        pytest.param(
            '[channels.a]\nkind = "telegram"\ntoken = { env = "A" }\n'
            'base_url = "http://api.example.org"',
            "4: channels.a.base_url: would send the token in the clear; accepted is https://, or "
            "http:// on this machine, such as https://api.telegram.org",
            id="telegram-http",
        ),
        pytest.param(
            '[channels.a]\nkind = "telegram"\ntoken = { env = "A" }\n'
            'webhook = { url = "http://chat.example.org/hooks/a", secret = { env = "B" } }',
            "4: channels.a.webhook.url: would be called in the clear; accepted is https://, or "
            "http:// on this machine with a Bot API of your own, such as "
            "https://chat.example.org/hooks/NAME",
            id="telegram-webhook-http",
        ),
        pytest.param(
            '[channels.a]\nkind = "telegram"\ntoken = { env = "A" }\n'
            'webhook = { url = "https://a:b@chat.example.org", secret = { env = "B" } }',
            "4: channels.a.webhook.url: not a usable address; accepted is http:// or https://, a "
            "host, a port if any and a path, without user, query and fragment, such as "
            "https://chat.example.org/hooks/NAME",
            id="telegram-webhook-user",
        ),
        pytest.param(
            '[channels.a]\nkind = "telegram"\ntoken = { env = "A" }\n'
            'webhook = { url = "https://chat.example.org/hooks/a" }',
            "4: channels.a.webhook.secret: is missing, accepted is a table { file = ... }, "
            "{ env = ... } or { credential = ... }, never the secret itself",
            id="telegram-webhook-without-a-secret",
        ),
        pytest.param(
            '[delivery]\nlate = "never"',
            '2: delivery.late: "never" is unknown, accepted is note or drop',
            id="late",
        ),
        pytest.param(
            "[delivery]\nttl_s = 0",
            "2: delivery.ttl_s: 0 is out of range, accepted is a number above 0, at most 2592000",
            id="ttl",
        ),
    ],
)
def test_a_wrong_table_is_told_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(text)

    with pytest.raises(ConfigurationError) as caught:
        load(path, {}, {})

    assert [one.replace(f"{path}:", "") for one in caught.value.problems] == [problem]


def example(tmp_path: Path, name: str) -> ChannelSettings:
    table = SHIPPED.read_text().partition(f"#[channels.{name}]")[2].partition("\n\n")[0]
    path = tmp_path / "gateway.toml"
    path.write_text(f"[channels.{name}]" + re.sub(r"^#(?=[a-z])", "", table, flags=re.MULTILINE))
    return load(path, {}, {}).config.channels[name]


def test_the_matrix_example_in_the_shipped_file_shows_the_defaults(tmp_path: Path) -> None:
    matrix = example(tmp_path, "matrix")

    assert isinstance(matrix, MatrixSettings)
    assert matrix.model_fields_set == set(MatrixSettings.model_fields)
    assert matrix == MatrixSettings(
        kind="matrix", homeserver="https://matrix.example.org", token=matrix.token
    )


def test_the_telegram_example_in_the_shipped_file_shows_the_defaults(tmp_path: Path) -> None:
    telegram = example(tmp_path, "my_bot")

    assert isinstance(telegram, TelegramSettings)
    assert telegram.model_fields_set == set(TelegramSettings.model_fields)
    assert telegram.webhook is not None
    assert telegram.webhook.url == "https://chat.example.org/hooks/my_bot"
    shown = telegram.model_copy(update={"webhook": None})
    assert shown == TelegramSettings(kind="telegram", token=telegram.token)


def test_the_example_in_the_shipped_file_shows_the_defaults(tmp_path: Path) -> None:
    loopback = example(tmp_path, "loopback")

    assert loopback.model_fields_set == set(LoopbackSettings.model_fields)
    assert loopback.model_copy(update={"path": None}) == LoopbackSettings(kind="loopback")


def test_the_webhook_example_in_the_shipped_file_shows_the_defaults(tmp_path: Path) -> None:
    webhook = example(tmp_path, "webhook")

    assert isinstance(webhook, WebhookChannelSettings)
    assert webhook.model_fields_set == set(WebhookChannelSettings.model_fields)
    assert webhook == WebhookChannelSettings(
        kind="webhook",
        secrets=webhook.secrets,
        reply_url=webhook.reply_url,
        reply_secret=webhook.reply_secret,
    )
