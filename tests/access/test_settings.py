"""Laws of the lists: what cannot be an id is refused with its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.access.settings import AccessSettings, usable_id
from gateway.config import GatewayConfig, changed_live, load
from gateway.errors import ConfigurationError
from tests.access.people import settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("line", "said"),
    [
        pytest.param('allow_users = [""]', "allow_users[0]: is blank", id="empty"),
        pytest.param('allow_users = ["1", " "]', "allow_users[1]: is blank", id="space"),
        pytest.param('allow_users = ["undefined"]', "'undefined' stands for", id="undefined"),
        pytest.param('allow_users = ["NULL"]', "'NULL' stands for", id="null"),
        pytest.param('allow_users = ["None"]', "'None' stands for", id="none"),
        pytest.param('allow_users = ["1\\u0000"]', "holds control", id="nul"),
        pytest.param('allow_users = ["1\\n2"]', "holds control", id="newline"),
        pytest.param('allow_users = ["1\\u200b2"]', "holds control or invisible", id="zero-width"),
        pytest.param('allow_users = ["a\\ufffd"]', "holds control", id="replacement"),
        pytest.param('allow_users = ["1 "]', "begins or ends with white space", id="space-after"),
        pytest.param(f'allow_users = ["{"x" * 513}"]', "more than 512", id="long"),
        pytest.param("allow_users = [12345]", "12345 is a whole number", id="number"),
        pytest.param('allow_users = "12345"', "is a string, accepted is a list", id="no-list"),
        pytest.param('allow_chats = ["*"]', '"*" is no chat', id="every-chat"),
        pytest.param('allow_chats = ["null"]', "'null' stands for", id="null-chat"),
        pytest.param(
            'unknown = "ask"', '"ask" is unknown, accepted is ignore, pair or refuse', id="unknown"
        ),
        pytest.param("allow_user = []", "did you mean allow_users?", id="key"),
    ],
)
def test_what_is_no_id_is_refused_with_its_place(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(f"[access.platforms.telegram]\n{line}\n")

    with pytest.raises(ConfigurationError) as refused:
        load(file, {}, {})

    (problem,) = refused.value.problems
    assert problem.startswith(f"{file}:2: access.platforms.telegram.")
    assert said in problem


@pytest.mark.parametrize(
    "admin",
    [
        *("", "ann", ":ann", "telegram:", "telegram: ", "telegram:*", "*:1", "Telegram:1"),
        *("telegram/bot:1", "tele gram:1", "telegram:null", "telegram:1\u0007", " telegram:1"),
    ],
)
def test_an_admin_is_one_user_of_one_platform(tmp_path: Path, admin: str) -> None:
    escaped = admin.encode("unicode_escape").decode().replace("\\x", "\\u00")
    file = tmp_path / "gateway.toml"
    file.write_text(f'[access]\nadmins = ["http:ann", "{escaped}"]\n')

    with pytest.raises(ConfigurationError) as refused:
        load(file, {}, {})

    (problem,) = refused.value.problems
    assert problem.startswith(f"{file}:2: access.admins[1]: ")
    assert "accepted is" in problem


@pytest.mark.parametrize("name", ["", "Telegram", "tele gram", "telegram/", "/bot", "a/b/c", "*"])
def test_a_table_is_named_after_a_platform_or_an_account(name: str) -> None:
    with pytest.raises(ConfigurationError, match="accepted is a platform such as telegram"):
        GatewayConfig.from_dict({"access": {"platforms": {name: {}}}})


def test_ids_with_colons_and_accents_are_ids() -> None:
    made = settings(admins=["matrix:@ann:example.org"], telegram={"allow_users": ["cafe\u0301"]})

    assert made.is_admin("matrix", "@ann:example.org")
    assert not made.is_admin("matrix:@ann", "example.org")
    assert made.platforms["telegram"].allow_users == ["caf\u00e9"]


def test_the_table_of_an_account_counts_alone() -> None:
    made = AccessSettings.model_validate(
        {"platforms": {"telegram": {"allow_users": ["1"]}, "telegram/bot": {"allow_users": ["2"]}}}
    )

    assert made.rules("telegram", "bot").allow_users == ["2"]
    assert made.rules("telegram", "other").allow_users == ["1"]
    assert made.rules("telegram", "").allow_users == ["1"]
    assert made.rules("telegram/bot", "").allow_users == []


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param(" \u3000", id="blank"),
        pytest.param("a\0", id="nul"),
        pytest.param("a\x1b[0m", id="escape"),
        pytest.param("a\u2028", id="line-separator"),
        pytest.param("\ud800", id="surrogate"),
        pytest.param("\ufffd", id="replacement"),
        pytest.param("x" * 513, id="long"),
    ],
)
def test_what_can_never_match_is_empty(text: str) -> None:
    assert usable_id(text) == ""


def test_the_lists_apply_to_a_running_daemon() -> None:
    new = GatewayConfig.from_dict({"access": {"admins": ["http:ann"]}})

    assert changed_live(GatewayConfig(), new) == (("access.admins",), ())
