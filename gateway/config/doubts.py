"""Entries that do nothing as things are, though they may be meant: told as warnings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from gateway.config.channels import OF_THE_API, accounts_of
from gateway.config.keys import KeyPath, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MATCHED: Final = ("platform", "account", "chat_type", "chat_id", "user_id")


def idle_entries(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Yield each entry that does nothing, of values that are right otherwise."""
    yield from _idle_admins(data)
    yield from _lone_members(data)
    yield from _shadowed_routes(data)


def _idle_admins(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    for index, admin in enumerate(data.get("access", {}).get("admins", ())):
        platform = admin.partition(":")[0]
        if platform not in OF_THE_API and not accounts_of(data, platform):
            text = f"there is no channel of {quoted(platform)}, so this does nothing"
            yield ("access", "admins", index), text


def _lone_members(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    for index, one in enumerate(data.get("sessions", {}).get("identities", ())):
        if len(one["members"]) == 1:
            text = "names one member, who is linked to nobody by it"
            yield ("sessions", "identities", index, "members"), text


def _shadowed_routes(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Yield each route whose every message an earlier one matches."""
    earlier: list[dict[str, object]] = []
    for index, route in enumerate(data.get("routes", ())):
        wanted = {key: route[key] for key in _MATCHED if route.get(key) is not None}
        for number, one in enumerate(earlier):
            if one.items() <= wanted.items():
                text = f"routes[{number}] matches all of this before, so this does nothing"
                yield ("routes", index), text
                break
        earlier.append(wanted)
