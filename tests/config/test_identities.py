"""People who are the same on several platforms, as files name them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.config import load
from gateway.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

CHANNELS = '[channels.main]\nkind = "loopback"\n[channels.work]\nkind = "loopback"\n'
"""Lines 1 to 4."""


def written(tmp_path: Path, *tables: str) -> Path:
    path = tmp_path / "g.toml"
    path.write_text(CHANNELS + "".join(f"[[sessions.identities]]\n{table}\n" for table in tables))
    return path


def test_a_person_has_members(tmp_path: Path) -> None:
    anna = 'name = "anna"\nmembers = ["loopback/main/12", "loopback/work/@anna:x.org/y"]'
    config = load(written(tmp_path, anna), {}, {}).config

    (found,) = config.sessions.identities
    assert found.members == ["loopback/main/12", "loopback/work/@anna:x.org/y"]


@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        pytest.param(
            ['name = "a"\nmembers = ["openai/alice/alice"]'],
            "7: sessions.identities[0].members[0]: is a token of the API: its clients name their "
            "sessions, which stay in their own token's name space; accepted are users of channels",
            id="token",
        ),
        pytest.param(
            ['name = "a"\nmembers = ["loopback/main/1", "loopback/main/1"]'],
            "7: sessions.identities[0].members[1]: is named twice, accepted is each member in one "
            "place",
            id="twice-in-one",
        ),
        pytest.param(
            [
                'name = "a"\nmembers = ["loopback/main/1"]',
                'name = "b"\nmembers = ["loopback/main/1"]',
            ],
            "10: sessions.identities[1].members[0]: is named twice, accepted is each member in one "
            "place",
            id="in-two",
        ),
        pytest.param(
            [
                'name = "a"\nmembers = ["loopback/main/1"]',
                'name = "a"\nmembers = ["loopback/main/2"]',
            ],
            '9: sessions.identities[1].name: "a" is a second table of this name, accepted is one '
            "for each",
            id="name-twice",
        ),
        pytest.param(
            ['name = "a"\nmembers = ["loopback/main/1", "telegram/main/1"]'],
            '7: sessions.identities[0].members[1]: there is no channel "telegram/main", accepted '
            "is one of: loopback/main, loopback/work",
            id="another-platform",
        ),
        pytest.param(
            ['name = "a"\nmembers = ["loopback/home/1"]'],
            '7: sessions.identities[0].members[0]: there is no channel "loopback/home", accepted '
            "is one of: loopback/main, loopback/work",
            id="unknown-account",
        ),
        pytest.param(
            ['name = "A b"\nmembers = ["loopback/main/1"]'],
            '6: sessions.identities[0].name: "A b" cannot be used, accepted is a name of 1 to 64 '
            "characters a-z 0-9 _ . - that begins with a-z or 0-9",
            id="name",
        ),
    ],
)
def test_a_wrong_identity_is_told_with_its_line(
    tmp_path: Path, tables: list[str], problem: str
) -> None:
    path = written(tmp_path, *tables)

    with pytest.raises(ConfigurationError) as caught:
        load(path, {}, {})

    assert [one.replace(f"{path}:", "") for one in caught.value.problems] == [problem]


@pytest.mark.parametrize(
    "member",
    [
        *("", "/", "//", "loopback/main/", "loopback//1", "/main/1", "loopback/main", "main/1"),
        *("loopback/main/ 1", "loopback/main/*", "loopback/main/null", "loopback/main/a\\u0007b"),
        "LOOPBACK/main/1",
    ],
)
def test_a_member_has_three_parts_and_none_is_empty(tmp_path: Path, member: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(written(tmp_path, f'name = "a"\nmembers = ["{member}"]'), {}, {})

    (problem,) = caught.value.problems
    assert ":7: sessions.identities[0].members[0]: " in problem
    assert "accepted is platform/account/user id" in problem


def test_a_person_without_members_is_nobody(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(written(tmp_path, 'name = "a"\nmembers = []'), {}, {})

    assert "at least 1" in str(caught.value)
