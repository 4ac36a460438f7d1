"""The file that says how far an account has read on Matrix."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import orjson
import pytest

from gateway.channels.base import ChannelError
from gateway.channels.matrix.place import Place, Room, place_path, read_place, write_place
from gateway.clock import FakeClock
from gateway.upkeep.backup import back_up
from gateway.upkeep.salvage import salvage
from tests.support.disk import small_disk
from tests.support.upkeep import used_state

if TYPE_CHECKING:
    from pathlib import Path

PLACE = Place(
    "@gateway:matrix.test",
    "s1",
    {"!a": Room(2, "plans", encrypted=True, unread_since="s0"), "!b": Room()},
    {"!c": "@bob:matrix.test"},
)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = place_path(tmp_path, "work")
    write_place(path, Place("@a:b", "s0"))
    write_place(path, PLACE)

    assert read_place(path) == PLACE
    assert path.name == "work.matrix.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_where_nothing_was_written_there_is_none(tmp_path: Path) -> None:
    assert read_place(place_path(tmp_path, "work")) is None


WRITTEN = {"version": 1, "user_id": "@a:b", "since": "s1", "rooms": {}}


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff", id="no-text"),
        pytest.param(b"[1]", id="list"),
        pytest.param(orjson.dumps({**WRITTEN, "version": 2}), id="later-version"),
        pytest.param(orjson.dumps({**WRITTEN, "since": None}), id="no-place"),
        pytest.param(orjson.dumps({**WRITTEN, "since": ""}), id="blank-place"),
        pytest.param(orjson.dumps({**WRITTEN, "user_id": 7}), id="no-user"),
        pytest.param(orjson.dumps({**WRITTEN, "invitations": {"!a": 7}}), id="no-inviter"),
        pytest.param(orjson.dumps({**WRITTEN, "invitations": []}), id="no-invitations"),
        pytest.param(orjson.dumps({**WRITTEN, "rooms": []}), id="no-rooms"),
        pytest.param(
            orjson.dumps(
                {**WRITTEN, "rooms": {"!a": {"members": "2", "name": "", "encrypted": False}}}
            ),
            id="no-number",
        ),
        pytest.param(
            orjson.dumps(
                {**WRITTEN, "rooms": {"!a": {"members": 2, "name": "", "encrypted": None}}}
            ),
            id="no-truth",
        ),
    ],
)
def test_what_cannot_be_read_is_no_first_start(tmp_path: Path, said: bytes) -> None:
    path = place_path(tmp_path, "work")
    path.write_bytes(said)

    with pytest.raises(ChannelError) as caught:
        read_place(path)

    assert str(path) in str(caught.value)
    assert path.read_bytes() == said


def test_a_full_disk_leaves_the_place_before(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as directory:
        path = place_path(directory, "work")
        write_place(path, PLACE)
        large = Place("@a:b", "s2", rooms={f"!{number}": Room() for number in range(50_000)})
        with pytest.raises(ChannelError):
            write_place(path, large)

        assert read_place(path) == PLACE


def test_a_file_of_before_its_later_keys_is_read(tmp_path: Path) -> None:
    path = place_path(tmp_path, "work")
    room = {"members": 2, "name": "", "encrypted": False}
    path.write_bytes(orjson.dumps({**WRITTEN, "direct": ["!a"], "rooms": {"!a": room}}))

    assert read_place(path) == Place("@a:b", "s1", {"!a": Room(2)})


async def test_a_backup_and_a_salvage_hold_it(tmp_path: Path) -> None:
    state = await used_state(tmp_path / "state")
    write_place(place_path(state, "work"), PLACE)
    back_up(state, tmp_path / "copy", FakeClock())
    await salvage(state, tmp_path / "saved", FakeClock())

    for one in ("copy", "saved"):
        assert read_place(place_path(tmp_path / one, "work")) == PLACE
