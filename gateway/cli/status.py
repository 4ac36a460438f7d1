"""`gateway status`: how the gateway of a state directory fares."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from gateway.cli.options import ConfigOption, JsonOption, StateDirOption, Where
from gateway.cli.output import flat_facts, local_time, reporting
from gateway.errors import ConfigurationError
from gateway.model import clean_text

if TYPE_CHECKING:
    from gateway.cli.client import Api, Found

_FILES: Final = ("sessions.json", "gateway.db")
_NAMED_BY: Final = {
    "tools": ("server",),
    "channels": ("platform", "account"),
    "webhooks": ("webhook",),
}
"""Lists of parts, and what names one."""
_BROKEN: Final = frozenset({"backing_off", "disabled", "stopped"})
"""States of parts that do nothing."""


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
        running = found.holder is not None
        note = ""
        try:
            facts = call(where, _ask, offline=False) if running else _files(found)
        except ConfigurationError as exc:
            # Without the token there is still what the lock file says.
            facts, note = _from_lock(found), f"no more without the token: {exc}"
        facts = {"running": running, **facts}
        if as_json:
            screen.document(facts | ({"note": note} if note else {}))
            return

        screen.facts(flat_facts(_by_name(facts)))
        if note:
            screen.note(f"gateway: {note}")


async def _ask(api: Api) -> dict[str, Any]:
    facts: dict[str, Any] = await api.get("/v1/status")
    return facts


def _by_name(facts: dict[str, Any]) -> dict[str, Any]:
    """Return facts whose lists of parts are tables by name, so that each part has its rows.

    Those that are broken come first.
    """
    named = {}
    for table, names in _NAMED_BY.items():
        parts = facts.get(table)
        if isinstance(parts, list):
            rows = {
                "/".join(str(one[name]) for name in names): {
                    key: local_time(value) if key == "since" else value
                    for key, value in one.items()
                    if key not in names
                }
                for one in sorted(parts, key=lambda one: one.get("state") not in _BROKEN)
            }
            named[table] = rows or "none"
    return facts | named


def _from_lock(found: Found) -> dict[str, Any]:
    """Return what the lock file says of the daemon."""
    holder = asdict(found.holder) if found.holder else {}
    return {"state_dir": clean_text(str(found.state_dir)), **holder}


def _files(found: Found) -> dict[str, Any]:
    """Return what a state directory tells without a daemon."""
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
