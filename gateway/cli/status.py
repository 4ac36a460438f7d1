"""`gateway status`: how the gateway of a state directory fares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from gateway.cli.options import ConfigOption, JsonOption, StateDirOption, Where
from gateway.cli.output import flat_facts, reporting

if TYPE_CHECKING:
    from gateway.cli.client import Api, Found

_FILES: Final = ("sessions.json", "gateway.db")


def status(
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show whether the gateway runs, and how it is."""
    with reporting(as_json=as_json) as screen:
        from gateway.cli.client import call, find

        where = Where(config, state_dir)
        found = find(where)
        facts = _files(found) if found.holder is None else call(where, _ask, offline=False)
        facts = {"running": found.holder is not None, **facts}
        if as_json:
            screen.document(facts)
        else:
            screen.facts(flat_facts(facts))


async def _ask(api: Api) -> dict[str, Any]:
    facts: dict[str, Any] = await api.get("/v1/status")
    return facts


def _files(found: Found) -> dict[str, Any]:
    """Return what a state directory tells without a daemon."""
    from gateway.model import clean_text

    sizes: dict[str, int] = {}
    for name in _FILES:
        path = found.state_dir / name
        if path.is_file():
            sizes[name] = path.stat().st_size
    exists = found.state_dir.is_dir()
    return {
        "state_dir": clean_text(str(found.state_dir)),
        "state_dir_exists": exists,
        "file_bytes": sizes,
    }
