"""What a configuration names must be there on this machine."""

from __future__ import annotations

import grp
from typing import TYPE_CHECKING

from gateway.config import check_here, load

if TYPE_CHECKING:
    from pathlib import Path


def test_a_group_that_is_not_there_and_a_secret_are_told_by_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(
        "[store]\n\ndashboard_group = 'no-such-group'\n[http]\ntoken = { file = '/no/such' }\n"
    )
    loaded = load(path, {}, {})

    group, token = check_here(loaded.config, loaded.places)
    assert group == (
        f'{path}:3: store.dashboard_group: this machine has no group "no-such-group", '
        "accepted is one that it has"
    )
    assert token.startswith(f"{path}:5: http.token: ")


def test_a_group_that_is_there_and_no_group_are_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    for name in ("", grp.getgrall()[0].gr_name):
        path.write_text(f"store.dashboard_group = '{name}'\n")
        loaded = load(path, {}, {})

        assert check_here(loaded.config, loaded.places) == ()
