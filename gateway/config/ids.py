"""The rule between ids and their platforms: one in none of the platform's forms never matches."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from gateway.config.channels import PLATFORMS, accounts_of
from gateway.config.keys import KeyPath, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_FORMS: Final[Mapping[tuple[str, str], tuple[re.Pattern[str], str]]] = {
    ("telegram", "user"): (re.compile(r"[0-9]+"), "a number such as 12345, not a name"),
    ("telegram", "chat"): (re.compile(r"-?[0-9]+"), "a number such as -100123, not a name"),
    ("matrix", "user"): (re.compile(r"@[^:]*:.+"), "one such as @anna:example.org"),
    ("matrix", "chat"): (re.compile(r"!.+"), "one such as !room:example.org, not an alias"),
}
"""By platform, whose id it is: the form of all ids there, and what is accepted in words."""


def unmatchable_ids(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Yield each id that nobody and nothing on its platform can have.

    Takes values as they are in the file: what has a wrong type is another check's affair.
    """
    for path, platform, whose, value in _ids(data):
        form = _FORMS.get((platform, whose))
        if form and isinstance(value, str) and value != "*" and not form[0].fullmatch(value):
            yield path, f"{quoted(value)} is no {whose} id of {platform}, accepted is {form[1]}"


def _ids(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str, str, object]]:
    """Yield the key of each id, its platform, whether it is a user's or a chat's, and the id."""
    access = _table(data, "access")
    for index, admin in enumerate(_list(access, "admins")):
        platform, _, user = str(admin).partition(":")
        yield ("access", "admins", index), platform, "user", user
    for name, rules in _table(access, "platforms").items():
        for key, whose in (("allow_users", "user"), ("allow_chats", "chat")):
            for index, value in enumerate(_list(rules, key)):
                allowed: KeyPath = ("access", "platforms", str(name), key, index)
                yield allowed, str(name).partition("/")[0], whose, value
    for index, one in enumerate(_list(_table(data, "sessions"), "identities")):
        for place, member in enumerate(_list(one, "members")):
            platform, _, rest = str(member).partition("/")
            linked: KeyPath = ("sessions", "identities", index, "members", place)
            yield linked, platform, "user", rest.partition("/")[2]
    for index, route in enumerate(_list(data, "routes")):
        for whose in ("user", "chat"):
            if isinstance(route, dict) and f"{whose}_id" in route:
                routed: KeyPath = ("routes", index, f"{whose}_id")
                yield routed, _platform(route, data), whose, route[f"{whose}_id"]


def _platform(route: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """Return the platform that a route is of; empty where it is of several."""
    account = route.get("account")
    if "platform" in route or not isinstance(account, str):
        return str(route.get("platform", ""))

    found = [one for one in PLATFORMS if account in accounts_of(data, one)]
    return found[0] if len(found) == 1 else ""


def _table(value: object, key: str) -> Mapping[str, Any]:
    held = value.get(key) if isinstance(value, dict) else None
    return held if isinstance(held, dict) else {}


def _list(value: object, key: str) -> list[Any]:
    held = value.get(key) if isinstance(value, dict) else None
    return held if isinstance(held, list) else []
