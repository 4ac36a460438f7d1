"""A session id belongs to one key: two that shared one would read each other's transcript."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.sessions.entry import entry_to_dict
from tests.support.state import entry, import_file, key_of, open_state, resolve

if TYPE_CHECKING:
    from pathlib import Path


def _file(*entries: dict[str, object]) -> dict[str, object]:
    return {"version": 1, "sessions": {str(one["session_key"]): one for one in entries}}


async def test_the_second_use_of_a_session_id_in_an_import_is_set_aside(tmp_path: Path) -> None:
    alice, bob = entry_to_dict(entry("alice")), entry_to_dict(entry("bob"))
    path = import_file(tmp_path / "state", _file(alice, bob | {"session_id": alice["session_id"]}))
    async with open_state(path) as state:
        assert state.store.get(key_of("alice")) == entry("alice")
        assert state.store.get(key_of("bob")) is None
        assert state.store.statistics().quarantined == 1

    (aside,) = (path / "quarantine").glob("*entries.jsonl")
    assert "session_id: accepted is one that no other session has" in aside.read_text()


async def test_an_edited_file_cannot_take_a_session_id_that_another_key_had(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state"
    async with open_state(path) as state:
        taken = (await resolve(state.store, "alice")).entry.session_id
        sequence = state.store.statistics().sequence
    edited = _file(entry_to_dict(entry("bob")) | {"session_id": taken}) | {"sequence": sequence}
    import_file(path, edited)
    async with open_state(path) as state:
        assert len(state.store) == 0
        assert state.store.statistics().quarantined == 1
